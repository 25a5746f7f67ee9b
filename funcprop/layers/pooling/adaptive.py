"""Adaptive pooling: as many windows as are asked for, of about the same size."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, Context, Layer, Shape, check_cotangent, widen
from funcprop.layers.pooling.global_pool import pooled_sizes
from funcprop.layers.pooling.max_pool import of_maxima
from funcprop.layers.pooling.regions import check_targets, maximum, put_back, regions


@dataclass(frozen=True)
class Adaptive(Layer):
    """What both share: m windows along an axis of n, the i-th from ⌊i n/m⌋ to ⌈(i + 1) n/m⌉.

    sizes  of y, one a pooled axis: (7, 7) for images; None leaves that axis as it is
    """

    sizes: tuple[int | None, ...]

    def __post_init__(self) -> None:
        check_targets(self, "sizes", self.sizes)

    def _targets(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(n if m is None else m for n, m in zip(sizes, self.sizes, strict=True))


@dataclass(frozen=True)
class AdaptiveAvgPool(Adaptive):
    """y = the mean of each of as many windows as are asked for, for each channel.

    m windows along an axis of n: the i-th from ⌊i n/m⌋ up to ⌈(i + 1) n/m⌉, as in PyTorch. They
    overlap by one place where m does not divide n. A mean over a box is a mean along each axis:
    y = W x with W [m, n] of shares, axis by axis.

    sizes     of y, one a pooled axis: (7, 7) for images, (7,) for sequences; None: that of x

    forward   x [..., sizes of x, channels] -> y [..., sizes, channels]
    keeps     the sizes of x, in the tree structure
    backward  dx = Wᵀ dy, axis by axis
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where sizes is no tuple of one to three positive whole numbers or None, x
              is not a float array [..., sizes of x, channels] with something in it, or dy has not
              the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.AdaptiveAvgPool((2,)), jnp.array([[1.0], [2.0], [6.0]])
    >>> y, residuals = layer.forward((), x)
    >>> y.ravel()
    Array([1.5, 4. ], dtype=float32)
    >>> layer.backward((), residuals, jnp.ones((2, 1)))[0].ravel()
    Array([0.5, 1. , 0.5], dtype=float32)
    """

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Shape]:
        sizes = pooled_sizes(self, x, len(self.sizes))
        y = widen(x)
        for axis, n, m in self._axes(sizes):
            y = averaged(y, axis, n, m, "forward")
        return y.astype(x.dtype), Shape(sizes)

    def backward(self, params: tuple, residuals: Shape, dy: Array) -> tuple[Array, tuple]:
        sizes = residuals.sizes
        shape = (*dy.shape[: -len(sizes) - 1], *self._targets(sizes), dy.shape[-1])
        check_cotangent(self, dy, shape, dy.dtype)
        dx = widen(dy)
        for axis, n, m in self._axes(sizes):
            dx = averaged(dx, axis, n, m, "backward")
        return dx.astype(dy.dtype), ()

    def _axes(self, sizes: tuple[int, ...]) -> list[tuple[int, int, int]]:
        """(axis from the end, n, m) of the pooled axes."""
        axes = range(-len(sizes) - 1, -1)
        return list(zip(axes, sizes, self._targets(sizes), strict=True))


def averaged(
    x: Array, axis: int, n: int, m: int, direction: Literal["forward", "backward"]
) -> Array:
    """W x or Wᵀ x along one axis: a mean and copies of it where m divides n, else a product."""
    if n == m:
        return x
    first = x.ndim + axis
    if n % m == 0:
        if direction == "forward":
            cut = x.reshape(*x.shape[:first], m, n // m, *x.shape[first + 1 :])
            return cut.mean(first + 1)
        return jnp.repeat(x * (m / n), n // m, first)
    starts, stops = regions(n, m)
    place = np.arange(n)
    inside = (place >= starts[:, None]) & (place < stops[:, None])
    shares = jnp.asarray(inside / inside.sum(1, keepdims=True), x.dtype)
    out = [*range(x.ndim)]
    out[first] = x.ndim
    indices = [x.ndim, first] if direction == "forward" else [first, x.ndim]
    return jnp.einsum(x, [*range(x.ndim)], shares, indices, out, precision="highest")


class AdaptiveMaxPoolResiduals(NamedTuple):
    """What AdaptiveMaxPool keeps."""

    place: Array  # int32 [..., sizes, channels]: the number of the maximum's element of x
    sizes: Shape  # of the pooled axes of x, in the tree structure


@dataclass(frozen=True)
class AdaptiveMaxPool(Adaptive):
    """y = the maximum of each of as many windows as are asked for, for each channel.

    m windows along an axis of n: the i-th from ⌊i n/m⌋ up to ⌈(i + 1) n/m⌉, as in PyTorch. A tie
    goes to the first maximum in row-major order; a NaN wins, the last of several.

    sizes          of y, one a pooled axis: (7, 7) for images, (7,) for sequences; None: that of x
    return_places  y is (maxima, places), int32, each the number of the maximum's element among the
                   pooled axes of x in row-major order

    forward   x [..., sizes of x, channels] -> y [..., sizes, channels]
    keeps     the places of the maxima
    backward  dx = Σ dy over the windows that an element is the maximum of
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where sizes is no tuple of one to three positive whole numbers or None, x
              is not a float array [..., sizes of x, channels] with something in it, or dy has not
              the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.AdaptiveMaxPool((2,)), jnp.array([[1.0], [7.0], [6.0]])
    >>> y, residuals = layer.forward((), x)
    >>> y.ravel()
    Array([7., 7.], dtype=float32)
    >>> layer.backward((), residuals, jnp.ones((2, 1)))[0].ravel()
    Array([0., 2., 0.], dtype=float32)
    """

    _: KW_ONLY
    return_places: bool = False

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Any, AdaptiveMaxPoolResiduals]:
        sizes = pooled_sizes(self, x, len(self.sizes))
        taps = []
        for n, m in zip(sizes, self._targets(sizes), strict=True):
            starts, stops = regions(n, m)
            most = int((stops - starts).max())
            taps.append([np.minimum(starts + k, stops - 1) for k in range(most)])
        y, place = maximum(x, taps)
        residuals = AdaptiveMaxPoolResiduals(place, Shape(sizes))
        return ((y, place) if self.return_places else y), residuals

    def backward(
        self, params: tuple, residuals: AdaptiveMaxPoolResiduals, dy: Any
    ) -> tuple[Array, tuple]:
        place, sizes = residuals.place, residuals.sizes.sizes
        if self.return_places:
            dy = of_maxima(self, dy)
        check_cotangent(self, dy, place.shape, dy.dtype)
        return put_back(dy, place, sizes), ()
