"""update_step: training without a gradient in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from funcprop.collectors import Rule, apart, collect, records, update
from funcprop.composites import rewirings
from funcprop.composites.sharing import Sum
from funcprop.gradient import objective
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, norm_of
from funcprop.training.state import TrainState, init_state
from funcprop.training.step import Metrics, Step, averaged, check_opt_state, scale_to


@dataclass(frozen=True)
class GradientNorm(Rule):
    """‖∂C/∂params‖ of a layer: the gradient is formed, measured and forgotten."""

    whole: ClassVar[bool] = True

    def use(self, layer: Layer, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        return layer.backward(params, residuals, dy)

    def finish(self, layer: Layer, params: Params, use: Any) -> Any:
        return norm_of(use) if jax.tree.leaves(use) else ()

    places = Sum.places
    steps = Sum.steps


def update_step(
    model: Layer,
    loss: Layer | None,
    optimizer: optax.GradientTransformation,
    max_norm: float | None = None,
    momentum: float = 0.9,
) -> Step:
    """A pure step whose optimizer runs inside the backward pass: (state, batch) -> state, metrics.

    The same numbers as train_step(backprop(model, loss), optimizer), with the gradient of one
    layer in memory at a time. Donate the state: jax.jit(step, donate_argnums=0). Start from
    `init_update_state(model, optimizer, key, x)`.

    max_norm  scale the gradient down to at most this norm, over all parameters together; the norm
              is known only after a backward pass, so there are two

    Raises ValueError for an optimizer that needs more than one layer's gradient at a time, or a
    state of another step, and LayerError for max_norm where a scaled dy is not a scaled gradient.
    """
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}, wanted a positive number")
    for rewired in rewirings(model) if max_norm is not None else ():
        if not rewired.linear:
            raise LayerError(
                rewired,
                "is not linear in dy, and max_norm scales the gradient by scaling dy",
                "train_step(clip_by_norm(backprop(model, loss), max_norm), optimizer)",
            )
    collected = collect(model, update(optimizer))
    norms = None if max_norm is None else objective(collect(model, GradientNorm()), loss)
    goal = objective(collected, loss, has_aux=True)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
        context = Context(key=jax.random.fold_in(state.key, state.step))
        held = collected.join(state.params, state.opt_state)
        (value, aux), residuals = goal.forward(held, batch, context)
        dy = jnp.ones_like(value)
        if norms is not None and max_norm is not None:
            norm = norm_of([r.value for r in records(norms.backward(state.params, residuals, dy))])
            dy = dy * scale_to(norm, max_norm).astype(dy.dtype)
        try:
            new = goal.backward(held, residuals, dy)
        except Exception as error:
            wanted = jax.eval_shape(lambda p: apart(collected.hold(p))[1], state.params)
            check_opt_state(state, wanted, "init_update_state", error)
            raise
        params, opt_state = apart(new)
        statistics = averaged(state, aux, momentum)
        return (
            TrainState(params, opt_state, statistics, state.key, state.step + 1),
            Metrics(value),
        )

    return step


def init_update_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: Array,
    x: Any,
    params: Params | None = None,
) -> TrainState:
    """The state before the first `update_step`: as `init_state`, with a state for every layer.

    `state.params` are the model's own parameters.
    """
    state = init_state(model, optax.identity(), key, x, params)
    collected = collect(model, update(optimizer))
    return state._replace(opt_state=apart(collected.hold(state.params))[1])
