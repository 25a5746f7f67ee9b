"""TrainState: everything that training carries from step to step, as one immutable value."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcprop.doors import door
from funcprop.layer import Array, Context, Layer, Params, is_float, spell
from funcprop.training.stacks import check_stacks


class TrainState(NamedTuple):
    """What a step takes and returns; nothing else is carried. An immutable pytree.

    params      the model's, of any shapes and dtypes
    opt_state   of the optax optimizer, for the trainable parameters; under `update_step` a tuple,
                one state a layer
    statistics  running averages of what the model observed, or (); NaN before the first step
    key         [], a key of `jax.random.key`
    step        int32 []

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> state = fp.init_state(fp.Dense(3), optax.sgd(0.1), jax.random.key(0), x)
    >>> jax.tree.map(jnp.shape, state.params), int(state.step)
    (Affine(w=(2, 3), b=(3,)), 0)
    >>> state._replace(step=jnp.int32(7)).step.dtype  # an immutable value: change a copy
    dtype('int32')
    """

    params: Params
    opt_state: Any  # of the optax optimizer, for the trainable parameters
    statistics: Any  # running averages of what the model observed, or ()
    key: Array  # never changes: the step's own key is folded from it and `step`
    step: Array  # int32 []: how many steps were taken


@door
def init_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: Array,
    x: Any,
    params: Params | None = None,
) -> TrainState:
    """The state before the first step.

    model      the model, or a whole objective (then x is a batch)
    optimizer  of optax; its state is made for the parameters that have a gradient
    key        draws the parameters, and what the steps draw
    x          an example of the input, as arrays or ShapeDtypeStructs; params get its dtype
    params     parameters to start from; new ones are drawn where there are none

    raises  LayerError where the model does not accept x, ValueError where the gradient of a
            parameter has another tree, shape or dtype than the parameter, or the optimizer treats
            the stacked layers of a `Repeat` otherwise than each of them (`per_layer`)

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x = jax.ShapeDtypeStruct((4, 2), jnp.float32)
    >>> state = fp.init_state(model, optax.adam(1e-3), jax.random.key(0), x)
    >>> state.params[0].w.shape, state.params[0].w.dtype
    ((2, 3), dtype('float32'))
    """
    init_key, key = jax.random.split(key)
    if params is None:
        params = model.init(init_key, x)
    dparams, statistics = jax.eval_shape(lambda p, v: _observe(model, p, v), params, x)
    trained = trainable(params, dparams)
    check_stacks(model, optimizer, trained)
    return TrainState(
        params,
        optimizer.init(trained),
        # NaN until something was observed: zeros would predict plausible numbers
        jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), statistics),
        key,
        jnp.zeros((), jnp.int32),
    )


def _observe(model: Layer, params: Params, x: Any) -> tuple[Any, Any]:
    y, residuals = model.forward(params, x, Context(key=jax.random.key(0)))
    dy = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if is_float(leaf) else None, y)
    return model.backward(params, residuals, dy)[1], model.statistics(residuals)


def trainable(params: Params, grads: Any) -> Params:
    """The parameters that have a gradient; None where the gradient is None (integers, frozen).

    Raises ValueError where a gradient does not fit its parameter.
    """

    def choose(path: Any, grad: Any, param: Any) -> Any:
        if grad is None:
            return None
        if (grad.shape, grad.dtype) != (param.shape, param.dtype):
            raise ValueError(
                f"the gradient of params{jax.tree_util.keystr(path)} is {spell(grad)}, "
                f"the parameter {spell(param)}: they must agree"
            )
        return param

    try:
        return jax.tree.map_with_path(choose, grads, params, is_leaf=lambda leaf: leaf is None)
    except ValueError as error:
        if str(error).startswith("the gradient of"):
            raise
        raise ValueError(
            f"the gradient function returned {spell(grads)}, whose tree is not that of the "
            f"parameters, {spell(params)}: give train_step one that returns gradients, as "
            "backprop(model, loss) does for a model that collects nothing"
        ) from error


def untouched(params: Params, new: Params) -> Params:
    """`new`, with the parameters of `params` where it has None."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, new, params, is_leaf=lambda leaf: leaf is None
    )
