"""AvgPool: the mean of each window."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, Context, Shape, widen
from funcprop.layers.pooling.windows import Pool


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
