"""What a gradient function is, what it returns, and what it tells of itself."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from funcprop.layer import Context, Params


class Aux(NamedTuple):
    """What a gradient function tells beside the value, under `has_aux`.

    prediction  the model's output; () where the objective is a single layer
    statistics  what the model observed on the way, `model.statistics(residuals)`: () where there is
                none

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.backprop(model, fp.SoftmaxCrossEntropy(), has_aux=True)
    >>> (value, aux), grads = gradient(params, (x, y))
    >>> aux.prediction.shape, aux.statistics
    ((4, 2), ())
    """

    prediction: Any  # the model's output; () where the objective is a single layer
    statistics: Any  # what the model observed on the way, or ()


class GradientFunction(Protocol):
    """(params, batch, context) -> value, grads: what `backprop` and `jax.value_and_grad` make, and
    `train_step` takes. Pure, so that another one is made around it.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> def halved(gradient: fp.training.GradientFunction) -> fp.training.GradientFunction:
    ...     def half(params, batch, context=fp.Context()):
    ...         value, grads = gradient(params, batch, context)
    ...         return value, jax.tree.map(lambda leaf: leaf / 2, grads)
    ...     return half
    >>> model, x = fp.Dense(2), jnp.ones((4, 3))
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.backprop(model, fp.MeanSquaredError())
    >>> value, grads = halved(gradient)(params, (x, jnp.zeros((4, 2))))
    >>> grads.w.shape, grads.b.shape
    ((3, 2), (2,))
    """

    def __call__(self, params: Params, batch: Any, /, context: Context = Context()) -> Any:
        """The value and its gradient at `params`.

        params   a pytree of arrays
        batch    (x, target), (x, target, mask), or what the objective reads
        context  key and mask

        -> value, grads: a scalar, or (scalar, Aux) under `has_aux`, and a tree like params with
        None at what is frozen. What comes after them is named in the function's `extra`, as
        `with_factors` names its factors, and handed to optax by that name

        A function whose gradient is no mean over the examples says so in its `reduction`: "sum", or
        a word that `accumulate` refuses.
        """
        ...


def told(gradient: Any, name: str, default: Any) -> Any:
    """What a gradient function says of itself, also from inside of `jax.jit`, `jax.value_and_grad`,
    `functools.partial` and whatever keeps it in `__wrapped__`."""
    while gradient is not None:
        found = getattr(gradient, name, None)
        if found is not None:
            return found
        gradient = getattr(gradient, "__wrapped__", None) or getattr(gradient, "func", None)
    return default
