"""Steps and what is made of them: pure functions that take and return functions."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from funcprop.doors import door
from funcprop.gradient import GradientFunction
from funcprop.layer import Array, Context, norm_of, widen
from funcprop.training.extra import check_private, extra_arguments, parted
from funcprop.training.state import TrainState, trainable, untouched
from funcprop.training.unrolling import accepted


class Step(Protocol):
    """(state, batch) -> state, metrics: what `train_step`, `update_step`, `epoch` and `ensemble`
    make. Pure, so that `jax.jit` and `jax.lax.scan` take it.

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> def twice(step: fp.training.Step) -> fp.training.Step:
    ...     return lambda state, batch: step(step(state, batch)[0], batch)
    >>> model, optimizer, x = fp.Dense(2), optax.sgd(0.1), jnp.ones((4, 3))
    >>> step = fp.train_step(fp.backprop(model, fp.MeanSquaredError()), optimizer)
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), x)
    >>> state, metrics = jax.jit(twice(step))(state, (x, jnp.ones((4, 2))))
    >>> int(state.step), metrics.loss.shape
    (2, ())
    """

    def __call__(self, state: TrainState, batch: Any, /) -> tuple[TrainState, Any]:
        """The state after the batch, and what was observed on the way.

        state  as `init_state` or `init_update_state` makes it
        batch  (x, target) or (x, target, mask); the whole data for an epoch

        -> state, Metrics; with one more axis, first, for an epoch's steps or an ensemble's members
        """
        ...


class Metrics(NamedTuple):
    """What a step observed.

    loss    [] of the batch, before the update; of the dtype that the loss returns

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> metrics = fp.Metrics(loss=jnp.float32(0.5))  # what a step returns beside the state
    >>> float(metrics.loss), metrics.loss.shape
    (0.5, ())
    """

    loss: Array  # [] of the batch, before the update


@door
def train_step(
    gradient: GradientFunction,
    optimizer: optax.GradientTransformation,
    statistics_momentum: float = 0.9,
    *,
    momentum: float | None = None,
) -> Step:
    """A pure step: (state, batch) -> state, metrics.

    gradient   (params, batch, context) -> value, grads: `backprop(model, loss)`, or
               `jax.value_and_grad(objective(model, loss))`, or any function of that signature;
               with `has_aux`, (value, aux), grads; and more results, named in its `extra`
    optimizer  of optax, which has its own momentum: optax.sgd(0.1, momentum=0.9). It is given what
               `optax.with_extra_args_support` is for: value, grad, value_fn, obj_fn and grad_fn of
               this batch, and the further results by name, such as the factors of `with_factors`.
               Of `private_gradient`, grad alone: the others read the examples without noise
    statistics_momentum
               the share of the old value that running statistics keep; `momentum`, as it was
               called once, is deprecated

    state      TrainState; the new one has the tree, shapes and dtypes of the old one
    metrics    Metrics(loss), [] each

    The context holds a fresh key, folded from the state's key and its step. Statistics are
    averaged with the bias of their start corrected, so they can be used after the first step.

    raises  TypeError where gradient is no function, ValueError for a share outside [0, 1).
            Called, ValueError where a gradient does not fit its parameter, the state is another
            optimizer's, or it holds statistics and the gradient function returns none; where a
            further result has no name, or the optimizer wants the value of a private gradient
    source  the correction of the start: Kingma, Ba 2015, arXiv:1412.6980, section 3

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> state = fp.init_state(model, optax.sgd(0.1), jax.random.key(0), x)
    >>> gradient = fp.backprop(model, fp.SoftmaxCrossEntropy())
    >>> step = jax.jit(fp.train_step(gradient, optax.sgd(0.1)))
    >>> state, metrics = step(state, (x, y))
    >>> int(state.step), metrics.loss.shape
    (1, ())
    """
    kept = kept_share(statistics_momentum, momentum)

    @door
    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        context = Context(key=jax.random.fold_in(state.key, state.step))
        value, grads, extra = parted(gradient, gradient(state.params, batch, context))
        value, aux = value if isinstance(value, tuple) else (value, None)
        statistics = averaged(state, aux, kept)
        params = trainable(state.params, grads)
        given = extra_arguments(gradient, state.params, batch, context, value, grads, tuple(extra))
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            try:
                more = accepted(optimizer.update, {**given, **extra})
                updates, opt_state = optimizer.update(grads, state.opt_state, params, **more)
            except Exception as error:
                wanted = jax.eval_shape(optimizer.init, params)
                check_opt_state(state, wanted, "init_state", error)
                check_private(gradient, error)
                raise
            params = untouched(state.params, optax.apply_updates(params, updates))
        return TrainState(params, opt_state, statistics, state.key, state.step + 1), Metrics(value)

    return step


def kept_share(statistics_momentum: float, momentum: float | None) -> float:
    """The share of the old value that statistics keep. Raises ValueError outside [0, 1)."""
    if momentum is not None:
        warnings.warn(
            "momentum is deprecated: write statistics_momentum for that of batch norm's averages, "
            "and optax.sgd(0.1, momentum=0.9) for the optimizer's",
            DeprecationWarning,
            stacklevel=4,  # through the door
        )
        statistics_momentum = momentum
    if not 0 <= statistics_momentum < 1:
        raise ValueError(f"statistics_momentum is {statistics_momentum}, wanted one in [0, 1)")
    return statistics_momentum


def check_opt_state(state: TrainState, wanted: Any, start: str, error: Exception) -> None:
    """Raises ValueError from `error` where opt_state has another tree than `start` gives it."""
    if jax.tree.structure(state.opt_state) != jax.tree.structure(wanted):
        raise ValueError(
            "state.opt_state is of another optimizer, or of another kind of step (update_step "
            f"holds one for each layer): start from {start}(model, optimizer, key, x)"
        ) from error


def averaged(state: TrainState, aux: Any, momentum: float) -> Any:
    """The running statistics after a step."""
    if not jax.tree.leaves(state.statistics):
        return state.statistics
    if aux is None or not jax.tree.leaves(aux.statistics):
        raise ValueError(
            "the model observes statistics and the gradient function returns none: "
            "write backprop(model, loss, has_aux=True)"
        )
    # mₜ = mₜ₋₁ + (s − mₜ₋₁)(1 − β)/(1 − βᵗ): Adam's bias correction, applied as it goes
    t = (state.step + 1).astype(jnp.float32)
    share = (1 - momentum) / (1 - jnp.float32(momentum) ** t)
    return jax.tree.map(
        lambda old, new: jnp.where(
            state.step == 0, new, old + (new - old) * share.astype(old.dtype)
        ),
        state.statistics,
        aux.statistics,
    )


CLIPPED = "gradient clipped as a whole"


def around(function: Any, gradient: GradientFunction, **says: Any) -> GradientFunction:
    """A gradient function that says of itself what the one inside does, but for `says`."""
    vars(function).update(__wrapped__=gradient, **says)
    return function


@door
def clip_by_norm(gradient: GradientFunction, max_norm: float) -> GradientFunction:
    """The gradient scaled down to at most `max_norm`, over all parameters together.

    gradient  (params, batch, context) -> value, grads, as for `train_step`
    max_norm  a positive number: grads become grads · min(1, max_norm / ‖grads‖)

    Returns a function of the same signature; grads keep their dtypes, and the norm is taken in
    float32 at least. Where it is not finite all of grads are NaN.

    raises  ValueError where max_norm is not positive
    source  Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.clip_by_norm(fp.backprop(model, fp.SoftmaxCrossEntropy()), 0.01)
    >>> value, grads = gradient(params, (x, y))
    >>> round(sum(float((g**2).sum()) for g in jax.tree.leaves(grads)) ** 0.5, 4)
    0.01
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}, wanted a positive number")

    @door
    def clipped(params: Any, batch: Any, context: Context = Context()) -> Any:
        value, grads, *more = gradient(params, batch, context)
        scale = scale_to(norm_of(grads), max_norm)
        grads = jax.tree.map(lambda leaf: (widen(leaf) * scale).astype(leaf.dtype), grads)
        return value, grads, *more

    return around(clipped, gradient, reduction=CLIPPED)


def scale_to(norm: Array, max_norm: float) -> Array:
    """What makes something of this norm at most max_norm long."""
    # not finite: NaN everywhere, rather than zeros that look like convergence
    return jnp.where(jnp.isfinite(norm), jnp.minimum(1, max_norm / norm), jnp.nan)


@door
def ensemble(step: Step) -> Step:
    """A step, or an epoch, over many states at once: (states, batch) -> states, metrics.

    step     of `train_step`, `update_step` or `epoch`
    states   a TrainState whose leaves have one more axis, first, one entry a member:
             `jax.vmap(lambda key: init_state(model, optimizer, key, x))(jax.random.split(key, n))`
    metrics  with the same axis first: the losses [n]

    All members see the same data, each with its own key.

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, optimizer = fp.Dense(2), optax.sgd(0.1)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> keys = jax.random.split(jax.random.key(0), 3)
    >>> states = jax.jit(jax.vmap(lambda key: fp.init_state(model, optimizer, key, x)))(keys)
    >>> step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    >>> states, metrics = jax.jit(fp.ensemble(step))(states, (x, y))
    >>> states.params.w.shape, metrics.loss.shape
    ((3, 2, 2), (3,))
    """
    return jax.vmap(step, in_axes=(0, None))
