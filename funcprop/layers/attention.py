"""Dot-product attention: softmax(q kᵀ) v tile by tile, and its derivative from q, k, v and y.

A tile is a block of queries against a block of keys. Its scores are made, used and forgotten,
forward and again backward, so that memory grows with T and not with T² (Dao et al., 2022). Tiles
that a causal mask or a window hides are never computed.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Shape,
    check_cotangent,
    check_count,
    check_number,
    is_float,
    spell,
    widen,
)
from funcprop.layers.tiles import (
    LONGEST,
    WRITTEN_OUT,
    Tiles,
    accumulator,
    added,
    blocked,
    contract,
    default_blocks,
    even_blocks,
    grouped,
    heads_swapped,
    magnifier,
    over_tiles,
    part,
    placed,
    ungrouped,
    visible,
)
from funcprop.sharding import entries, fresh, spread_as, whole

AXES = "(q [..., T, heads, K], k [..., S, kv heads, K], v [..., S, kv heads, V])"


class AttentionResiduals(NamedTuple):
    """What DotProductAttention keeps: nothing of size T·S."""

    q: Array  # queries [..., T, N, K]
    k: Array  # keys [..., S, M, K]
    v: Array  # values [..., S, M, V]
    y: Array  # output [..., T, N, V]: Σ dy·y stands for Σⱼ pⱼ dpⱼ, a sum over all keys
    peak: Array  # max s [..., M, N/M, T, 1]
    total: Array  # Σ e^(s − peak), likewise: apart from peak, so that large scores stay exact
    mask: Array | None  # bool [..., S]: the keys that may be seen, where a mask was given
    own_mask: Shape  # (3,) or (4,): whether the mask was an entry of x


@dataclass(frozen=True)
class DotProductAttention(Layer):
    """yₜ = Σₛ pₜₛ vₛ, p = softmax over s of scale · qₜ·kₛ (Vaswani et al., 2017), head by head.

    Query head n reads key head n // (N/M): with M < N this is grouped-query attention.
    `causal` shows query t the keys s ≤ t; `window` those with |t − s| < window; both need T = S.
    `soft_cap` c replaces a score s by c tanh(s / c). `scale` is 1/√K unless given. A mask shows
    the keys where it is True: `context.mask` [..., S] for x = (q, k, v), and for x = (q, k, v,
    mask) that one alone (None: every key). A query that sees no key has output and gradient 0.
    `block` is the number of queries computed at a time, chosen by T where it is None.

    forward   (q [..., T, N, K], k [..., S, M, K], v [..., S, M, V]) -> y [..., T, N, V]
    keeps     q, k, v, y, and two numbers a row: the peak and the total of its softmax
    backward  dv = pᵀ dy    dp = dy vᵀ    ds = p · (dp − Σ dy·y)    dq = scale · ds k
              dk = scale · dsᵀ q; p is made again from q, k, peak and total (Dao, 2023)
    dtypes    any float, one for q, k and v; y and all gradients have it, scores and sums are made
              in float32 at least
    raises    LayerError where window or block is no positive whole number, soft_cap no positive
              number or scale negative, x is no tuple of three such arrays or of these and a mask,
              the shapes do not fit each other, there is nothing to attend to, T ≠ S under causal or
              window, a mask is not bool [..., S], or dy has not the shape and dtype of y
    source    Vaswani et al., 2017, arXiv:1706.03762; in tiles: Dao et al., 2022, arXiv:2205.14135,
              and Dao, 2023, arXiv:2307.08691; grouped queries: Ainslie et al., 2023,
              arXiv:2305.13245

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> q = jax.ShapeDtypeStruct((8, 10, 4, 16), jnp.float32)  # 8 examples, 10 steps, 4 heads of 16
    >>> y, residuals = jax.eval_shape(fp.DotProductAttention(causal=True).forward, (), (q, q, q))
    >>> y.shape, residuals.peak.shape
    ((8, 10, 4, 16), (8, 4, 1, 10, 1))
    """

    _: KW_ONLY
    causal: bool = False
    window: int | None = None
    soft_cap: float | None = None
    scale: float | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        for name in ("window", "block"):
            if getattr(self, name) is not None:
                check_count(self, name, getattr(self, name))
        for name in ("soft_cap", "scale"):
            if getattr(self, name) is not None:
                check_number(self, name, getattr(self, name), 0)
        if self.soft_cap == 0:
            raise LayerError(self, "soft_cap is 0", "write soft_cap=None for no cap")

    def forward(
        self, params: tuple, x: tuple[Any, ...], context: Context = Context()
    ) -> tuple[Array, AttentionResiduals]:
        q, k, v, mask = self._check(x, context)
        tiles = self._tiles(q, k)
        qs = grouped(q * self._scale(q), k, tiles)
        ks, vs = (blocked(visible(a, mask), tiles) for a in (k, v))

        def tile(sums: Any, start: Any, first: Any, keys: int) -> tuple[Array, ...]:
            old_y, old_peak, old_total = (part(a, start, tiles.rows) for a in sums)
            k_part, v_part = part(ks, first, keys), part(vs, first, keys)
            s, _ = self._scores(part(qs, start, tiles.rows), k_part, mask, tiles, start, first)
            peak = jnp.maximum(old_peak, jax.lax.stop_gradient(s.max(-1, keepdims=True)))
            p, shrink = jnp.exp(s - peak), jnp.exp(old_peak - peak)
            y = shrink * old_y + contract("...mgrc,...mcv->...mgrv", p.astype(v.dtype), v_part)
            total = shrink * old_total + p.sum(-1, keepdims=True)
            return tuple(placed(*pair, start) for pair in zip(sums, (y, peak, total), strict=True))

        wide = accumulator(q.dtype)
        column, place = (*qs.shape[:-1], 1), (*entries(qs)[:-1], None)
        data = (q, k, v, mask)
        y, peak, total = over_tiles(
            tiles,
            tile,
            (
                fresh(jnp.zeros((*qs.shape[:-1], v.shape[-1]), wide), place, data),
                # finite: e^(−∞ − peak) is 0, not NaN
                fresh(jnp.full(column, jnp.finfo(wide).min), place, data),
                fresh(jnp.zeros(column, wide), place, data),
            ),
        )
        y = ungrouped(y / jnp.where(total == 0, 1, total), q).astype(q.dtype)
        return y, AttentionResiduals(q, k, v, y, peak, total, mask, Shape((len(x),)))

    def backward(
        self, params: tuple, residuals: AttentionResiduals, dy: Array
    ) -> tuple[tuple[Any, ...], tuple]:
        q, k, v, y, peak, total, mask, own_mask = residuals
        check_cotangent(self, dy, y.shape, y.dtype)
        dy = spread_as(dy, entries(y), q)
        tiles, scale = self._tiles(q, k), self._scale(q)
        qs = grouped(q * scale, k, tiles)
        ks, vs = (blocked(visible(a, mask), tiles) for a in (k, v))
        # p = e^(s - peak) / total: dy [T, V] is divided once, and not p [T, S]
        share = jnp.where(total == 0, 0, 1 / jnp.where(total == 0, 1, total))
        dot = jnp.sum(widen(dy) * widen(y), -1, keepdims=True)  # Σ dy·y = Σⱼ pⱼ dpⱼ
        dots = grouped(dot, k, tiles) * share
        dys = grouped(widen(dy), k, tiles) * share
        # dy / total and ds are smaller than dv, dq and dk, which are sums of them: where 16 bits
        # cannot hold the small, they are made large
        larger = magnifier(dys, vs)
        if larger is not None:
            dys, dots = dys * larger, dots * larger
        dys = dys.astype(v.dtype)

        def tile(sums: Any, start: Any, first: Any, keys: int) -> tuple[Array, ...]:
            q_part, dy_part, dot_part, peak_part = (
                part(a, start, tiles.rows) for a in (qs, dys, dots, peak)
            )
            k_part, v_part = part(ks, first, keys), part(vs, first, keys)
            s, slope = self._scores(q_part, k_part, mask, tiles, start, first)
            p = jnp.exp(s - peak_part)
            ds = p * (contract("...mgrv,...mcv->...mgrc", dy_part, v_part) - dot_part)
            ds = (ds if slope is None else ds * slope).astype(q.dtype)
            dq, dk, dv = sums
            return (
                added(dq, contract("...mgrc,...mck->...mgrk", ds, k_part), start),
                added(dk, contract("...mgrc,...mgrk->...mck", ds, q_part), first),
                added(dv, contract("...mgrc,...mgrv->...mcv", p.astype(v.dtype), dy_part), first),
            )

        zeros = tuple(
            fresh(jnp.zeros(a.shape, peak.dtype), entries(a), residuals, dy) for a in (qs, ks, vs)
        )
        dq, dk, dv = over_tiles(tiles, tile, zeros)
        if larger is not None:
            dq, dk, dv = dq / larger, dk / larger[..., 0, :, :], dv / larger[..., 0, :, :]
        dq = (ungrouped(dq, q) * scale.astype(dq.dtype)).astype(q.dtype)
        dk, dv = (heads_swapped(d)[..., : k.shape[-3], :, :].astype(k.dtype) for d in (dk, dv))
        return ((dq, dk, dv) if own_mask.sizes == (3,) else (dq, dk, dv, None)), ()

    def _scale(self, q: Array) -> Array:
        scale = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        return jnp.asarray(scale, q.dtype)

    def _tiles(self, q: Array, k: Array) -> Tiles:
        """Blocks of even size, and the tiles in which some query sees some key."""
        size, length = q.shape[-3], k.shape[-3]
        skips = self.causal or self.window is not None
        blocks = (self.block,) * 2 if self.block else default_blocks(size, length, skips)
        (rows, n), (keys, m) = even_blocks(size, blocks[0]), even_blocks(length, blocks[1])
        start, first = np.meshgrid(rows * np.arange(n), keys * np.arange(m), indexing="ij")
        nearest, farthest = start - (first + keys - 1), start + rows - 1 - first
        seen = np.full((n, m), True)
        if self.causal:
            seen &= farthest >= 0
        if self.window is not None:
            seen &= (nearest < self.window) & (self.causal | (farthest > -self.window))
        if n <= WRITTEN_OUT and keys * m <= LONGEST:  # one tile a row: nothing is corrected
            places = [(rows * i, keys * on.argmax(), keys * on.sum()) for i, on in enumerate(seen)]
        else:
            places = [(*place, keys) for place in zip(start[seen], first[seen], strict=True)]
        return Tiles(rows, keys, length, np.array(places, np.int32))

    def _scores(
        self, q: Array, k: Array, mask: Array | None, tiles: Tiles, start: Any, first: Any
    ) -> tuple[Array, Array | None]:
        """s [..., M, N/M, rows, keys], −∞ where hidden; and, where it is capped, its slope."""
        s, slope = contract("...mgrk,...mck->...mgrc", q, k), None
        if self.soft_cap is not None:
            t = jnp.tanh(s / self.soft_cap)
            s, slope = self.soft_cap * t, (1 + t) * (1 - t)
        keys = first + jnp.arange(k.shape[-2], dtype=jnp.int32)
        distance = (start + jnp.arange(q.shape[-2], dtype=jnp.int32))[:, None] - keys
        hidden = []
        if self.causal:
            hidden.append(distance < 0)
        if self.window is not None:
            hidden.append((distance if self.causal else jnp.abs(distance)) >= self.window)
        if tiles.length % tiles.keys:
            hidden.append(keys >= tiles.length)
        if mask is not None:
            spare = -tiles.length % tiles.keys
            mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, spare)])
            seen = jax.lax.dynamic_slice_in_dim(mask, first, k.shape[-2], -1)
            hidden.append(~seen[..., None, None, None, :])
        for where in hidden:
            s = jnp.where(where, -jnp.inf, s)
        return s, slope

    def _check(
        self, x: tuple[Any, ...], context: Context
    ) -> tuple[Array, Array, Array, Array | None]:
        if not isinstance(x, tuple) or len(x) not in (3, 4):
            raise LayerError(self, f"x is {spell(x)}, wanted {AXES}, with a mask [..., S] or not")
        q, k, v = x[:3]
        if not all(is_float(a) and a.ndim >= 3 and a.dtype == q.dtype for a in (q, k, v)):
            raise LayerError(
                self,
                f"x is {spell(x)}, wanted {AXES} of one float dtype",
                "split the features into heads: Reshape((heads, size))",
            )
        rows, heads, size = q.shape[-3:]
        if (
            k.shape != (*q.shape[:-3], *k.shape[-3:-1], size)
            or v.shape[:-1] != k.shape[:-1]
            or heads % max(k.shape[-2], 1)
        ):
            raise LayerError(
                self,
                f"x is {spell(x)}, wanted {AXES}",
                "leading axes agree, and the query heads are a multiple of the key heads",
            )
        if 0 in (*q.shape[-3:], *v.shape[-3:]):  # no example on a leading axis is an empty batch
            raise LayerError(self, f"x is {spell(x)}: there is nothing to attend to")
        if (self.causal or self.window is not None) and rows != k.shape[-3]:
            raise LayerError(
                self,
                f"there are {rows} queries and {k.shape[-3]} keys: which of them is how far "
                "from which is not said",
                "give as many keys as queries, or use causal=False and window=None with a mask",
            )
        mask = x[3] if len(x) == 4 else context.mask
        wanted = k.shape[:-2]
        if mask is not None and (mask.shape != wanted or mask.dtype != bool):
            raise LayerError(
                self,
                f"the mask is {spell(mask)}, wanted bool[{', '.join(map(str, wanted))}]: "
                "one truth value for each key",
                f"write jnp.broadcast_to(mask, {wanted})",
            )
        q, k, v = by_heads(q, k, v)
        return q, k, v, whole(mask, -1)


def by_heads(*x: Array) -> tuple[Array, ...]:
    """q, k, v [..., length, heads, size] with length and size whole, and the heads where all three
    have them in the same places."""
    spread = {entries(a)[-2] for a in x}
    if len(spread) > 1:
        return tuple(whole(a, -3) for a in x)
    (heads,) = spread
    return tuple(spread_as(a, (*entries(a)[:-3], None, heads, None)) for a in x)
