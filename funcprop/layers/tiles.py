"""Tiles of attention: how large they are, how arrays are cut into them, and the walk over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, widen

WRITTEN_OUT = 4  # tiles: up to so many are no loop
LONGEST = 1024  # keys a tile


class Tiles(NamedTuple):
    """Which blocks of queries meet which blocks of keys."""

    rows: int  # queries a block
    keys: int  # keys a block
    length: int  # keys in all, without those that fill the last block
    places: np.ndarray  # int32 [tiles, 3]: first query, first key, number of keys of each tile


def default_blocks(rows: int, keys: int, skips: bool) -> tuple[int, int]:
    """Queries and keys a tile: few enough that its scores stay in the cache.

    Small squares where tiles can be skipped; else rows as long as they may be, since every further
    tile of a row corrects the sums of those before it.
    """
    if skips:
        return (64, 64) if rows <= 256 else (128, 128)
    keys = min(keys, LONGEST)
    return max(64, 2**17 // keys), keys


def even_blocks(size: int, block: int) -> tuple[int, int]:
    """Size and number of equal blocks, none larger than `block`, that cover `size`."""
    count = -(-size // block)
    return -(-size // count), count


def accumulator(dtype: Any) -> Any:
    """float32 for 16-bit floats, else the dtype itself: what sums are made in."""
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def contract(axes: str, a: Array, b: Array) -> Array:
    """An einsum, accumulated and returned in at least float32."""
    return jnp.einsum(axes, a, b, preferred_element_type=accumulator(a.dtype))


def heads_swapped(x: Array) -> Array:
    """[..., S, M, K] -> [..., M, S, K], and back."""
    return jnp.swapaxes(x, -2, -3)


def padded(x: Array, block: int) -> Array:
    """x [..., rows, features] with rows of zeros, up to a multiple of `block`."""
    spare = -x.shape[-2] % block
    return jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, spare), (0, 0)]) if spare else x


def blocked(x: Array, tiles: Tiles) -> Array:
    """Keys or values [..., S, M, K] -> [..., M, S, K], S a multiple of the block."""
    return padded(heads_swapped(x), tiles.keys)


def grouped(x: Array, k: Array, tiles: Tiles) -> Array:
    """Queries [..., T, N, K] -> [..., M, N/M, T, K]: those of one key head side by side."""
    x, heads = padded(heads_swapped(x), tiles.rows), k.shape[-2]
    return x.reshape(*x.shape[:-3], heads, x.shape[-3] // heads, *x.shape[-2:])


def ungrouped(x: Array, q: Array) -> Array:
    """The inverse of `grouped`: [..., M, N/M, T, K] -> [..., T, N, K], without the padding."""
    rows, heads = q.shape[-3:-1]
    return heads_swapped(x.reshape(*q.shape[:-3], heads, *x.shape[-2:])[..., :rows, :])


def visible(x: Array, mask: Array | None) -> Array:
    """x [..., S, heads, features], 0 where it is hidden: what lies there may be NaN."""
    return x if mask is None else jnp.where(mask[..., None, None], x, 0)


def magnifier(dys: Array, v: Array) -> Array | None:
    """[..., M, 1, 1, 1]: a power of two for dy / total and what is made of it, or None.

    In v's dtype both dy / total [..., M, N/M, T, V] and its products with the values
    [..., M, S, V] then neither vanish nor overflow. None where the dtype reaches as far as float32.
    """
    if jnp.finfo(v.dtype).minexp < -100:
        return None
    wide, axes = jax.lax.stop_gradient((dys, widen(v))), (-3, -2, -1)
    length = jnp.sqrt(jnp.square(wide[1]).sum(-1).max(-1))[..., None, None, None]
    peak = jnp.abs(wide[0]).max(axes, keepdims=True)
    # |Σ dy v − Σ dy y| ≤ 2 √V max |dy| max ‖v‖
    bound = peak * jnp.maximum(1, 2 * math.sqrt(v.shape[-1]) * length)
    usable = (bound > 0) & jnp.isfinite(bound)
    _, exponent = jnp.frexp(jnp.where(usable, bound, 1))
    return jnp.ldexp(jnp.ones_like(bound), jnp.where(usable, 15 - exponent, 0))


def part(x: Array, start: Any, size: int) -> Array:
    """`size` rows of x [..., rows, features] from `start` on."""
    return jax.lax.dynamic_slice_in_dim(x, start, size, -2)


def placed(whole: Array, rows: Array, start: Any) -> Array:
    """whole [..., rows, features] with the rows from `start` on replaced."""
    return jax.lax.dynamic_update_slice_in_dim(whole, rows, start, -2)


def added(whole: Array, rows: Array, start: Any) -> Array:
    """whole [..., rows, features] plus `rows` from `start` on."""
    return placed(whole, part(whole, start, rows.shape[-2]) + rows, start)


def over_tiles(tiles: Tiles, tile: Callable[..., tuple[Array, ...]], sums: Any) -> Any:
    """sums = tile(sums, start, first, keys) for every tile, one after the other.

    Many are a loop, which compiles in the same time for any number of them and holds the scores of
    one at a time. XLA's loops on CPU run small matmuls on one core: few are written out.
    """
    if len(tiles.places) <= WRITTEN_OUT:
        for start, first, keys in tiles.places:
            sums = tile(sums, start, first, int(keys))
        return sums

    def step(sums: Any, place: Array) -> tuple[Any, None]:
        return tile(sums, place[0], place[1], tiles.keys), None

    return jax.lax.scan(step, sums, jnp.asarray(tiles.places))[0]
