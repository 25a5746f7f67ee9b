"""Where the windows of a pool lie, and their elements.

A window has as many axes as it has sizes; everything before them is a batch. All windows are worked
at once: their elements of one place, one "tap", are a strided slice of x, so that a pool is a few
elementwise operations between slices, forward, and a sum of shifted arrays, backward. No scatter.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

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
class Pool(Layer):
    """What MaxPool and AvgPool share: where the windows lie.

    window   sizes, one a pooled axis: (2, 2) for images [..., height, width, channels]
    stride   steps from window to window, one a pooled axis; None: the window, no overlap
    padding  "VALID": windows inside x; "SAME": ceil(size / stride) windows; or pairs
             ((low, high), ...), each smaller than the window, so that none is all padding
    """

    window: tuple[int, ...]
    _: KW_ONLY
    stride: tuple[int, ...] | None = None
    padding: Padding = "VALID"

    def __post_init__(self) -> None:
        self._check_sizes("window", self.window)
        if not 1 <= len(self.window) <= 3:
            raise LayerError(self, f"window is {self.window!r}, wanted one to three sizes")
        if self.stride is not None:
            self._check_sizes("stride", self.stride)
            if len(self.stride) != len(self.window):
                raise LayerError(
                    self,
                    f"stride is {self.stride!r}, wanted {len(self.window)} sizes, as in window",
                    f"write stride={(self.stride[0],) * len(self.window)}",
                )
        self._check_padding()

    def _check_sizes(self, name: str, sizes: Any) -> None:
        if not isinstance(sizes, tuple) or not sizes:
            sizes = sizes or 2
            remedy = f"write {name}=({sizes}, {sizes}) for images, ({sizes},) for sequences"
            raise LayerError(self, f"{name} is {sizes!r}, wanted a tuple", remedy)
        for size in sizes:
            check_count(self, name, size)

    def _check_padding(self) -> None:
        if self.padding in ("VALID", "SAME"):
            return
        pairs = self.padding if isinstance(self.padding, tuple) else ()
        right = len(pairs) == len(self.window) and all(
            isinstance(pair, tuple)
            and len(pair) == 2
            and all(isinstance(n, int) and 0 <= n < size for n in pair)
            for pair, size in zip(pairs, self.window, strict=True)
        )
        if not right:
            raise LayerError(
                self,
                f"padding is {self.padding!r}, wanted 'VALID', 'SAME' or {len(self.window)} pairs "
                "(low, high) of numbers smaller than the window",
                f"write padding={tuple((size // 2, size // 2) for size in self.window)}",
            )

    def _strides(self) -> tuple[int, ...]:
        return self.window if self.stride is None else self.stride

    def _pads(self, sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """(low, high) for every pooled axis of the sizes given."""
        if isinstance(self.padding, tuple):
            return self.padding
        if self.padding == "VALID":
            return ((0, 0),) * len(sizes)
        rows = zip(sizes, self.window, self._strides(), strict=True)
        totals = [max((-(-n // step) - 1) * step + size - n, 0) for n, size, step in rows]
        return tuple((total // 2, total - total // 2) for total in totals)

    def _counts(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """How many windows lie along every pooled axis."""
        rows = zip(sizes, self._pads(sizes), self.window, self._strides(), strict=True)
        return tuple((n + sum(pad) - size) // step + 1 for n, pad, size, step in rows)

    def _sizes(self, x: Array) -> tuple[int, ...]:
        """The sizes of the pooled axes of x, checked."""
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

    def _taps(self, x: Array) -> Iterator[Array]:
        """For every tap its elements of all windows, zeros beyond the edges of x.

        Each slice is padded by itself: x padded as a whole would be one more copy of x.
        """
        sizes = self._sizes(x)
        before = x.ndim - len(sizes) - 1
        for offset in self._offsets():
            start, stop, edges = [0] * before, list(x.shape[:before]), [(0, 0, 0)] * before
            rows = zip(
                offset, self._pads(sizes), sizes, self._counts(sizes), self._strides(), strict=True
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
        rows = zip(offset, self._pads(sizes), sizes, self._strides(), strict=True)
        for axis, (at, (low, _), size, step) in enumerate(rows, start=len(edges)):
            first = at - low  # negative where the first window's tap lies in the padding
            last = first + (tap.shape[axis] - 1) * step
            edges.append((first, size - 1 - last, step - 1))
        return jax.lax.pad(tap, jnp.zeros((), tap.dtype), [*edges, (0, 0, 0)])

    def _check_dy(self, dy: Array, sizes: tuple[int, ...]) -> None:
        check_input(self, dy, rank=len(sizes) + 1)
        shape = (*dy.shape[: -len(sizes) - 1], *self._counts(sizes), dy.shape[-1])
        check_cotangent(self, dy, shape, dy.dtype)
