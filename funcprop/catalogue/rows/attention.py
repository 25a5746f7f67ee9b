"""Embeddings, positions, attention and gating."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop import blocks, layers
from funcprop.catalogue.inputs import Classes, Mask, Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.layer import Array, Context, Layer, Params

# --- plain forms ----------------------------------------------------------------------------------


def plain_embedding(params: layers.Table, ids: Array, context: Context) -> Array:
    return params.w[ids]


def plain_learned(params: layers.Table, x: Array, context: Context) -> Array:
    return x + params.w[: x.shape[-2]]


def plain_sinusoidal(params: tuple, x: Array, context: Context) -> Array:
    length, size = x.shape[-2:]
    i = jnp.arange(size)
    rate = 10000.0 ** ((i - i % 2).astype(x.dtype) / size)
    angle = jnp.arange(length, dtype=x.dtype)[:, None] / rate
    return x + jnp.where(i % 2 == 0, jnp.sin(angle), jnp.cos(angle)).astype(x.dtype)


def plain_rotary(x: Array) -> Array:
    size = x.shape[-1]
    rate = 10000.0 ** (jnp.arange(0, size, 2, dtype=x.dtype) / size)
    angle = jnp.arange(x.shape[-3], dtype=x.dtype)[:, None, None] / rate
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x1, x2 = jnp.split(x, 2, -1)
    return jnp.concatenate([x1 * cos - x2 * sin, x1 * sin + x2 * cos], -1)


def plain_attention(layer: layers.DotProductAttention) -> Callable[..., Array]:
    """The whole matrix of scores at once."""

    def attention(params: tuple, x: tuple[Array, ...], context: Context) -> Array:
        q, k, v = x[:3]
        mask = x[3] if len(x) == 4 else context.mask
        k, v = (jnp.repeat(a, q.shape[-2] // a.shape[-2], -2) for a in (k, v))
        scale = q.shape[-1] ** -0.5 if layer.scale is None else layer.scale
        s = scale * jnp.einsum("...tnk,...snk->...nts", q, k)
        if layer.soft_cap is not None:
            s = layer.soft_cap * jnp.tanh(s / layer.soft_cap)
        distance = jnp.arange(q.shape[-3])[:, None] - jnp.arange(k.shape[-3])
        visible = distance >= 0 if layer.causal else jnp.full(distance.shape, True)
        if layer.window is not None:
            visible &= jnp.abs(distance) < layer.window
        if mask is not None:
            visible = visible & mask[..., None, None, :]
        p = jax.nn.softmax(jnp.where(visible, s, jnp.finfo(s.dtype).min))
        return jnp.einsum("...nts,...snk->...tnk", jnp.where(visible, p, 0), v)

    return attention


def plain_self_attention(block: blocks.SelfAttention) -> Callable[..., Array]:
    def attention(params: Params, x: Array, context: Context) -> Array:
        size = block.head_size or block.features // block.heads
        kv_heads = block.kv_heads or block.heads
        ends = (block.heads * size, (block.heads + kv_heads) * size)
        q, k, v = jnp.split(x @ params[0].w + params[0].b, ends, -1)
        q, k, v = (a.reshape(*a.shape[:-1], -1, size) for a in (q, k, v))
        if block.rotary:
            q, k = plain_rotary(q), plain_rotary(k)
        core = layers.DotProductAttention(
            causal=block.causal, window=block.window, soft_cap=block.soft_cap
        )
        y = plain_attention(core)((), (q, k, v), context)
        return y.reshape(*y.shape[:-2], -1) @ params[-1].w + params[-1].b

    return attention


def plain_cross_attention(block: blocks.CrossAttention) -> Callable[..., Array]:
    def attention(params: Params, x: tuple[Array, ...], context: Context) -> Array:
        xs, memory, *mask = x
        size = block.features // block.heads
        q, k, v = (
            (a @ p[0].w + p[0].b).reshape(*a.shape[:-1], -1, size)
            for a, p in zip((xs, memory, memory), params[1][:3], strict=True)
        )
        core = plain_attention(layers.DotProductAttention())
        y = core((), (q, k, v, *(mask or (None,))), Context())
        return y.reshape(*y.shape[:-2], -1) @ params[-1].w + params[-1].b

    return attention


def plain_gated(activation: Callable[[Array], Array]) -> Callable[..., Array]:
    def gated(params: Params, x: Array, context: Context) -> Array:
        (gate, _), up = params[0]
        return (activation(x @ gate.w) * (x @ up.w)) @ params[-1].w

    return gated


# --- wrong backward passes ------------------------------------------------------------------------


def last_row_wins(layer: Layer, params: Any, ids: Array, dy: Array) -> Any:
    """`set` instead of `add`: of an id that occurs twice only one gradient remains."""
    return None, layers.Table(jnp.zeros_like(params.w).at[ids].set(dy))


def averaged_over_uses(layer: Layer, params: Any, ids: Array, dy: Array) -> Any:
    """The mean over the uses of a row, not their sum."""
    _, dparams = layer.backward(params, ids, dy)
    uses = jnp.zeros(params.w.shape[0], dy.dtype).at[ids].add(jnp.ones(ids.shape, dy.dtype))
    return None, layers.Table(dparams.w / jnp.maximum(uses, 1)[:, None])


def first_example_only(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """dw from one example: the sum over the batch forgotten."""
    dw = jnp.pad(dy[0], ((0, params.w.shape[0] - dy.shape[-2]), (0, 0)))
    return dy, layers.Table(dw)


def positions_averaged(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """The mean over the batch, not the sum."""
    _, dparams = layer.backward(params, residuals, dy)
    return dy, layers.Table(dparams.w / dy.shape[0])


def turned_forward(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """By θ again instead of −θ: the rotation itself and not its transpose."""
    return layer.forward((), dy)[0], ()


def other_pairs(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """Pairs of the other convention, (2i, 2i + 1) for (i, i + K/2)."""
    other = dataclasses.replace(layer, interleaved=not layer.interleaved)
    return other.backward(params, residuals, dy)


def positions_scaled(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """√D of the embedding's scale, which belongs elsewhere."""
    return dy * dy.shape[-1] ** 0.5, ()


