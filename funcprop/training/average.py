"""The average of the parameters over the steps, beside any optimizer."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcprop.doors import door
from funcprop.layer import Array, Params, is_float, spell, widen
from funcprop.training.state import TrainState, untouched
from funcprop.training.unrolling import accepted


class EmaState(NamedTuple):
    """What `with_ema` keeps.

    optimizer  the state of the optimizer inside
    count      int32 []: how many steps are in the average
    average    like the trained parameters, 16-bit ones in float32; before the first step those
               themselves

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> state = fp.with_ema(optax.sgd(0.1), decay=0.9).init({"w": jnp.ones(2, jnp.bfloat16)})
    >>> int(state.count), state.average["w"].dtype
    (0, dtype('float32'))
    """

    optimizer: Any
    count: Array
    average: Any


@door
def with_ema(
    optimizer: optax.GradientTransformation, decay: float
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, which keeps an exponential moving average of the parameters in its state.

    optimizer  of optax, as a whole: with its learning rate, and whatever it is chained with
    decay      the share of the old average that a step keeps, in [0, 1), such as 0.999

    `train_step` trains with it as with the optimizer alone. After t steps the average is
    Σₛ βᵗ⁻ˢ pₛ / Σₛ βᵗ⁻ˢ over s = 1 … t: its start is corrected, so that it can be used from the
    first step on. `ema_params(state)` are the parameters to evaluate and to predict with. The
    average lies in `state.opt_state`, and so in checkpoints of the state.

    raises  ValueError for a decay outside [0, 1); its update, without params
    source  the average: Polyak, Juditsky 1992; the correction: Kingma, Ba 2015, arXiv:1412.6980

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, optimizer = fp.Dense(2), fp.with_ema(optax.sgd(0.1), decay=0.99)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), x)
    >>> step = jax.jit(fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer))
    >>> state, _ = step(state, (x, y))
    >>> bool((fp.ema_params(state).w == state.params.w).all())  # the average of one step
    True
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}, wanted a number in [0, 1)")

    def init(params: Params) -> EmaState:
        # a copy: a state may be donated, no buffer twice
        average = jax.tree.map(lambda leaf: jnp.array(wide(leaf), copy=True), params)
        return EmaState(optimizer.init(params), jnp.zeros((), jnp.int32), average)

    def update(
        updates: Any, state: EmaState, params: Any = None, **extra: Any
    ) -> tuple[Any, EmaState]:
        if params is None:
            raise ValueError(
                "with_ema averages parameters and was given none: "
                "optimizer.update(grads, state, params)"
            )
        more = accepted(optimizer.update, extra)
        updates, inner = optimizer.update(updates, state.optimizer, params, **more)
        count = state.count + 1
        # mₜ = mₜ₋₁ + (p − mₜ₋₁)(1 − β)/(1 − βᵗ): the first step leaves nothing of the start
        past = -jnp.expm1(count.astype(jnp.float32) * math.log(decay)) if decay else 1.0
        share = jnp.float32((1 - decay) / past)

        def mean(old: Array, new: Array) -> Array:
            if not is_float(new):
                return new
            return jnp.where(count == 1, new, old + (new - old) * share.astype(old.dtype))

        new = jax.tree.map(wide, optax.apply_updates(params, updates))
        return updates, EmaState(inner, count, jax.tree.map(mean, state.average, new))

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]


def wide(leaf: Array) -> Array:
    return widen(leaf) if is_float(leaf) else leaf


@door
def ema_params(state: TrainState) -> Params:
    """The averaged parameters of a state trained by an optimizer of `with_ema`.

    state   of `init_state`, and after any number of steps

    Returns a tree like state.params, of its shapes and dtypes; what is frozen as it stands there.

    raises  ValueError where state.opt_state holds no average of all trained parameters, or several

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, optimizer = fp.Dense(3), fp.with_ema(optax.sgd(0.1), decay=0.99)
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), jnp.ones((4, 2)))
    >>> predictor, params = fp.inference(model, fp.ema_params(state), state.statistics)
    >>> params.w.shape
    (2, 3)
    """
    found = [node for node in jax.tree.leaves(state.opt_state, is_leaf=is_ema) if is_ema(node)]
    if len(found) != 1:
        raise ValueError(
            f"state.opt_state holds {len(found) or 'no'} averages, wanted one: write "
            "init_state(model, with_ema(optimizer, 0.999), key, x), and train_step with the same"
        )

    def like(param: Array, average: Any) -> Array:
        if average is not None and average.shape != param.shape:
            raise ValueError(f"an average is {spell(average)}, its parameter {spell(param)}")
        return param if average is None else average.astype(param.dtype)

    try:
        return jax.tree.map(like, state.params, untouched(state.params, found[0].average))
    except ValueError as error:
        raise ValueError(
            "the average is not of state.params as a whole: let with_ema stand outermost, "
            f"with_ema(per_layer(model, optimizer), 0.999): {error}"
        ) from error


def is_ema(node: Any) -> bool:
    return isinstance(node, EmaState)


def check_no_ema(optimizer: optax.GradientTransformation) -> None:
    """Raises ValueError for an optimizer of `with_ema`, whose average is of all parameters."""
    state = jax.eval_shape(optimizer.init, {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)})
    if any(map(is_ema, jax.tree.leaves(state, is_leaf=is_ema))):
        raise ValueError(
            "with_ema averages the parameters of the whole model, and a backward pass that updates "
            "shows an optimizer one layer at a time: write "
            "train_step(backprop(model, loss), with_ema(optimizer, 0.999))"
        )
