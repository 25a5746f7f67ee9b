"""Windows that are not all alike: where they lie along an axis, and the maximum of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, Layer, LayerError, check_count, widen
from funcprop.sharding import Entry, entries, on_each_device


def check_targets(layer: Layer, name: str, sizes: Any) -> None:
    """One to three output sizes, of which None are those of x."""
    if not isinstance(sizes, tuple) or not 1 <= len(sizes) <= 3:
        remedy = f"write {name}=({sizes}, {sizes}) for images, ({sizes},) for sequences"
        raise LayerError(layer, f"{name} is {sizes!r}, wanted a tuple of one to three", remedy)
    for size in sizes:
        if size is not None:
            check_count(layer, name, size)


def regions(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    """[m] starts and stops of m windows that cover n places: i n/m rounded down, (i + 1) n/m up."""
    i = np.arange(m)
    return i * n // m, -(-(i + 1) * n // m)


def maximum(x: Array, taps: Sequence[Sequence[Any]]) -> tuple[Array, Array]:
    """The maximum of each window along the axes before the channels, and its place.

    x     [..., sizes, channels]
    taps  for every axis, for every tap of a window: where each window has it along the axis. NumPy
          [m], or arrays [..., channels, m] of the same leading axes as x

    Axis by axis, the last first: so that the first maximum in row-major order wins, or the last
    NaN. The place is int32, the number of the element among the sizes.
    """
    y: Array = x
    place: Any = np.zeros((), np.int32)
    inner = 1
    for axis in range(-2, -len(taps) - 2, -1):
        best: tuple[Any, Any] | None = None
        for index in taps[axis + 1]:
            along = spread_along(index, axis, len(taps))
            tap, known = picked(y, index, axis, len(taps)), place
            if isinstance(place, np.ndarray):
                known = jnp.asarray(along * np.int32(inner), jnp.int32)
            else:
                known = picked(place, index, axis, len(taps)) + along * jnp.int32(inner)
            if best is None:
                best = tap, jnp.broadcast_to(known, tap.shape)
            else:
                wins = (tap > best[0]) | (tap != tap)
                best = jnp.where(wins, tap, best[0]), jnp.where(wins, known, best[1])
        assert best is not None
        y, place = best
        inner *= x.shape[axis]
    return y, place


def spread_along(index: Any, axis: int, axes: int) -> Any:
    """[m] or [..., channels, m] -> int32 that broadcasts along the axis of x."""
    if isinstance(index, np.ndarray):
        return index.astype(np.int32).reshape(-1, *(1 for _ in range(-axis - 1)))
    moved = jnp.swapaxes(index, -1, -2)  # [..., m, channels]
    before, after = axes + axis + 1, -axis - 2
    shape = (*moved.shape[:-2], *(1,) * before, moved.shape[-2], *(1,) * after, moved.shape[-1])
    return moved.reshape(shape)


def picked(x: Array, index: Any, axis: int, axes: int) -> Array:
    """The elements of x at the index along an axis that is not spread over devices."""
    if isinstance(index, np.ndarray):
        steps = np.diff(index)
        if (steps == steps[:1]).all() and (steps > 0).all():
            cut = [slice(None)] * x.ndim
            step = int(steps[0]) if len(steps) else 1
            cut[axis] = slice(int(index[0]), int(index[-1]) + 1, step)
            return x[tuple(cut)]
        return on_each_device(
            lambda x: jnp.take(x, jnp.asarray(index, jnp.int32), axis, mode="clip"),
            (x,), (lambda x: unspread(x, axes),), unspread(x, axes),
        )  # fmt: skip
    along = spread_along(index, axis, axes)
    return on_each_device(
        lambda x, along: jnp.take_along_axis(x, along, axis, mode="clip"),
        (x, along), (lambda _: unspread(x, axes),) * 2, unspread(x, axes),
    )  # fmt: skip


def put_back(dy: Array, place: Array, sizes: tuple[int, ...]) -> Array:
    """dy added up at the places: the transpose of picking them."""
    leading, channels = dy.shape[: -len(sizes) - 1], dy.shape[-1]

    def added(dy: Array, place: Array) -> Array:
        rows = dy.reshape(-1, math.prod(dy.shape[-len(sizes) - 1 : -1]), dy.shape[-1])
        example = jnp.arange(rows.shape[0], dtype=jnp.int32)[:, None, None]
        channel = jnp.arange(rows.shape[-1], dtype=jnp.int32)
        zeros = jnp.zeros((rows.shape[0], math.prod(sizes), rows.shape[-1]), rows.dtype)
        return (
            zeros.at[example, place.reshape(rows.shape), channel]
            .add(rows)
            .reshape(*dy.shape[: -len(sizes) - 1], *sizes, dy.shape[-1])
        )

    spec = unspread(dy, len(sizes))
    out = on_each_device(added, (widen(dy), place), (lambda _: spec,) * 2, spec)
    assert out.shape == (*leading, *sizes, channels)
    return out.astype(dy.dtype)


def unspread(x: Any, axes: int) -> tuple[Entry, ...]:
    """The entries of x with its axes before the channels whole."""
    spec = entries(x)
    return (*spec[: -axes - 1], *(None for _ in range(axes)), spec[-1])
