"""Composites that loop, save, share and invert.

`Cast` has no row: it rounds on purpose, and rows are judged in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcprop import layers
from funcprop.catalogue.inputs import Classes, Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.composites import (
    FixedPoint,
    OverTime,
    Parallel,
    Remat,
    Repeat,
    Reversible,
    ReversibleRepeat,
    Serial,
    Skip,
    StochasticDepth,
    Tied,
)
from funcprop.initializers import Normal as NormalInit
from funcprop.layer import Array, Context, Layer, Params, check_cotangent
from funcprop.layers import Dense, Dropout, Tanh
from funcprop.sharding import out_like

# --- a layer on (z, x), for FixedPoint ------------------------------------------------------------


@dataclass(frozen=True)
class Cell(Layer):
    """z′ = tanh(z w + x v): what an implicit layer repeats.

    forward   (z [..., out], x [..., in]) -> z′ [..., out]
    keeps     z, x and z′
    backward  δ = dz′(1 − z′²)    dz = δ wᵀ    dx = δ vᵀ    dw = zᵀδ    dv = xᵀδ
    """

    scale: float = 0.1

    def init(self, key: Array, x: tuple[Any, Any]) -> Params:
        z, given = x
        w_key, v_key = jax.random.split(key)
        init = NormalInit(self.scale)
        return (
            init(w_key, (z.shape[-1], z.shape[-1]), z.dtype),
            init(v_key, (given.shape[-1], z.shape[-1]), z.dtype),
        )

    def forward(
        self, params: Params, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, Any]:
        a = jnp.tanh(x[0] @ params[0] + x[1] @ params[1])
        return a, (*x, a)

    def backward(self, params: Params, residuals: Any, da: Array) -> tuple[Any, Params]:
        z, x, a = residuals
        check_cotangent(self, da, a.shape, a.dtype)
        delta = da * (1 - a * a)
        leading = tuple(range(x.ndim - 1))
        dz, dx = (
            jnp.matmul(delta, w.T, **out_like(v, delta, w))
            for v, w in zip((z, x), params, strict=True)
        )
        dparams = tuple(
            jnp.tensordot(v, delta, (leading, leading), **out_like(w, v, delta))
            for v, w in zip((z, x), params, strict=True)
        )
        return (dz, dx), dparams


# --- plain forms ----------------------------------------------------------------------------------


def affine_tanh(p: Any, x: Array) -> Array:
    return jnp.tanh(x @ p[0].w + p[0].b)


def plain_repeat(params: Params, x: Array, context: Context) -> Array:
    return lax.scan(lambda x, p: (x + affine_tanh(p[0], x), None), x, params[0])[0]


def plain_repeat_remat(params: Params, x: Array, context: Context) -> Array:
    @jax.checkpoint
    def block(x: Array, p: Any) -> tuple[Array, None]:
        return x + affine_tanh(p[0][0], x), None

    return lax.scan(block, x, params[0])[0]


def plain_remat(params: Params, x: Array, context: Context) -> Array:
    return jax.checkpoint(lambda p, x: affine_tanh(p, x))(params[0], x)


def plain_over_time(params: Params, x: Array, context: Context) -> Array:
    step = jax.vmap(lambda x: affine_tanh(params[0], x), -2, -2)
    return step(x)


def plain_tied(params: Params, x: Array, context: Context) -> Array:
    first, _, third = params[0]
    return jnp.tanh(x @ first.w + first.b) @ first.w.T + third.b


def plain_reversible(params: Params, x: Array, context: Context) -> Array:
    x1, x2 = jnp.split(x, 2, -1)
    y1 = x1 + affine_tanh(params[0], x2)
    return jnp.concatenate((y1, x2 + affine_tanh(params[1], y1)), -1)


def plain_reversible_repeat(params: Params, x: Array, context: Context) -> Array:
    """With `jax.checkpoint`, as one writes it where memory is short."""
    block = jax.checkpoint(lambda x, p: (plain_reversible(p, x, context), None))
    return lax.scan(block, x, params)[0]


# --- mutants --------------------------------------------------------------------------------------


def stack_in_wrong_order(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """Gradients collected while walking back, and never turned round."""
    dx, dparams = layer.backward(params, residuals, dy)
    return dx, jax.tree.map(lambda d: d[::-1], dparams)


def first_step_for_all(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """The parameters of the first step, closed over instead of sliced."""
    first = jax.tree.map(lambda p: jnp.broadcast_to(p[:1], p.shape), params)
    return layer.backward(first, residuals, dy)


def drawn_anew(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """Another key in the second forward pass: other elements are dropped."""
    return layer.backward(params, residuals._replace(context=Context(jax.random.key(9))), dy)


def identity_dx(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """dx = dy."""
    return dy, layer.backward(params, residuals, dy)[1]


def averaged_over_steps(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """Σ over the steps taken for a mean."""
    dx, dparams = layer.backward(params, residuals, dy)
    return dx, jax.tree.map(lambda d: d / dy.shape[-2], dparams)


def last_step_only(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """Each step overwrites the gradient of the one before."""
    _, dparams = layer.backward(params, residuals, dy.at[..., :-1, :].set(0))
    return layer.backward(params, residuals, dy)[0], dparams


def source_alone(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """The gradient of the first use, the others forgotten."""
    dx, records = layer.layers[0].backward(layer._fill(params), residuals, dy)
    return dx, (layer._empty(records),)


def target_alone(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """The gradient of the last use overwrites that of the first."""
    dx, (total,) = layer.backward(params, residuals, dy)
    _, (first,) = source_alone(layer, params, residuals, dy)
    kept = total[0]._replace(w=total[0].w - first[0].w)
    return dx, ((kept, *total[1:]),)


def first_half_not_updated(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """f is sent dy₁, without what g sent back to y₁."""
    (y1, y2), (dy1, dy2) = jnp.split(residuals.y, 2, -1), jnp.split(dy, 2, -1)
    (f, g), (pf, pg) = layer.layers, params
    g_out, g_kept = g.forward(pg, y1)
    back, dpg = g.backward(pg, g_kept, dy2)
    _, f_kept = f.forward(pf, y2 - g_out)
    dx2, dpf = f.backward(pf, f_kept, dy1)
    return jnp.concatenate((dy1 + back, dy2 + dx2), -1), (dpf, dpg)


def f_not_rebuilt(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """f is differentiated at y₂ in place of x₂."""
    (y1, y2), (dy1, dy2) = jnp.split(residuals.y, 2, -1), jnp.split(dy, 2, -1)
    (f, g), (pf, pg) = layer.layers, params
    _, g_kept = g.forward(pg, y1)
    back, dpg = g.backward(pg, g_kept, dy2)
    _, f_kept = f.forward(pf, y2)
    dx2, dpf = f.backward(pf, f_kept, dy1 + back)
    return jnp.concatenate((dy1 + back, dy2 + dx2), -1), (dpf, dpg)


def halves_exchanged(layer: Layer, params: Params, residuals: Any, dy: Any) -> Any:
    """dx₁ and dx₂ put back the other way round."""
    dx, dparams = layer.backward(params, residuals, dy)
    return jnp.concatenate(jnp.split(dx, 2, -1)[::-1], -1), dparams


def one_step(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """u = dz*: the last step's gradient alone, as if z were given."""
    (_, dx), dp = layer.layers[0].backward(params[0], residuals, dy)
    return dx, (dp,)


