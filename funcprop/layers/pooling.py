"""Pooling: the maximum or the mean of windows over the axes before the channels.

A window has as many axes as it has sizes; everything before them is a batch. All windows are worked
at once: their elements of one place, one "tap", are a strided slice of x, so that a pool is a few
elementwise operations between slices, forward, and a sum of shifted arrays, backward. No scatter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, NamedTuple

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
    check_input,
    spell,
    widen,
)
from funcprop.sharding import entries, fresh

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


class MaxPoolResiduals(NamedTuple):
    """What MaxPool keeps."""

    index: Array  # int8 [..., windows, channels]: which tap won (int16 beyond 128 taps)
    sizes: Shape  # of the pooled axes of x, in the tree structure


@dataclass(frozen=True)
class MaxPool(Pool):
    """y = the maximum of each window, for each channel.

    A tie goes to the first maximum in row-major order; padding never wins. A window with a NaN
    gives NaN, and its gradient goes to the last NaN.

    forward   x [..., sizes, channels] -> y [..., windows, channels]
    keeps     the index of the maximum in its window. Asking x == y in the backward pass instead
              is wrong under jit, where x and y may be computed again with other rounding.
    backward  dx = Σ over taps of dy, shifted to the tap, where the tap won
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where window, stride or padding cannot be, x is not a float array
              [..., sizes, channels] with room for a window, or dy has not the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.MaxPool((2,)), jnp.array([[1.0], [3.0], [2.0], [2.0]])
    >>> y, residuals = layer.forward((), x)
    >>> y.ravel()
    Array([3., 2.], dtype=float32)
    >>> layer.backward((), residuals, jnp.ones((2, 1)))[0].ravel()
    Array([0., 1., 1., 0.], dtype=float32)
    """

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, MaxPoolResiduals]:
        sizes = self._sizes(x)
        if any(map(any, self._pads(sizes))):
            # padded once: the comparisons are made again in the backward pass, pads and all
            edges = [(0, 0, 0)] * (x.ndim - len(sizes) - 1) + [(*p, 0) for p in self._pads(sizes)]
            x = jax.lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), [*edges, (0, 0, 0)])
        taps = replace(self, padding="VALID")._taps(x)
        y = next(taps)
        index = jnp.broadcast_to(self._first_inside(sizes), y.shape)
        for number, tap in enumerate(taps, start=1):
            wins = (tap > y) | (tap != tap)
            y = jnp.where(wins, tap, y)
            index = jnp.where(wins, jnp.asarray(number, index.dtype), index)
        return y, MaxPoolResiduals(index, Shape(sizes))

    def backward(
        self, params: tuple, residuals: MaxPoolResiduals, dy: Array
    ) -> tuple[Array, tuple]:
        index, sizes = residuals.index, residuals.sizes.sizes
        check_cotangent(self, dy, index.shape, dy.dtype)
        dx = 0.0
        for number, offset in enumerate(self._offsets()):
            won = jnp.where(index == jnp.asarray(number, index.dtype), widen(dy), 0)
            dx = dx + self._put_back(won, offset, sizes)
        return jnp.asarray(dx, dy.dtype), ()

    def _first_inside(self, sizes: tuple[int, ...]) -> Array:
        """For each window its first tap that is not padding: where a window of −∞ leads."""
        first = np.zeros((1,) * len(sizes), int)
        rows = zip(sizes, self._pads(sizes), self._counts(sizes), strict=True)
        for axis, (_, (low, _), count) in enumerate(rows):
            along = np.maximum(0, low - self._strides()[axis] * np.arange(count))
            shape = (*(1 for _ in sizes[:axis]), count, *(1 for _ in sizes[axis + 1 :]))
            first = first * self.window[axis] + along.reshape(shape)
        dtype = np.int8 if math.prod(self.window) <= 128 else np.int16
        return jnp.asarray(first[..., None], dtype)


@dataclass(frozen=True)
class AvgPool(Pool):
    """y = the mean of each window, for each channel.

    `count_include_pad`: the mean is over the whole window, with zeros for the padding (PyTorch's
    and Flax's default); False: over the elements inside x.

    forward   x [..., sizes, channels] -> y [..., windows, channels]
    keeps     the sizes, in the tree structure
    backward  dx = Σ over taps of dy / count, shifted to the tap
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where window, stride or padding cannot be, x is not a float array
              [..., sizes, channels] with room for a window, or dy has not the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.AvgPool((2,)), jnp.array([[1.0], [3.0], [2.0], [2.0]])
    >>> y, residuals = layer.forward((), x)
    >>> y.ravel()
    Array([2., 2.], dtype=float32)
    >>> layer.backward((), residuals, jnp.ones((2, 1)))[0].ravel()
    Array([0.5, 0.5, 0.5, 0.5], dtype=float32)
    """

    _: KW_ONLY
    count_include_pad: bool = True

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Shape]:
        sizes = self._sizes(x)
        total = sum(self._taps(widen(x)))
        return self._divide(total, sizes).astype(x.dtype), Shape(sizes)

    def backward(self, params: tuple, residuals: Shape, dy: Array) -> tuple[Array, tuple]:
        sizes = residuals.sizes
        self._check_dy(dy, sizes)
        share = self._divide(widen(dy), sizes)
        dx = sum(self._put_back(share, offset, sizes) for offset in self._offsets())
        return jnp.asarray(dx, dy.dtype), ()

    def _divide(self, total: Any, sizes: tuple[int, ...]) -> Array:
        """total / count: the number of elements each window has."""
        if self.count_include_pad or not any(map(any, self._pads(sizes))):
            return total / math.prod(self.window)
        count = np.ones((), int)
        rows = zip(sizes, self._pads(sizes), self._counts(sizes), strict=True)
        for axis, (size, (low, _), windows) in enumerate(rows):
            start = self._strides()[axis] * np.arange(windows) - low
            inside = np.minimum(start + self.window[axis], size) - np.maximum(start, 0)
            count = count[..., None] * inside
        return total / jnp.asarray(count[..., None], total.dtype)


@dataclass(frozen=True)
class GlobalAvgPool(Layer):
    """y = the mean over the `axes` axes before the channels.

    forward   x [..., sizes, channels] -> y [..., channels]
    keeps     the sizes, in the tree structure
    backward  dx = dy / Π sizes, everywhere
    dtypes    any float; y and dx have that of x, the mean is made in float32 at least
    raises    LayerError where axes is no positive whole number, or x is not a float array
              [..., sizes, channels] with something in it
    source    Lin, Chen and Yan, 2013, arXiv:1312.4400

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> images = jax.ShapeDtypeStruct((8, 7, 7, 32), jnp.float32)
    >>> jax.eval_shape(fp.GlobalAvgPool().forward, (), images)[0].shape
    (8, 32)
    >>> fp.GlobalAvgPool(axes=1).forward((), jnp.array([[1.0], [3.0]]))[0]
    Array([2.], dtype=float32)
    """

    _: KW_ONLY
    axes: int = 2

    def __post_init__(self) -> None:
        check_count(self, "axes", self.axes)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Shape]:
        sizes = pooled_sizes(self, x, self.axes)
        pooled = tuple(range(-self.axes - 1, -1))
        return widen(x).mean(pooled).astype(x.dtype), Shape(sizes)

    def backward(self, params: tuple, residuals: Shape, dy: Array) -> tuple[Array, tuple]:
        check_input(self, dy, rank=1)
        share = (widen(dy) / math.prod(residuals.sizes)).astype(dy.dtype)
        return spread(share, residuals.sizes), ()


class GlobalMaxPoolResiduals(NamedTuple):
    """What GlobalMaxPool keeps."""

    index: Array  # int32 [..., channels]: where the maximum lies, in row-major order
    sizes: Shape  # of the pooled axes of x, in the tree structure


@dataclass(frozen=True)
class GlobalMaxPool(Layer):
    """y = the maximum over the `axes` axes before the channels.

    A tie goes to the first maximum in row-major order. A NaN anywhere gives NaN, and the gradient
    goes to the first NaN.

    forward   x [..., sizes, channels] -> y [..., channels]
    keeps     the index of the maximum
    backward  dx = dy at the index, 0 elsewhere
    dtypes    any float; y and dx have that of x
    raises    LayerError where axes is no positive whole number, x is not a float array
              [..., sizes, channels] with something in it, or dy has not the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.GlobalMaxPool(axes=1)
    >>> y, residuals = layer.forward((), jnp.array([[1.0], [3.0]]))
    >>> layer.backward((), residuals, jnp.ones(1))[0].ravel()
    Array([0., 1.], dtype=float32)
    """

    _: KW_ONLY
    axes: int = 2

    def __post_init__(self) -> None:
        check_count(self, "axes", self.axes)

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, GlobalMaxPoolResiduals]:
        sizes = pooled_sizes(self, x, self.axes)
        places = math.prod(x.shape[-self.axes - 1 : -1])
        flat = x.reshape(*x.shape[: -self.axes - 1], places, x.shape[-1])
        index = first_maximum(jax.lax.stop_gradient(flat))
        y = jnp.take_along_axis(flat, index[..., None, :], -2)[..., 0, :]
        return y, GlobalMaxPoolResiduals(index, Shape(sizes))

    def backward(
        self, params: tuple, residuals: GlobalMaxPoolResiduals, dy: Array
    ) -> tuple[Array, tuple]:
        index, sizes = residuals.index, residuals.sizes.sizes
        check_cotangent(self, dy, index.shape, dy.dtype)
        place = jnp.arange(math.prod(sizes), dtype=jnp.int32).reshape(*sizes, 1)
        return jnp.where(spread(index, sizes) == place, spread(dy, sizes), 0), ()


def pooled_sizes(layer: Layer, x: Array, axes: int) -> tuple[int, ...]:
    """The sizes of the `axes` axes before the channels, none of them empty."""
    check_input(layer, x, rank=axes + 1)
    sizes = x.shape[-axes - 1 : -1]
    if min(sizes) < 1:
        raise LayerError(layer, f"x is {spell(x)}: its pooled axes {sizes} hold nothing")
    return sizes


def spread(y: Array, sizes: tuple[int, ...]) -> Array:
    """y [..., channels], repeated at every place of [..., sizes, channels]."""
    leading, channels = y.shape[:-1], y.shape[-1]
    places = y.reshape(*leading, *(1 for _ in sizes), channels)
    return jnp.broadcast_to(places, (*leading, *sizes, channels))


def first_maximum(x: Array) -> Array:
    """[..., n, channels] -> int32 [..., channels]: where the first NaN or else maximum lies.

    CPUs run argmax number by number, and a loop of comparisons over all channels faster.
    """

    def by_argmax(x: Array) -> Array:
        return jax.lax.argmax(x, x.ndim - 2, jnp.int32)

    def by_loop(x: Array) -> Array:
        def look(k: Array, best: tuple[Array, Array]) -> tuple[Array, Array]:
            value, index = best
            other = jax.lax.dynamic_index_in_dim(x, k, x.ndim - 2, keepdims=False)
            wins = (other > value) | ((other != other) & (value == value))
            return jnp.where(wins, other, value), jnp.where(wins, k, index)

        start = x[..., 0, :]
        zeros = fresh(jnp.zeros(start.shape, jnp.int32), entries(start), start)
        return jax.lax.fori_loop(jnp.int32(1), jnp.int32(x.shape[-2]), look, (start, zeros))[1]

    return jax.lax.platform_dependent(x, cpu=by_loop, default=by_argmax)
