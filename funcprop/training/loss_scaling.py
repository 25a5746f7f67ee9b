"""Loss scaling: a backward pass in float16 whose small gradients do not vanish."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcprop.doors import door
from funcprop.gradient import Backprop, GradientFunction, Objective
from funcprop.gradient.objectives import collects
from funcprop.layer import Array, Context, Params, concrete, is_float, widen
from funcprop.sharding import summed
from funcprop.training.state import TrainState
from funcprop.training.step import Metrics, Step, around, train_step
from funcprop.training.unrolling import accepted

LARGEST = 2.0**24  # beyond it nothing of float16 is gained, and float32 comes to its own end


class LossScale(NamedTuple):
    """What `with_loss_scale` keeps.

    optimizer  the state of the optimizer inside
    scale      float32 []: by which the loss of the next step is multiplied
    finite     int32 []: steps since the scale changed, all of finite gradients
    skipped    int32 []: steps since the start whose gradients were not finite

    >>> import jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> state = fp.with_loss_scale(optax.sgd(0.1)).init({"w": jnp.ones(2)})
    >>> float(state.scale), int(state.skipped)
    (32768.0, 0)
    """

    optimizer: Any
    scale: Array
    finite: Array
    skipped: Array


@door
def loss_scaled(gradient: GradientFunction, scale: Array | float) -> GradientFunction:
    """The same gradient, its backward pass run on scale times the loss and divided by it after.

    gradient  of `backprop`, or `jax.value_and_grad(objective(model, loss))`; combinators stand
              around the result: `clip_by_norm(loss_scaled(gradient, scale), 1.0)`
    scale     a positive number, or a float [] that `scaled_step` hands over

    Returns a function of the same signature: the value is not scaled, and grads have their dtypes.
    In exact arithmetic nothing changes. In float16, below 6e-8 everything is 0: what a model in
    `Cast(model, "float16")` makes of scale times δ is not.

    raises  TypeError for another gradient function, ValueError where scale is not positive, or the
            model collects something else than gradients
    source  Micikevicius et al. 2017, arXiv:1710.03740, section 3.2

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Cast(fp.Dense(2), "float16"), jnp.full((4, 3), 1e-4)
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.backprop(model, fp.MeanSquaredError())
    >>> batch = x, model.forward(params, x)[0] + 1e-4
    >>> float(abs(gradient(params, batch)[1][0].w).max())  # 1e-8
    0.0
    >>> float(abs(fp.loss_scaled(gradient, 2.0**15)(params, batch)[1][0].w).max()) > 5e-9
    True
    """
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not number and not (is_float(scale) and jnp.shape(scale) == ()):
        raise TypeError(f"scale is {scale!r}, wanted a positive number, or a float []")
    known = concrete(scale)
    if known is not None and not 0 < known < jnp.inf:
        raise ValueError(f"scale is {scale}, wanted a positive number")
    inside = getattr(gradient, "__wrapped__", None)
    if isinstance(gradient, Backprop):
        if collects(gradient.objective.model):
            raise ValueError(
                f"loss_scaled divides gradients, and {gradient.objective.model!r} collects "
                "something else"
            )
        scaled = by_hand(gradient.objective, scale)
    elif isinstance(inside, Objective):
        scaled = by_jax(inside, scale)
    else:
        raise TypeError(
            f"gradient is {gradient!r}, whose loss cannot be scaled: scale that of backprop(model, "
            "loss) or jax.value_and_grad(objective(model, loss)), and write what is around it "
            "around the result: clip_by_norm(loss_scaled(gradient, scale), 1.0)"
        )

    @door
    def divided(params: Params, batch: Any, context: Context = Context()) -> Any:
        value, grads = scaled(params, batch, context)

        def back(leaf: Array) -> Array:
            wide = widen(leaf)
            return (wide / jnp.asarray(scale, wide.dtype)).astype(leaf.dtype)

        return value, jax.tree.map(lambda leaf: back(leaf) if is_float(leaf) else leaf, grads)

    return around(divided, gradient)


def by_hand(goal: Objective, scale: Array | float) -> Callable[[Params, Any, Context], Any]:
    """-> value, the gradient of scale times the value, by the hand-written backward passes."""

    def gradient(params: Params, batch: Any, context: Context) -> Any:
        value, residuals = goal.forward(params, batch, context)
        dvalue = jnp.full_like(value[0] if goal.has_aux else value, scale)
        return value, summed(goal.backward(params, residuals, dvalue), params)

    return gradient


def by_jax(goal: Objective, scale: Array | float) -> Callable[[Params, Any, Context], Any]:
    """-> value, the gradient of scale times the value, by `jax.grad`."""

    def gradient(params: Params, batch: Any, context: Context) -> Any:
        def scaled(params: Params) -> tuple[Array, Any]:
            value = goal(params, batch, context)
            loss = value[0] if goal.has_aux else value
            return loss * jnp.asarray(scale, loss.dtype), value

        grads, value = jax.grad(scaled, has_aux=True)(params)
        return value, grads

    return gradient


@door
def with_loss_scale(
    optimizer: optax.GradientTransformation, scale: float = 2.0**15, period: int = 2000
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, which skips steps whose gradients are not finite and keeps the scale.

    optimizer  of optax, as a whole: its state does not see a step that is skipped
    scale      of the first step: a power of two, so that dividing by it rounds nothing
    period     steps of finite gradients, one after the other, after which the scale doubles

    Where a gradient is infinite or NaN nothing is updated, the step is counted in `skipped`, and
    the scale is halved, to 1 at least; it grows to 2²⁴ at most. It is told in the state:
    `loss_scale(state)`. A gradient that is NaN at every scale stops all training, and `skipped`
    alone shows it.

    raises  ValueError for a scale outside [1, 2²⁴], and a period below 1
    source  Micikevicius et al. 2017, arXiv:1710.03740, section 3.2

    >>> import jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> optimizer = fp.with_loss_scale(optax.sgd(0.1), scale=8.0)
    >>> state = optimizer.init({"w": jnp.ones(2)})
    >>> updates, state = optimizer.update({"w": jnp.array([jnp.inf, 1.0])}, state)
    >>> updates["w"].tolist(), float(state.scale), int(state.skipped)
    ([0.0, 0.0], 4.0, 1)
    """
    if not 1 <= scale <= LARGEST:
        raise ValueError(f"scale is {scale}, wanted a number from 1 to 2**24")
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise ValueError(f"period is {period!r}, wanted a whole number of at least 1")

    def init(params: Params) -> LossScale:
        none = jnp.zeros((), jnp.int32)
        return LossScale(optimizer.init(params), jnp.float32(scale), none, jnp.copy(none))

    def update(
        updates: Any, state: LossScale, params: Any = None, **extra: Any
    ) -> tuple[Any, LossScale]:
        fits = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(updates) if is_float(leaf)]
        good = jnp.stack(fits).all() if fits else jnp.array(True)
        more = accepted(optimizer.update, extra)
        new, inner = optimizer.update(updates, state.optimizer, params, **more)

        def chosen(a: Any, b: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), a, b)

        finite = jnp.where(good, state.finite + 1, 0)
        grows = finite >= period
        larger = jnp.where(grows, jnp.minimum(2 * state.scale, LARGEST), state.scale)
        return chosen(new, jax.tree.map(jnp.zeros_like, new)), LossScale(
            chosen(inner, state.optimizer),
            jnp.where(good, larger, jnp.maximum(state.scale / 2, 1)),
            jnp.where(grows, 0, finite),
            state.skipped + jnp.where(good, 0, 1),
        )

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