def position_lost(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """The first position without a gradient."""
    return dy.at[..., 0, :].set(0), ()


def without_dot(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """ds = p · dp, without − Σ dy·y: the softmax's normalization forgotten."""
    return layer.backward(params, residuals._replace(y=jnp.zeros_like(residuals.y)), dy)


def scale_lost(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """dk without the scale."""
    (dq, dk, *rest), dparams = layer.backward(params, residuals, dy)
    return (dq, dk * residuals.q.shape[-1] ** 0.5, *rest), dparams


def slope_lost(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """dq and dk as if the scores were not capped: here by a cap that is hardly one."""
    loose = dataclasses.replace(layer, soft_cap=1e3)
    (_, _, dv, *rest), _ = layer.backward(params, residuals, dy)
    (dq, dk, *_), _ = loose.backward(params, residuals, dy)
    return (dq, dk, dv, *rest), ()


def mask_lost(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """p made again without the mask: hidden keys receive a gradient."""
    return layer.backward(params, residuals._replace(mask=None), dy)


def future_seen(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """p made again without the causal mask."""
    return dataclasses.replace(layer, causal=False).backward(params, residuals, dy)


def groups_averaged(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """dk and dv as means over the query heads of a key head, not sums."""
    (dq, dk, dv), dparams = layer.backward(params, residuals, dy)
    share = residuals.k.shape[-2] / residuals.q.shape[-2]
    return (dq, dk * share, dv * share), dparams


def factors_swapped(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """da = dy · a, db = dy · b."""
    return (dy * residuals.a, dy * residuals.b), ()


def one_factor(layer: Layer, params: Any, residuals: Any, dy: Array) -> Any:
    """The gate taken for a constant."""
    return (jnp.zeros_like(dy), dy * residuals.a), ()


def pieces_reversed(layer: Layer, params: Any, residuals: Any, dy: Any) -> Any:
    """The pieces put back in the other order."""
    return jnp.concatenate(dy[::-1], -1), ()


def first_piece_only(layer: Layer, params: Any, residuals: Any, dy: Any) -> Any:
    """The other outputs taken for unused."""
    return jnp.concatenate([dy[0], *(jnp.zeros_like(d) for d in dy[1:])], -1), ()


def pieces_shifted(layer: Layer, params: Any, sizes: Any, dy: Array) -> Any:
    """Every piece taken one feature too late."""
    return layer.backward(params, sizes, jnp.roll(dy, 1, -1))


def pieces_flipped(layer: Layer, params: Any, sizes: Any, dy: Array) -> Any:
    """The pieces taken from the end."""
    return layer.backward(params, sizes, dy[..., ::-1])


# --- rows -----------------------------------------------------------------------------------------


def heads(t: int, s: int, n: int, m: int, k: int, batch: tuple[int, ...] = (2,)) -> Any:
    """Queries, keys and values."""
    return (Normal((*batch, t, n, k)), Normal((*batch, s, m, k)), Normal((*batch, s, m, k)))


def core(
    name: str, x: Any, mask: Any = None, mutants: Any = (), large: Any = None, **options: Any
) -> Row:
    """A row for DotProductAttention; at `large` its blocks have the usual size."""
    layer = layers.DotProductAttention(**options)
    usual = dataclasses.replace(layer, block=layers.DotProductAttention().block)
    return Row(
        name,
        layer,
        x,
        mask,
        plain=plain_attention(layer),
        large=None if large is None else (usual, *large),
        promise=("parity",) if large is None else ("time", "memory"),
        mutants=mutants,
    )


LONG = heads(1024, 1024, 2, 2, 64, (2,))
ATTENTION = (
    Row(
        "Embedding",
        layers.Embedding(7, 3),
        Classes((5, 4), 7),
        plain=plain_embedding,
        large=(layers.Embedding(8192, 256), Classes((16, 512), 8192)),
        mutants=(
            Mutant("of a repeated id one gradient remains", last_row_wins),
            Mutant("the mean over the uses of a row", averaged_over_uses),
        ),
    ),
    Row("Embedding, bytes", layers.Embedding(300, 2), Classes((6,), 256, dtype="uint8")),
    Row(
        "LearnedPositions",
        layers.LearnedPositions(6),
        Normal((3, 4, 5)),
        plain=plain_learned,
        large=(layers.LearnedPositions(1024), Normal((16, 512, 256))),
        mutants=(
            Mutant("dw from the first example only", first_example_only),
            Mutant("the mean over the batch", positions_averaged),
        ),
    ),
    Row(
        "SinusoidalPositions",
        layers.SinusoidalPositions(),
        Normal((3, 4, 5)),
        plain=plain_sinusoidal,
        large=(layers.SinusoidalPositions(), Normal((16, 512, 256))),
        mutants=(
            Mutant("scaled by √D", positions_scaled),
            Mutant("the first position lost", position_lost),
        ),
    ),
    Row(
        "Rotary",
        layers.Rotary(),
        Normal((2, 5, 3, 6)),
        plain=lambda params, x, context: plain_rotary(x),
        large=(layers.Rotary(), Normal((8, 512, 8, 64))),
        mutants=(
            Mutant("turned forward again", turned_forward),
            Mutant("pairs of the other convention", other_pairs),
        ),
    ),
    Row("Rotary, interleaved", layers.Rotary(base=100.0, interleaved=True), Normal((2, 5, 3, 6))),
    Row(
        "Multiply",
        layers.Multiply(),
        (Normal((5, 7)), Normal((5, 7))),
        plain=lambda params, x, context: x[0] * x[1],
        large=(layers.Multiply(), (Normal((256, 4096)), Normal((256, 4096)))),
        mutants=(
            Mutant("each by itself", factors_swapped),
            Mutant("the gate taken for a constant", one_factor),
        ),
    ),
    Row(
        "Split",
        layers.Split((2, 1, 4)),
        Normal((5, 7)),
        mutants=(
            Mutant("pieces in reverse", pieces_reversed),
            Mutant("the first piece only", first_piece_only),
        ),
    ),
    Row(
        "Concatenate",
        layers.Concatenate(),
        (Normal((5, 2)), Normal((5, 1)), Normal((5, 4))),
        mutants=(
            Mutant("pieces one feature late", pieces_shifted),
            Mutant("pieces from the end", pieces_flipped),
        ),
    ),
    Row(
        "DotProductAttention, causal",
        layers.DotProductAttention(causal=True, block=3),
        heads(7, 7, 2, 2, 4),
        plain=plain_attention(layers.DotProductAttention(causal=True)),
        large=(layers.DotProductAttention(causal=True), heads(2048, 2048, 2, 2, 64, (1,))),
        promise=("time", "memory"),
        mutants=(
            Mutant("Σ dy·y forgotten", without_dot),
            Mutant("dk not scaled", scale_lost),
            Mutant("p made again without the causal mask", future_seen),
        ),
    ),
    Row(
        "DotProductAttention, short",
        layers.DotProductAttention(causal=True),
        heads(5, 5, 2, 2, 4),
        plain=plain_attention(layers.DotProductAttention(causal=True)),
        large=(layers.DotProductAttention(causal=True), heads(256, 256, 4, 4, 64, (4,))),
    ),
    Row(
        "DotProductAttention, window",
        layers.DotProductAttention(causal=True, window=4, block=3),
        heads(11, 11, 2, 2, 4),
        plain=plain_attention(layers.DotProductAttention(causal=True, window=256)),
        large=(
            layers.DotProductAttention(causal=True, window=256),
            heads(2048, 2048, 2, 2, 64, (1,)),
        ),
        promise=("time", "memory"),
    ),
    core("DotProductAttention, window both ways", heads(11, 11, 2, 2, 4), window=3, block=4),
    core(
        "DotProductAttention, grouped queries",
        heads(5, 7, 6, 2, 3),
        large=(heads(1024, 1024, 4, 1, 64, (1,)),),
        block=4,
        mutants=(Mutant("means over the group", groups_averaged),),
    ),
    core(
        "DotProductAttention, soft cap",
        heads(5, 5, 2, 2, 4),
        large=(LONG,),
        soft_cap=1.5,
        scale=0.9,
        mutants=(Mutant("the cap's slope forgotten", slope_lost),),
    ),
    core(
        "DotProductAttention, masked",
        heads(7, 7, 2, 1, 4, (3,)),
        large=(LONG, Mask((2, 1024), shortest=512)),
        mask=Mask((3, 7), shortest=0),
        causal=True,
        block=2,
        mutants=(Mutant("p made again without the mask", mask_lost),),
    ),
    core(
        "DotProductAttention, masked memory",
        (*heads(4, 6, 2, 2, 3, (3,)), Mask((3, 6), shortest=0)),
    ),
    core(
        "DotProductAttention, large scores",
        (Normal((2, 5, 1, 4), scale=30.0), Normal((2, 6, 1, 4)), Normal((2, 6, 1, 4))),
        block=2,
    ),
    Row(
        "SelfAttention",
        blocks.SelfAttention(6, 3, causal=True),
        Normal((2, 5, 6)),
        plain=plain_self_attention(blocks.SelfAttention(256, 4, causal=True)),
        large=(blocks.SelfAttention(256, 4, causal=True), Normal((1, 1024, 256))),
        promise=("time", "memory"),
    ),
    Row(
        "SelfAttention, rotary, grouped queries, masked",
        blocks.SelfAttention(5, 4, head_size=6, kv_heads=2, rotary=True),
        Normal((3, 5, 7)),
        mask=Mask((3, 5)),
    ),
    Row(
        "SelfAttention, three projections",
        blocks.SelfAttention(6, 3, kv_heads=1, rotary=True, fused=False),
        Normal((2, 5, 6)),
    ),
    Row(
        "CrossAttention",
        blocks.CrossAttention(6, 3),
        (Normal((2, 4, 6)), Normal((2, 5, 7))),
        plain=plain_cross_attention(blocks.CrossAttention(256, 4)),
        large=(blocks.CrossAttention(256, 4), (Normal((1, 1024, 256)), Normal((1, 1024, 256)))),
        promise=("memory",),
    ),
    Row(
        "CrossAttention, masked memory",
        blocks.CrossAttention(6, 3, kv_heads=1),
        (Normal((3, 4, 6)), Normal((3, 5, 7)), Mask((3, 5))),
    ),
    Row(
        "GLU",
        blocks.GLU(4, 5, bias=True),
        Normal((3, 4)),
        plain=plain_gated(jax.nn.sigmoid),
        large=(blocks.GLU(256, 512), Normal((512, 256))),
    ),
    Row(
        "SwiGLU",
        blocks.SwiGLU(4, 5),
        Normal((3, 4)),
        plain=plain_gated(jax.nn.silu),
        large=(blocks.SwiGLU(256, 512), Normal((512, 256))),
    ),
    Row(
        "GEGLU",
        blocks.GEGLU(4, 5),
        Normal((3, 4)),
        plain=plain_gated(lambda z: jax.nn.gelu(z, approximate=False)),
        large=(blocks.GEGLU(256, 512), Normal((512, 256))),
    ),
)
