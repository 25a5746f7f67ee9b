"""Where the windows of a pool lie, and their elements.

A window has as many axes as it has sizes; everything before them is a batch. All windows are worked
at once: their elements of one place, one "tap", are a strided slice of x, so that a pool is a few
elementwise operations between slices, forward, and a sum of shifted arrays, backward. No scatter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Layer,
    LayerError,
    check_cotangent,
    check_count,
    check_input,
    spell,
)

Padding = Literal["VALID", "SAME"] | tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Windowed(Layer):
    """A layer of windows over the axes before the channels.

    window   sizes, one an axis: (2, 2) for images [..., height, width, channels]
    stride   steps from window to window, one an axis
    padding  "VALID": windows inside x; "SAME": ceil(size / stride) windows; or pairs
             ((low, high), ...)
    """

    window: tuple[int, ...]
    _: KW_ONLY
    stride: tuple[int, ...] | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        self._check_sizes("window", self.window)
        if not 1 <= len(self.window) <= 3:
            raise LayerError(self, f"window is {self.window!r}, wanted one to three sizes")
        self._check_per_axis("stride", self.stride)
        self._check_padding()

    def _check_sizes(self, name: str, sizes: Any) -> None:
        if not isinstance(sizes, tuple) or not sizes:
            sizes = sizes or 2
            remedy = f"write {name}=({sizes}, {sizes}) for images, ({sizes},) for sequences"
            raise LayerError(self, f"{name} is {sizes!r}, wanted a tuple", remedy)
        for size in sizes:
            check_count(self, name, size)

    def _check_per_axis(self, name: str, sizes: Any) -> None:
        """None, or as many sizes as the window has."""
        if sizes is None:
            return
        self._check_sizes(name, sizes)
        if len(sizes) != len(self.window):
            raise LayerError(
                self,
                f"{name} is {sizes!r}, wanted {len(self.window)} sizes, as in window",
                f"write {name}={(sizes[0],) * len(self.window)}",
            )

    def _check_padding(self) -> None:
        if self.padding in ("VALID", "SAME"):
            return
        pairs = self.padding if isinstance(self.padding, tuple) else ()
        right = len(pairs) == len(self.window) and all(
            isinstance(pair, tuple)
            and len(pair) == 2
            and all(is_count(n) and n <= most for n in pair)
            for pair, most in zip(pairs, self._most_padding(), strict=True)
        )
        if not right:
            limit = " smaller than the window" if self._most_padding()[0] < math.inf else ""
            raise LayerError(
                self,
                f"padding is {self.padding!r}, wanted 'VALID', 'SAME' or {len(self.window)} pairs "
                f"(low, high) of numbers{limit}",
                f"write padding={tuple((size // 2, size // 2) for size in self.window)}",
            )

    def _most_padding(self) -> tuple[float, ...]:
        """The widest explicit padding: no window is all padding."""
        return tuple(reach - 1 for reach in self._reach())

    def _strides(self) -> tuple[int, ...]:
        return self.window if self.stride is None else self.stride

    def _dilations(self) -> tuple[int, ...]:
        """From tap to tap of a window."""
        return (1,) * len(self.window)

    def _reach(self) -> tuple[int, ...]:
        """From the first tap of a window to its last."""
        pairs = zip(self.window, self._dilations(), strict=True)
        return tuple((size - 1) * apart + 1 for size, apart in pairs)

    def _given_pads(self, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """(low, high) for every axis of the sizes given, as `padding` says."""
        if isinstance(self.padding, tuple):
            return self.padding
        if self.padding == "VALID":
            return ((0, 0),) * len(sizes)
        rows = zip(sizes, self._reach(), self._strides(), strict=True)
        totals = [max((-(-n // step) - 1) * step + reach - n, 0) for n, reach, step in rows]
        return tuple((total // 2, total - total // 2) for total in totals)

    def _pads(self, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """(low, high) for every axis: so much that every window is filled."""
        return self._given_pads(sizes)

    def _counts(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """How many windows lie along every axis."""
        rows = zip(sizes, self._pads(sizes), self._reach(), self._strides(), strict=True)
        return tuple((n + sum(pad) - reach) // step + 1 for n, pad, reach, step in rows)

    def _sizes(self, x: Array) -> tuple[int, ...]:
        """The sizes of the axes of x that windows lie on, checked."""
        check_input(self, x, rank=len(self.window) + 1)
        sizes = x.shape[-len(self.window) - 1 : -1]
        if min(sizes) < 1 or min(self._counts(sizes)) < 1:
            raise LayerError(
                self,
                f"x is {spell(x)}: no window fits into its pooled axes {sizes}",
                "pooled axes stand before the channels; padding='SAME' keeps small inputs",
            )
        return sizes

    def _offsets(self) -> Iterator[tuple[int, ...]]:
        """The taps in row-major order."""
        return itertools.product(*map(range, self.window))

    def _places(self, offset: tuple[int, ...]) -> tuple[int, ...]:
        """Where a tap lies in its window."""
        return tuple(at * apart for at, apart in zip(offset, self._dilations(), strict=True))

    def _taps(self, x: Array) -> Iterator[Array]:
        """For every tap its elements of all windows, zeros beyond the edges of x.

        Each slice is padded by itself: x padded as a whole would be one more copy of x.
        """
        sizes = x.shape[-len(self.window) - 1 : -1]
        before = x.ndim - len(sizes) - 1
        for offset in self._offsets():
            start, stop, edges = [0] * before, list(x.shape[:before]), [(0, 0, 0)] * before
            rows = zip(
                self._places(offset),
                self._pads(sizes),
                sizes,
                self._counts(sizes),
                self._strides(),
                strict=True,
            )
            for at, (low, _), size, count, step in rows:
                # window i has this tap at place i · step + at − low: inside x from first to last
                first = min(max(-((at - low) // step), 0), count)
                last = min(max(-((at - low - size) // step), first), count)
                start.append(first * step + at - low if last > first else 0)
                stop.append(start[-1] + (last - first - 1) * step + 1 if last > first else 0)
                edges.append((first, count - last, 0))
            strides = (*(1 for _ in range(before)), *self._strides(), 1)
            tap = jax.lax.slice(x, (*start, 0), (*stop, x.shape[-1]), strides)
            if any(map(any, edges)):
                tap = jax.lax.pad(tap, jnp.zeros((), x.dtype), [*edges, (0, 0, 0)])
            yield tap

    def _put_back(self, tap: Array, offset: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
        """The transpose of one slice of `_taps`: its elements where they came from, else zeros."""
        edges = [(0, 0, 0)] * (tap.ndim - len(sizes) - 1)
        rows = zip(self._places(offset), self._pads(sizes), sizes, self._strides(), strict=True)
        for axis, (at, (low, _), size, step) in enumerate(rows, start=len(edges)):
            first = at - low  # negative where the first window's tap lies in the padding
            last = first + (tap.shape[axis] - 1) * step
            edges.append((first, size - 1 - last, step - 1))
        return jax.lax.pad(tap, jnp.zeros((), tap.dtype), [*edges, (0, 0, 0)])

    def _check_dy(self, dy: Array, sizes: tuple[int, ...]) -> None:
        check_input(self, dy, rank=len(sizes) + 1)
        shape = (*dy.shape[: -len(sizes) - 1], *self._counts(sizes), dy.shape[-1])
        check_cotangent(self, dy, shape, dy.dtype)


@dataclass(frozen=True)
class Pool(Windowed):
    """What pools share: where their windows lie.

    window     sizes, one a pooled axis: (2, 2) for images [..., height, width, channels]
    stride     steps from window to window, one a pooled axis; None: the window, no overlap
    padding    "VALID": windows inside x; "SAME": ceil(size / stride) windows; or pairs
               ((low, high), ...), each smaller than the window, so that none is all padding
    ceil_mode  one window more, where the last would leave elements over: it reaches beyond x and
               its padding, and starts before their end
    """

    _: KW_ONLY
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ceil_mode and self.padding == "SAME":
            raise LayerError(
                self,
                "ceil_mode=True with padding='SAME', whose windows leave nothing over",
                "leave one of them out",
            )

    def _pads(self, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        if not self.ceil_mode:
            return self._given_pads(sizes)
        rows = zip(sizes, self._given_pads(sizes), self._reach(), self._strides(), strict=True)
        return tuple(reached(n, pad, reach, step) for n, pad, reach, step in rows)

    def _elements(self, offset: tuple[int, ...], sizes: tuple[int, ...]) -> Array:
        """For each window the number of a tap's element of x, in row-major order: int32 [..., 1].

        −1 where the tap lies in the padding.
        """
        number, inside = np.zeros((), int), np.ones((), bool)
        rows = zip(
            self._places(offset),
            self._pads(sizes),
            sizes,
            self._counts(sizes),
            self._strides(),
            strict=True,
        )
        for at, (low, _), size, count, step in rows:
            along = np.arange(count) * step + at - low
            number = number[..., None] * size + along
            inside = inside[..., None] & (along >= 0) & (along < size)
        return jnp.asarray(np.where(inside, number, -1)[..., None], jnp.int32)

    def _number(self, sizes: tuple[int, ...], dtype: Any, padding: bool) -> Array | int:
        """How many elements each window has, of x and of its padding or of x alone: [..., 1]."""
        rows = zip(sizes, self._given_pads(sizes), self._counts(sizes), strict=True)
        count = np.ones((), int)
        for axis, (size, (low, high), windows) in enumerate(rows):
            first, last = (-low, size + high) if padding else (0, size)
            start = self._strides()[axis] * np.arange(windows) - low
            stop = np.minimum(start + self.window[axis], last)
            count = count[..., None] * (stop - np.maximum(start, first))
        if (count == math.prod(self.window)).all():
            return math.prod(self.window)
        return jnp.asarray(count[..., None], dtype)


def reached(n: int, pad: tuple[int, int], reach: int, step: int) -> tuple[int, int]:
    """The padding of an axis with a last window that reaches beyond it."""
    low, high = pad
    count = -(-(n + low + high - reach) // step) + 1
    if (count - 1) * step >= n + low:  # it would start in the padding
        count -= 1
    return low, max(high, (count - 1) * step + reach - n - low)


def is_count(value: Any) -> bool:
    """Whether it is a natural number."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
