"""MaxPool: the maximum of each window, whose place is kept; MaxUnpool puts values back there."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Context,
    LayerError,
    Shape,
    check_cotangent,
    check_input,
    concrete,
    is_integer,
    spell,
    widen,
)
from funcprop.layers.pooling.windows import Pool


class MaxPoolResiduals(NamedTuple):
    """What MaxPool keeps."""

    index: Array  # int8 [..., windows, channels]: which tap won (int16 beyond 128 taps)
    sizes: Shape  # of the pooled axes of x, in the tree structure


@dataclass(frozen=True)
class MaxPool(Pool):
    """y = the maximum of each window, for each channel.

    A tie goes to the first maximum in row-major order; padding never wins. A window with a NaN
    gives NaN, and its gradient goes to the last NaN. `dilation`: from tap to tap of a window.
    `return_places`: y is (maxima, places), int32, each the number of the maximum's element among
    the pooled axes of x in row-major order, as `fp.MaxUnpool` takes them.

    forward   x [..., sizes, channels] -> y [..., windows, channels]
    keeps     the index of the maximum in its window. Asking x == y in the backward pass instead
              is wrong under jit, where x and y may be computed again with other rounding.
    backward  dx = Σ over taps of dy, shifted to the tap, where the tap won
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where window, stride, padding or dilation cannot be, x is not a float array
              [..., sizes, channels] with room for a window, a window has no tap inside of x, or dy
              has not the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.MaxPool((2,)), jnp.array([[1.0], [3.0], [2.0], [2.0]])
    >>> y, residuals = layer.forward((), x)
    >>> y.ravel()
    Array([3., 2.], dtype=float32)
    >>> layer.backward((), residuals, jnp.ones((2, 1)))[0].ravel()
    Array([0., 1., 1., 0.], dtype=float32)
    """

    _: KW_ONLY
    dilation: tuple[int, ...] | None = None
    return_places: bool = False

    def __post_init__(self) -> None:
        self._check_sizes("window", self.window)
        self._check_per_axis("dilation", self.dilation)
        super().__post_init__()

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Any, MaxPoolResiduals]:
        sizes = self._sizes(x)
        first = self._first_inside(x, sizes)
        if any(map(any, self._pads(sizes))):
            # padded once: the comparisons are made again in the backward pass, pads and all
            edges = [(0, 0, 0)] * (x.ndim - len(sizes) - 1) + [(*p, 0) for p in self._pads(sizes)]
            x = jax.lax.pad(x, jnp.asarray(-jnp.inf, x.dtype), [*edges, (0, 0, 0)])
        taps = replace(self, padding="VALID", ceil_mode=False)._taps(x)
        y = next(taps)
        index = jnp.broadcast_to(first, y.shape)
        for number, tap in enumerate(taps, start=1):
            wins = (tap > y) | (tap != tap)
            y = jnp.where(wins, tap, y)
            index = jnp.where(wins, jnp.asarray(number, index.dtype), index)
        residuals = MaxPoolResiduals(index, Shape(sizes))
        return ((y, self._found(index, sizes)) if self.return_places else y), residuals

    def backward(self, params: tuple, residuals: MaxPoolResiduals, dy: Any) -> tuple[Array, tuple]:
        index, sizes = residuals.index, residuals.sizes.sizes
        if self.return_places:
            dy = of_maxima(self, dy)
        check_cotangent(self, dy, index.shape, dy.dtype)
        dx = 0.0
        for number, offset in enumerate(self._offsets()):
            won = jnp.where(index == jnp.asarray(number, index.dtype), widen(dy), 0)
            dx = dx + self._put_back(won, offset, sizes)
        return jnp.asarray(dx, dy.dtype), ()

    def _dilations(self) -> tuple[int, ...]:
        return (1,) * len(self.window) if self.dilation is None else self.dilation

    def _first_inside(self, x: Array, sizes: tuple[int, ...]) -> Array:
        """For each window its first tap that is not padding: where a window of −∞ leads."""
        first = np.zeros((1,) * len(sizes), int)
        rows = zip(sizes, self._pads(sizes), self._counts(sizes), self._dilations(), strict=True)
        for axis, (size, (low, _), count, apart) in enumerate(rows):
            start = self._strides()[axis] * np.arange(count) - low
            along = np.maximum(0, -(start // apart))
            if (start + along * apart >= size).any() or (along >= self.window[axis]).any():
                raise LayerError(
                    self,
                    f"x is {spell(x)}: a window has no tap inside of its pooled axes {sizes}",
                    "give less padding, or a smaller dilation",
                )
            shape = (*(1 for _ in sizes[:axis]), count, *(1 for _ in sizes[axis + 1 :]))
            first = first * self.window[axis] + along.reshape(shape)
        dtype = np.int8 if math.prod(self.window) <= 128 else np.int16
        return jnp.asarray(first[..., None], dtype)

    def _found(self, index: Array, sizes: tuple[int, ...]) -> Array:
        """The index of a tap -> int32: the number of its element of x."""
        places = jnp.int32(0)
        for number, offset in enumerate(self._offsets()):
            here = index == jnp.asarray(number, index.dtype)
            places = jnp.where(here, self._elements(offset, sizes), places)
        return places


def of_maxima(layer: Any, dy: Any) -> Array:
    """The cotangent of the maxima, of that of (maxima, places)."""
    if not isinstance(dy, tuple) or len(dy) != 2:
        raise LayerError(layer, f"dy is {spell(dy)}, wanted (dy of the maxima, None)")
    return dy[0]


class MaxUnpoolResiduals(NamedTuple):
    """What MaxUnpool keeps."""

    index: Array  # int8 [..., windows, channels]: at which tap; −1 where a later element went, too
    sizes: Shape  # of the unpooled axes, in the tree structure


@dataclass(frozen=True)
class MaxUnpool(Pool):
    """y = x, each element at its place, and zeros elsewhere: what `fp.MaxPool` cut away.

    x is (values, places), as `fp.MaxPool(..., return_places=True)` of the same options
    returns them: each place lies in its own window. Where windows overlap and
    two elements have one place the later, in row-major order, stays there.

    sizes     of the unpooled axes; None: of the smallest input with so many windows

    forward   (x [..., windows, channels], places) -> y [..., sizes, channels]
    keeps     the index of each place in its window (int16 beyond 128 taps), −1 for what stays not
    backward  dx = dy at the place; None for the places
    dtypes    any float and int32; y and dx have that of the values
    raises    LayerError where window, stride, padding, dilation or sizes cannot be or do not fit
              the windows of x, x is no such pair, a place is in another window, or dy has not the
              shape of y; under `jit` such a place makes NaN of its window
    source    Zeiler and Fergus, 2013, arXiv:1311.2901

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> pool, x = fp.MaxPool((2,), return_places=True), jnp.array([[1.0], [3.0], [2.0], [0.0]])
    >>> pooled, _ = pool.forward((), x)
    >>> pooled[1].ravel()
    Array([1, 2], dtype=int32)
    >>> fp.MaxUnpool((2,)).forward((), pooled)[0].ravel()
    Array([0., 3., 2., 0.], dtype=float32)
    """

    _: KW_ONLY
    dilation: tuple[int, ...] | None = None
    sizes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self._check_sizes("window", self.window)
        self._check_per_axis("dilation", self.dilation)
        super().__post_init__()
        self._check_per_axis("sizes", self.sizes)
        if self.padding == "SAME" and self.sizes is None:
            raise LayerError(
                self,
                "padding is 'SAME', which many sizes share",
                f"write sizes={(28,) * len(self.window)}, those of what was pooled",
            )

    def forward(
        self, params: tuple, x: Any, context: Context = Context()
    ) -> tuple[Array, MaxUnpoolResiduals]:
        values, places = self._checked(x)
        sizes = self._unpooled(values.shape[-len(self.window) - 1 : -1], values)
        dtype = np.int8 if math.prod(self.window) <= 128 else np.int16
        index = jnp.full(places.shape, -1, dtype)
        for number, offset in enumerate(self._offsets()):
            here = places == self._elements(offset, sizes)
            index = jnp.where(here, jnp.asarray(number, dtype), index)
        self._check_places(index, sizes)
        values = jnp.where(index < 0, jnp.nan, values)
        # made once: XLA would look for the place again at every tap
        index, values = jax.lax.optimization_barrier((jnp.maximum(index, 0), values))
        won = [
            (offset, index == jnp.asarray(number, dtype))
            for number, offset in enumerate(self._offsets())
        ]
        if all(a >= b for a, b in zip(self._strides(), self._reach(), strict=True)):
            y = sum(self._put_back(jnp.where(here, values, 0), o, sizes) for o, here in won)
            return jnp.asarray(y), MaxUnpoolResiduals(index, Shape(sizes))
        y, last = jnp.zeros((), values.dtype), jnp.zeros((), dtype)
        # a later tap is an earlier window's, so that the first tap stays
        for number, (offset, here) in reversed(list(enumerate(won, start=1))):
            painted = self._put_back(here.astype(dtype), offset, sizes) > 0
            y = jnp.where(painted, self._put_back(values, offset, sizes), y)
            last = jnp.where(painted, jnp.asarray(number, dtype), last)
        stays = jnp.zeros(places.shape, bool)
        for tap, (number, (_, here)) in zip(self._taps(last), enumerate(won, start=1), strict=True):
            stays |= here & (tap == jnp.asarray(number, dtype))
        return y, MaxUnpoolResiduals(jnp.where(stays, index, -1), Shape(sizes))

    def backward(self, params: tuple, residuals: MaxUnpoolResiduals, dy: Array) -> Any:
        index, sizes = residuals.index, residuals.sizes.sizes
        shape = (*index.shape[: -len(sizes) - 1], *sizes, index.shape[-1])
        check_cotangent(self, dy, shape, dy.dtype)
        dx = jnp.zeros(index.shape, dy.dtype)
        for number, tap in enumerate(self._taps(dy)):
            dx = jnp.where(index == jnp.asarray(number, index.dtype), tap, dx)
        return (dx, None), ()

    def _dilations(self) -> tuple[int, ...]:
        return (1,) * len(self.window) if self.dilation is None else self.dilation

    def _unpooled(self, counts: tuple[int, ...], x: Any) -> tuple[int, ...]:
        """The sizes of y, for so many windows."""
        if self.sizes is None:
            rows = zip(
                counts, self._strides(), self._reach(), self._given_pads(counts), strict=True
            )
            sizes = tuple((n - 1) * step + reach - sum(pad) for n, step, reach, pad in rows)
            if min(sizes) > 0:
                return sizes
        if self.sizes is None or self._counts(self.sizes) != counts:
            raise LayerError(
                self,
                f"x is {spell(x)}: its {counts} windows do not lie on sizes={self.sizes}",
                "give sizes, stride and padding as those of what was pooled",
            )
        return self.sizes

    def _check_places(self, index: Array, sizes: tuple[int, ...]) -> None:
        found = concrete(index)
        if found is not None and (found < 0).any():
            raise LayerError(
                self,
                "a place lies in none of the taps of its own window",
                "give those that MaxPool(..., return_places=True) of these options returned, and "
                f"sizes={sizes} of what was pooled, if they are others",
            )

    def _checked(self, x: Any) -> tuple[Array, Array]:
        if not isinstance(x, tuple) or len(x) != 2:
            raise LayerError(
                self,
                f"x is {spell(x)}, wanted (values, places)",
                f"write fp.MaxPool({self.window}, return_places=True) for the pool",
            )
        values, places = x
        check_input(self, values, rank=len(self.window) + 1)
        if not is_integer(places) or places.shape != values.shape:
            raise LayerError(self, f"x is {spell(x)}, wanted places of integers, one a value")
        return values, places.astype(jnp.int32)