def two_steps(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """u = dz* + (∂f/∂z)ᵀ dz*: the series broken off."""
    (dz, _), _ = layer.layers[0].backward(params[0], residuals, dy)
    return one_step(layer, params, residuals, dy + dz)


def branch_not_scaled(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """The gradient of kept examples without 1 / (1 − rate)."""
    dx, dparams = layer.backward(params, residuals, dy)
    return jax.tree.map(lambda d: d * (1 - layer.rate), (dx, dparams))


def dropped_examples_count(layer: Any, params: Params, residuals: Any, dy: Any) -> Any:
    """dy sent into f unmasked: dropped examples train it."""
    dx, dp = layer.layers[0].backward(params[0], residuals.layer, dy / (1 - layer.rate))
    return dx, (dp,)


# --- rows -----------------------------------------------------------------------------------------

BLOCK = Serial(Dense(4), Tanh())
DEEP = Serial(Dense(128), Tanh())
WIDE = Serial(Dense(256), Tanh())
LOOPS = (
    Row(
        "Repeat",
        Repeat(Skip(BLOCK), 3),
        Normal((5, 4)),
        plain=plain_repeat,
        large=(Repeat(Skip(DEEP), 24), Normal((256, 128))),
        mutants=(
            Mutant("gradients in the order of the walk", stack_in_wrong_order),
            Mutant("the first step's parameters for all", first_step_for_all),
        ),
    ),
    Row("Repeat, parameterless", Repeat(Tanh(), 4), Normal((3, 5))),
    Row("Repeat of Repeat", Repeat(Repeat(BLOCK, 2), 3), Normal((2, 3, 4))),
    Row(
        "Repeat of Dropout",
        Repeat(Serial(Dense(4, bias=False), Dropout(0.4)), 3),
        Normal((5, 4)),
        batched=False,
        reason="draws for a batch at once",
    ),
    Row(
        "Repeat of Remat",
        Repeat(Remat(Skip(BLOCK)), 3),
        Normal((5, 4)),
        plain=plain_repeat_remat,
        large=(Repeat(Remat(Skip(DEEP)), 24), Normal((256, 128))),
    ),
    Row(
        "Remat",
        Remat(BLOCK),
        Normal((5, 4)),
        plain=plain_remat,
        large=(Remat(WIDE), Normal((1024, 256))),
        mutants=(Mutant("dy not sent through f", identity_dx),),
    ),
    Row(
        "Remat of Dropout",
        Remat(Serial(Dense(7), Dropout(0.4))),
        Normal((5, 4)),
        batched=False,
        reason="draws for a batch at once",
        mutants=(Mutant("other numbers in the second pass", drawn_anew),),
    ),
    Row(
        "OverTime",
        OverTime(BLOCK),
        Normal((3, 5, 4)),
        plain=plain_over_time,
        large=(OverTime(WIDE), Normal((512, 16, 256))),
        mutants=(
            Mutant("a mean over the steps", averaged_over_steps),
            Mutant("the last step's gradient alone", last_step_only),
        ),
    ),
    Row("OverTime, one sequence", OverTime(BLOCK), Normal((5, 4)), batched=False),
    Row(
        "OverTime of a tuple",
        OverTime(Parallel(Dense(3), layers.Identity())),
        (Normal((2, 5, 4)), Classes((2, 5, 3), 4)),
    ),
)
SHARED = (
    Row(
        "Tied, transposed",
        Tied(Serial(Dense(7), Tanh(), Dense(4)), (("[0].w.T", "[2].w"),)),
        Normal((5, 4)),
        plain=plain_tied,
        large=(
            Tied(Serial(Dense(512), Tanh(), Dense(256)), (("[0].w.T", "[2].w"),)),
            Normal((512, 256)),
        ),
        mutants=(
            Mutant("the source's gradient alone", source_alone),
            Mutant("the target's gradient alone", target_alone),
        ),
    ),
    Row(
        "Tied layers",
        Tied(Serial(BLOCK, BLOCK, BLOCK), (("[0]", "[1]"), ("[0]", "[2]"))),
        Normal((5, 4)),
    ),
)
IMPLICIT = (
    Row(
        "Reversible",
        Reversible(Serial(Dense(3), Tanh()), Serial(Dense(3), Tanh())),
        Normal((5, 6)),
        mutants=(
            Mutant("f is sent dy₁, not dx₁", first_half_not_updated),
            Mutant("f at y₂, not at x₂", f_not_rebuilt),
            Mutant("halves exchanged", halves_exchanged),
        ),
    ),
    Row(
        "Reversible, a pair",
        Reversible(Serial(Dense(3), Tanh()), Serial(Dense(3), Tanh())),
        (Normal((2, 5, 3)), Normal((2, 5, 3))),
    ),
    Row(
        "ReversibleRepeat",
        ReversibleRepeat(Serial(Dense(3), Tanh()), Serial(Dense(3), Tanh()), 4),
        Normal((5, 6)),
        plain=plain_reversible_repeat,
        large=(ReversibleRepeat(DEEP, DEEP, 24), Normal((256, 256))),
        promise=("memory",),
        floor=32.0,
        reason="each step's input is rebuilt with one rounding more",
        mutants=(
            Mutant("gradients in the order of the walk", stack_in_wrong_order),
            Mutant("halves exchanged", halves_exchanged),
        ),
    ),
    Row(
        "FixedPoint",
        FixedPoint(Cell(), 3),
        Normal((5, 4)),
        promise=("enables",),
        automatic=False,
        floor=64.0,
        reason="both iterations end within 8 eps, magnified by 1 / (1 − the contraction)",
        mutants=(
            Mutant("one step", one_step),
            Mutant("two steps", two_steps),
        ),
    ),
    Row(
        "StochasticDepth",
        Skip(StochasticDepth(BLOCK, 0.4)),
        Normal((5, 4)),
        batched=False,
        reason="draws for a batch at once",
    ),
    Row(
        "StochasticDepth, alone",
        StochasticDepth(Dense(3), 0.4),
        Normal((5, 2, 4)),
        batched=False,
        reason="draws for a batch at once",
        mutants=(
            Mutant("not scaled", branch_not_scaled),
            Mutant("dropped examples count", dropped_examples_count),
        ),
    ),
)
MORE_COMPOSITES: tuple[Row, ...] = (*LOOPS, *SHARED, *IMPLICIT)