@door
def loss_scale(state: TrainState) -> LossScale:
    """The scale of a state trained by an optimizer of `with_loss_scale`, and the steps skipped.

    state   of `init_state`, and after any number of steps

    raises  ValueError where state.opt_state holds no scale, or several

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, optimizer = fp.Dense(3), fp.with_loss_scale(optax.sgd(0.1))
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), jnp.ones((4, 2)))
    >>> float(fp.loss_scale(state).scale), int(fp.loss_scale(state).skipped)
    (32768.0, 0)
    """

    def holds(node: Any) -> bool:
        return isinstance(node, LossScale)

    found = [node for node in jax.tree.leaves(state.opt_state, is_leaf=holds) if holds(node)]
    if len(found) != 1:
        raise ValueError(
            f"state.opt_state holds {len(found) or 'no'} loss scales, wanted one: write "
            "init_state(model, with_loss_scale(optimizer), key, x), and scaled_step with the same"
        )
    return found[0]


@door
def scaled_step(
    gradient: Callable[[Array], GradientFunction],
    optimizer: optax.GradientTransformation,
    statistics_momentum: float = 0.9,
) -> Step:
    """`train_step` whose gradient is scaled by what the state says: dynamic loss scaling.

    gradient   scale -> a gradient function: `lambda scale: loss_scaled(backprop(model, loss),
               scale)`, with whatever stands around that one
    optimizer  of `with_loss_scale`
    statistics_momentum
               as for `train_step`

    The state is a TrainState, whose opt_state holds the scale. A step that is skipped counts in
    state.step, and its statistics are averaged as in any other: forward is not scaled.

    raises  TypeError where gradient is no function. Called, ValueError where the state holds no
            scale, and what `train_step` raises

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model = fp.Cast(fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2)), "float16")
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> gradient = fp.backprop(model, fp.SoftmaxCrossEntropy())
    >>> optimizer = fp.with_loss_scale(optax.adam(1e-3))
    >>> step = jax.jit(fp.scaled_step(lambda s: fp.loss_scaled(gradient, s), optimizer))
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), x)
    >>> state, metrics = step(state, (x, y))
    >>> int(state.step), int(fp.loss_scale(state).skipped)
    (1, 0)
    """
    if not callable(gradient):
        raise TypeError(
            f"gradient is {gradient!r}, wanted a function of the scale: "
            "lambda scale: loss_scaled(backprop(model, loss), scale)"
        )

    @door
    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        given = gradient(loss_scale(state).scale)
        return train_step(given, optimizer, statistics_momentum)(state, batch)

    return step
