"""LPPool: the p-norm of each window."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, Context, check_cotangent, check_number, widen
from funcprop.layers.pooling.windows import Pool


class LPPoolResiduals(NamedTuple):
    """What LPPool keeps."""

    x: Array  # [..., sizes, channels]: its derivative is a power of x
    root: Array  # y, at least float32: the derivative of a root is a power of it


@dataclass(frozen=True)
class LPPool(Pool):
    """y = (Σ xᵖ)^(1/p) over each window, for each channel: p = 1 is a sum, p = 2 a length.

    A power of x itself and not of |x|, as in PyTorch: a negative sum, or a negative x where p is
    no whole number, gives NaN. A window that `ceil_mode` made reach beyond x counts as if it went
    on as it began: its Σ is divided by the elements it has and multiplied by those of a whole one.
    Where Σ xᵖ is 0 there is no derivative, and the gradient is 0.

    norm      p, a number above 0

    forward   x [..., sizes, channels] -> y [..., windows, channels]
    keeps     x and y
    backward  dx = xᵖ⁻¹ · Σ over taps of dy y¹⁻ᵖ, shifted to the tap
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where norm, window, stride or padding cannot be, x is not a float array
              [..., sizes, channels] with room for a window, or dy has not the shape of y
    source    Sermanet, Chintala and LeCun, 2012, arXiv:1204.3968

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.LPPool((2,), 2.0), jnp.array([[3.0], [4.0], [0.0], [0.0]])
    >>> y, residuals = layer.forward((), x)
    >>> y.ravel()
    Array([5., 0.], dtype=float32)
    >>> layer.backward((), residuals, jnp.ones((2, 1)))[0].ravel()
    Array([0.6, 0.8, 0. , 0. ], dtype=float32)
    """

    norm: float
    _: KW_ONLY

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "norm", self.norm, np.finfo(float).tiny)

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, LPPoolResiduals]:
        sizes = self._sizes(x)
        total = jnp.asarray(sum(power(tap, self.norm) for tap in self._taps(widen(x))))
        total = total * self._completed(sizes, total.dtype)
        root = power(total, 1 / self.norm)
        return root.astype(x.dtype), LPPoolResiduals(x, root)

    def backward(self, params: tuple, residuals: LPPoolResiduals, dy: Array) -> tuple[Array, tuple]:
        x, root = residuals
        sizes = x.shape[-len(self.window) - 1 : -1]
        check_cotangent(self, dy, root.shape, x.dtype)
        slope = power(jnp.where(root == 0, 1, root), 1 - self.norm)
        share = jnp.where(root == 0, 0, widen(dy) * slope)
        share = share * self._completed(sizes, share.dtype)
        dx = sum(self._put_back(share, offset, sizes) for offset in self._offsets())
        return (dx * power(widen(x), self.norm - 1)).astype(x.dtype), ()

    def _completed(self, sizes: tuple[int, ...], dtype: Any) -> Any:
        """A whole window's elements over those that each has: more than 1 beyond the edges."""
        return math.prod(self.window) / self._number(sizes, dtype, padding=True)


def power(x: Array, exponent: float) -> Array:
    """xᵖ: by multiplications or a root where p is such."""
    if exponent in (0.5, -0.5):
        root = jnp.sqrt(x)
        return root if exponent > 0 else 1 / root
    return x ** (int(exponent) if float(exponent).is_integer() else exponent)
