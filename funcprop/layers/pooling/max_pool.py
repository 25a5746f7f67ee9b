"""MaxPool: the maximum of each window, whose place is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, Context, Shape, check_cotangent, widen
from funcprop.layers.pooling.windows import Pool


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
