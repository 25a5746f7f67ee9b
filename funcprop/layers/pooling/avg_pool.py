"""AvgPool: the mean of each window."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp

from funcprop.layer import Array, Context, LayerError, Shape, check_count, widen
from funcprop.layers.pooling.windows import Pool


@dataclass(frozen=True)
class AvgPool(Pool):
    """y = the mean of each window, for each channel.

    `count_include_pad`: the mean is over the whole window, with zeros for the padding (PyTorch's
    and Flax's default), but not for what `ceil_mode` reaches beyond it; False: over the elements
    inside x. `divisor`: the sum of each window over this number, whatever it holds.

    forward   x [..., sizes, channels] -> y [..., windows, channels]
    keeps     the sizes, in the tree structure
    backward  dx = Σ over taps of dy / count, shifted to the tap; dy / divisor, where it is given
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where window, stride, padding or divisor cannot be, a divisor is given
              beside count_include_pad=False, x is not a float array [..., sizes, channels] with
              room for a window, or dy has not the shape of y

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
    divisor: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.divisor is None:
            return
        check_count(self, "divisor", self.divisor)
        if not self.count_include_pad:
            raise LayerError(
                self,
                f"divisor is {self.divisor} and count_include_pad False: nothing is counted where "
                "a divisor is given",
                f"write {type(self).__name__}({self.window}, divisor={self.divisor})",
            )

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
        if self.divisor is not None:
            return total / self.divisor
        return total / self._number(sizes, total.dtype, padding=self.count_include_pad)
