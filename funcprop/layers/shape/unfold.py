"""Unfold lays what every window sees side by side (im2col); Fold adds it up again (col2im)."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Shape,
    check_cotangent,
    check_input,
    spell,
    widen,
)
from funcprop.layers.pooling.windows import Padding, Windowed
from funcprop.sharding import whole


@dataclass(frozen=True)
class Unfold(Windowed):
    """y = the elements of each window side by side, as features: tap by tap, each of all channels.

    A convolution is a product of these rows with a matrix [taps · channels, out]. PyTorch's rows go
    channel by channel, each of all taps, and its windows are in one axis.

    window    sizes, one an axis: (3, 3) for images [..., height, width, channels]
    stride    steps from window to window, one an axis; None: 1, a window at every place
    padding   "VALID": windows inside x; "SAME": ceil(size / stride) windows; or pairs of zeros
              ((low, high), ...)
    dilation  from tap to tap of a window, one an axis; None: 1

    forward   x [..., sizes, channels] -> y [..., windows, taps · channels]
    keeps     the sizes, in the tree structure
    backward  dx = Σ over taps of their features of dy, shifted to the tap: Fold
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where window, stride, padding or dilation cannot be, x is not a float array
              [..., sizes, channels] with room for a window, or dy has not the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, sizes = fp.Unfold((2,)).forward((), jnp.array([[1.0], [2.0], [3.0]]))
    >>> y
    Array([[1., 2.],
           [2., 3.]], dtype=float32)
    >>> fp.Unfold((2,)).backward((), sizes, jnp.ones((2, 2)))[0].ravel()
    Array([1., 2., 1.], dtype=float32)
    """

    _: KW_ONLY
    dilation: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        self._check_sizes("window", self.window)
        self._check_per_axis("dilation", self.dilation)
        super().__post_init__()

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Shape]:
        sizes = self._sizes(x)
        return jnp.concatenate(list(self._taps(whole(x, -1))), -1), Shape(sizes)

    def backward(self, params: tuple, sizes: Shape, dy: Array) -> tuple[Array, tuple]:
        taps = math.prod(self.window)
        check_input(self, dy, rank=len(self.window) + 1)
        leading = dy.shape[: -len(self.window) - 1]
        features = dy.shape[-1] // taps * taps
        shape = (*leading, *self._counts(sizes.sizes), features)
        check_cotangent(self, dy, shape, dy.dtype)
        parts = jnp.split(widen(whole(dy, -1)), taps, -1)
        rows = zip(parts, self._offsets(), strict=True)
        dx = sum(self._put_back(part, offset, sizes.sizes) for part, offset in rows)
        return jnp.asarray(dx, dy.dtype), ()

    def _strides(self) -> tuple[int, ...]:
        return (1,) * len(self.window) if self.stride is None else self.stride

    def _dilations(self) -> tuple[int, ...]:
        return (1,) * len(self.window) if self.dilation is None else self.dilation

    def _most_padding(self) -> tuple[float, ...]:
        return (math.inf,) * len(self.window)


@dataclass(frozen=True)
class Fold(Layer):
    """y = the sum of all windows, each added where Unfold took it from.

    sizes     of y, one an axis: of what was unfolded
    window, stride, padding, dilation
              as those of `fp.Unfold`

    forward   x [..., windows, taps · channels] -> y [..., sizes, channels]
    keeps     nothing
    backward  dx = the elements of each window of dy side by side: Unfold
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where sizes, window, stride, padding or dilation cannot be, x is not a
              float array of as many windows, its features are no multiple of the taps, or dy has
              not the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Fold((3,), (2,)).forward((), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> y.ravel()
    Array([1., 5., 4.], dtype=float32)
    """

    sizes: tuple[int, ...]
    window: tuple[int, ...]
    _: KW_ONLY
    stride: tuple[int, ...] | None = None
    padding: Padding = "VALID"
    dilation: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        try:
            unfold = self._unfold()
            unfold._check_per_axis("sizes", self.sizes)
            if self.sizes is None or min(unfold._counts(self.sizes)) < 1:
                raise LayerError(unfold, f"sizes is {self.sizes!r}, in which no window fits")
        except LayerError as error:
            problem = str(error).partition("): ")[2]
            raise LayerError(self, problem.partition("\n")[0]) from None

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x, rank=len(self.window) + 1)
        unfold, taps = self._unfold(), math.prod(self.window)
        counts = unfold._counts(self.sizes)
        if x.shape[-len(counts) - 1 : -1] != counts or x.shape[-1] % taps:
            raise LayerError(
                self,
                f"x is {spell(x)}, wanted [..., {', '.join(map(str, counts))}, {taps} · channels]",
                "these are the windows and taps that Unfold of the same options returns",
            )
        return unfold.backward((), Shape(self.sizes), x)[0], ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        check_input(self, dy, rank=len(self.sizes) + 1)
        shape = (*dy.shape[: -len(self.sizes) - 1], *self.sizes, dy.shape[-1])
        check_cotangent(self, dy, shape, dy.dtype)
        return self._unfold().forward((), dy)[0], ()

    def _unfold(self) -> Unfold:
        return Unfold(self.window, stride=self.stride, padding=self.padding, dilation=self.dilation)
