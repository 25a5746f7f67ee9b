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
from funcprop.doors import door
from funcprop.gradient import objective
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, norm_of
from funcprop.training.average import check_no_ema
from funcprop.training.state import TrainState, init_state
from funcprop.training.step import Metrics, Step, averaged, check_opt_state, kept_share, scale_to


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


@door
def update_step(
    model: Layer,
    loss: Layer | None,
    optimizer: optax.GradientTransformation,
    max_norm: float | None = None,
    statistics_momentum: float = 0.9,
    *,
    momentum: float | None = None,
) -> Step:
    """A pure step whose optimizer runs inside the backward pass: (state, batch) -> state, metrics.

    The same numbers as train_step(backprop(model, loss), optimizer), with the gradient of one
    layer in memory at a time. Donate the state: jax.jit(step, donate_argnums=0).

    model, loss  as for `backprop`
    optimizer    of optax, treating every parameter by itself: sgd, adam, adamw, ...
    max_norm     scale the gradient down to at most this norm, over all parameters together; the
                 norm is known only after a backward pass, so there are two
    statistics_momentum, momentum
                 as for `train_step`

    state        TrainState of `init_update_state(model, optimizer, key, x)`; shapes and dtypes stay
    metrics      Metrics(loss), [] each

    raises  TypeError for an optimizer that is not of optax, ValueError where max_norm is not
            positive, for an optimizer that needs more than one layer's gradient at a time, or a
            state of another step, and LayerError for max_norm where a scaled dy is not a scaled
            gradient
    source  the update in the backward pass, of SGD: Lv et al. 2023, arXiv:2306.09782

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, optimizer = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2)), optax.sgd(0.1)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> state = fp.init_update_state(model, optimizer, jax.random.key(0), x)
    >>> step = fp.update_step(model, fp.SoftmaxCrossEntropy(), optimizer)
    >>> state, metrics = jax.jit(step, donate_argnums=0)(state, (x, y))
    >>> int(state.step), metrics.loss.shape
    (1, ())
    """
    kept = kept_share(statistics_momentum, momentum)
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
    check_no_ema(optimizer)
    norms = None if max_norm is None else objective(collect(model, GradientNorm()), loss)
    goal = objective(collected, loss, has_aux=True)

    @door
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
        statistics = averaged(state, aux, kept)
        return (
            TrainState(params, opt_state, statistics, state.key, state.step + 1),
            Metrics(value),
        )

    return step


@door
def init_update_state(
    model: Layer,
    optimizer: optax.GradientTransformation,
    key: Array,
    x: Any,
    params: Params | None = None,
) -> TrainState:
    """The state before the first `update_step`: as `init_state`, with a state for every layer.

    model, optimizer, key, x, params   as for `init_state`

    state.params     the model's own parameters
    state.opt_state  a tuple, one optimizer state for each layer with parameters

    raises  LayerError where the model does not accept x, TypeError and ValueError for an optimizer
            that `update_step` does not take

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> state = fp.init_update_state(model, optax.sgd(0.1), jax.random.key(0), x)
    >>> len(state.opt_state)  # of the two Dense
    2
    """
    state = init_state(model, optax.identity(), key, x, params)
    collected = collect(model, update(optimizer))
    check_no_ema(optimizer)
    return state._replace(opt_state=apart(collected.hold(state.params))[1])
