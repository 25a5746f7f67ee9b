"""Recurrence: the plain form is a scan of the cell, as one writes it, under jax.vjp."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcprop import blocks, layers
from funcprop.catalogue.inputs import Mask, Normal, Uniform
from funcprop.catalogue.row import Mutant, Row
from funcprop.layer import Array, Context, Layer, Params

# --- plain forms ----------------------------------------------------------------------------------


def over_time(cell: Callable[..., Any], states: int) -> Callable[..., Array]:
    """A scan of `cell` over the last axis but one, from zero states."""

    def plain(params: Params, x: Array, context: Context) -> Array:
        zero = jnp.zeros((*x.shape[:-2], params.w_h.shape[0]), x.dtype)

        def step(state: Any, x: Array) -> Any:
            state = cell(params, x, state)
            return state, state[0]

        ys = lax.scan(step, (zero,) * states, jnp.moveaxis(x, -2, 0))[1]
        return jnp.moveaxis(ys, 0, -2)

    return plain


def rnn_cell(params: Params, x: Array, state: tuple[Array]) -> tuple[Array]:
    return (jnp.tanh(x @ params.w_x + state[0] @ params.w_h + params.b),)


def lstm_cell(params: Params, x: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
    h, c = state
    i, f, g, o = jnp.split(x @ params.w_x + h @ params.w_h + params.b, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru_cell(params: Params, x: Array, state: tuple[Array]) -> tuple[Array]:
    (h,) = state
    z_r, z_u, z_n = jnp.split(x @ params.w_x + params.b, 3, -1)
    h_r, h_u, h_n = jnp.split(h @ params.w_h, 3, -1)
    r, u = jax.nn.sigmoid(z_r + h_r), jax.nn.sigmoid(z_u + h_u)
    return ((1 - u) * jnp.tanh(z_n + r * (h_n + params.b_n)) + u * h,)


def linear_recurrence(params: tuple, x: Any, context: Context) -> Array:
    def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
        h = inputs[0] * h + inputs[1]
        return h, h

    a, x = (jnp.moveaxis(part, -2, 0) for part in x)
    return jnp.moveaxis(lax.scan(step, jnp.zeros_like(x[0]), (a, x))[1], 0, -2)


# --- wrong backward passes ------------------------------------------------------------------------


def truncated(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """δ does not travel through w_h: backpropagation through one step of time only."""
    return layer.backward(params._replace(w_h=jnp.zeros_like(params.w_h)), residuals, dy)


def state_after(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """dw_h with h after the step instead of before."""
    dx, dparams = layer.backward(params, residuals, dy)
    ahead = jnp.concatenate([residuals.h[..., 1:, :], residuals.h[..., -1:, :]], -2)
    late = residuals._replace(h=ahead, initial=residuals.h[..., 0, :])
    return dx, dparams._replace(w_h=layer.backward(params, late, dy)[1].w_h)


def w_h_not_transposed(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """dh = dz w instead of dz wᵀ: unnoticed by shapes, since each block of w_h is square."""
    size = params.w_h.shape[0]
    blocks_t = [params.w_h[:, i : i + size].T for i in range(0, params.w_h.shape[1], size)]
    return layer.backward(params._replace(w_h=jnp.concatenate(blocks_t, 1)), residuals, dy)


def forget_ignored(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """dc = dc′ instead of dc′ f."""

    class Forgetful(layers.LSTM):
        def step_backward(self, params: Any, factors: Any, dstate: Any) -> Any:
            *others, f = factors
            return super().step_backward(params, (*others, jnp.ones_like(f)), dstate)

    return Forgetful(layer.features).backward(params, residuals, dy)  # type: ignore[attr-defined]


def bias_outside_reset(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """db_n = Σ dz_n, as if b_n stood outside the reset gate."""
    dx, dparams = layer.backward(params, residuals, dy)
    return dx, dparams._replace(b_n=dparams.b[-dparams.b_n.shape[0] :])


def to_every_step(layer: Layer, params: tuple, residuals: Any, dy: Array) -> Any:
    """dy sent to all the steps, as if they had been averaged."""
    dx, _ = layer.backward(params, residuals, dy)
    return jnp.broadcast_to(dy[..., None, :], dx.shape), ()


def to_the_end_of_the_padding(layer: Layer, params: tuple, residuals: Any, dy: Array) -> Any:
    """dy sent to the last step there is, and not to the last that counts."""
    return layer.backward(params, residuals._replace(chosen=None), dy)


def recurrence_not_shifted(layer: Layer, params: tuple, residuals: Any, dh: Array) -> Any:
    """daₜ = dxₜ hₜ instead of dxₜ hₜ₋₁."""
    (_, dx), _ = layer.backward(params, residuals, dh)
    return (dx * residuals.h, dx), ()


def recurrence_stopped(layer: Layer, params: tuple, residuals: Any, dh: Array) -> Any:
    """dx = dh: nothing comes back from later steps."""
    (da, _), _ = layer.backward(params, residuals, dh)
    return (da, dh), ()


# --- rows -----------------------------------------------------------------------------------------

TIME = (
    Mutant("truncated at one step", truncated),
    Mutant("dw_h with the state after", state_after),
    Mutant("w_h not transposed", w_h_not_transposed),
)
SEQUENCE = Normal((3, 7, 5))
LONG = Normal((2, 20, 3))  # more than one stretch: 20 steps are two of ten
SMALL_STEPS = Normal((8, 128, 64))
LARGE_STEPS = Normal((32, 64, 256))
STATE = Normal((3, 4))
RECURRENCE = (
    Row(
        "RNN",
        layers.RNN(4),
        SEQUENCE,
        plain=over_time(rnn_cell, 1),
        large=(layers.RNN(64), SMALL_STEPS),
        promise=("time", "memory"),
        mutants=TIME,
    ),
    Row(
        "RNN, large steps",
        layers.RNN(4),
        LONG,
        plain=over_time(rnn_cell, 1),
        large=(layers.RNN(256), LARGE_STEPS),
    ),
    Row(
        "RNN, relu, reversed, masked, with a state",
        layers.RNN(4, activation="relu", reverse=True),
        (SEQUENCE, STATE),
        mask=Mask((3, 7)),
    ),
    Row(
        "GRU",
        layers.GRU(4),
        SEQUENCE,
        plain=over_time(gru_cell, 1),
        large=(layers.GRU(64), SMALL_STEPS),
        promise=("time", "memory"),
        mutants=(*TIME, Mutant("b_n outside the reset", bias_outside_reset)),
    ),
    Row(
        "GRU, large steps",
        layers.GRU(4),
        LONG,
        plain=over_time(gru_cell, 1),
        large=(layers.GRU(256), LARGE_STEPS),
    ),
    Row(
        "GRU, no bias, reversed, masked",
        layers.GRU(3, bias=False, reverse=True),
        LONG,
        mask=Mask((2, 20)),
    ),
    Row(
        "LSTM",
        layers.LSTM(4),
        SEQUENCE,
        plain=over_time(lstm_cell, 2),
        large=(layers.LSTM(64), SMALL_STEPS),
        promise=("time", "memory"),
        mutants=(*TIME, Mutant("the forget gate ignored", forget_ignored)),
    ),
    Row(
        "LSTM, large steps",
        layers.LSTM(4),
        LONG,
        plain=over_time(lstm_cell, 2),
        large=(layers.LSTM(256), LARGE_STEPS),
    ),
    Row("LSTM, with states", layers.LSTM(4), (SEQUENCE, (STATE, STATE))),
    Row(
        "LSTM, reversed, with states, masked",
        layers.LSTM(4, reverse=True),
        (Normal((3, 20, 5)), (STATE, STATE)),
        mask=Mask((3, 20)),
    ),
    Row("LSTM, no bias, rank 4", layers.LSTM(3, bias=False), Normal((2, 3, 5, 4))),
    Row("Bidirectional", blocks.Bidirectional(layers.LSTM(3)), SEQUENCE),
    Row(
        "LinearRecurrence",
        layers.LinearRecurrence(),
        (Uniform((3, 7, 5)), Normal((3, 7, 5))),
        plain=linear_recurrence,
        large=(layers.LinearRecurrence(), (Uniform((8, 256, 256)), Normal((8, 256, 256)))),
        mutants=(
            Mutant("da with the state after", recurrence_not_shifted),
            Mutant("nothing from later steps", recurrence_stopped),
        ),
    ),
    Row(
        "LinearRecurrence, reversed, masked",
        layers.LinearRecurrence(reverse=True),
        (Uniform((3, 7, 5)), Normal((3, 7, 5))),
        mask=Mask((3, 7)),
    ),
    Row(
        "LastStep",
        layers.LastStep(),
        Normal((3, 5, 4)),
        plain=lambda params, x, context: x[..., -1, :],
        large=(layers.LastStep(), Normal((64, 256, 64))),
        mutants=(Mutant("dy to every step", to_every_step),),
    ),
    Row(
        "LastStep, masked",
        layers.LastStep(),
        Normal((3, 5, 4)),
        mask=Mask((3, 5), shortest=0),
        mutants=(Mutant("dy to the end of the padding", to_the_end_of_the_padding),),
    ),
)
