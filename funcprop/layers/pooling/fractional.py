"""FractionalMaxPool: windows that lie at random, so that sizes shrink by any factor."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

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
    check_number,
    is_float,
    spell,
    widen,
)
from funcprop.layers.pooling.global_pool import pooled_sizes
from funcprop.layers.pooling.max_pool import of_maxima
from funcprop.layers.pooling.regions import check_targets, maximum, put_back


class FractionalMaxPoolResiduals(NamedTuple):
    """What FractionalMaxPool keeps."""

    place: Array  # int32 [..., sizes, channels]: the number of the maximum's element of x
    sizes: Shape  # of the pooled axes of x, in the tree structure
    samples: Shape | None  # the shape of the samples where they were given


@dataclass(frozen=True)
class FractionalMaxPool(Layer):
    """y = the maximum of windows at random places, which overlap, for each channel.

    Along an axis of n, m windows of k start at ⌊(i + u) α⌋ − ⌊u α⌋ with α = (n − k) / (m − 1), the
    last at n − k; u from [0, 1) is drawn for each example, channel and axis. Needs `context.key`,
    and a batch draws other numbers than its examples would one at a time; or x is a pair
    (x, samples) with samples u [..., channels, axes], whose gradient is 0.

    window         sizes, one a pooled axis: (2, 2) for images
    sizes          of y, one a pooled axis: whole numbers, or numbers from (0, 1), times those of x
                   and rounded down
    return_places  y is (maxima, places), int32, each the number of the maximum's element among the
                   pooled axes of x in row-major order

    forward   x [..., sizes of x, channels] -> y [..., sizes, channels]
    keeps     the places of the maxima
    backward  dx = Σ dy over the windows that an element is the maximum of
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where window or sizes cannot be, x is not a float array [..., sizes of x,
              channels] with m + k − 1 places along an axis or such a pair, there is no key, or dy
              has not the shape of y
    source    Graham, 2014, arXiv:1412.6071

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.FractionalMaxPool((2,), (3,)), jnp.arange(7.0)[:, None]
    >>> y, residuals = layer.forward((), (x, jnp.full((1, 1), 0.5)))
    >>> y.ravel()
    Array([1., 3., 6.], dtype=float32)
    >>> layer.forward((), x, fp.Context(jax.random.key(0)))[0].shape
    (3, 1)
    """

    window: tuple[int, ...]
    sizes: tuple[int, ...] | tuple[float, ...]
    _: KW_ONLY
    return_places: bool = False

    def __post_init__(self) -> None:
        check_targets(self, "window", self.window)
        for size in self.window:
            check_count(self, "window", size)
        if not isinstance(self.sizes, tuple) or len(self.sizes) != len(self.window):
            raise LayerError(
                self,
                f"sizes is {self.sizes!r}, wanted {len(self.window)} numbers, as in window",
                f"write sizes={(14,) * len(self.window)}, or {(0.5,) * len(self.window)} of those "
                "of x",
            )
        for size in self.sizes:
            if isinstance(size, float):
                check_number(self, "a size", size, np.finfo(float).tiny, 1)
            else:
                check_count(self, "a size", size)

    def forward(
        self, params: tuple, x: Any, context: Context = Context()
    ) -> tuple[Any, FractionalMaxPoolResiduals]:
        given = isinstance(x, tuple)
        x, samples = x if given and len(x) == 2 else (x, None)
        sizes = pooled_sizes(self, x, len(self.window))
        targets = self._targets(x, sizes)
        shape = (*x.shape[: -len(sizes) - 1], x.shape[-1], len(sizes))
        if samples is None:
            samples = jax.random.uniform(context.key_for(self), shape, widen(x).dtype)
        elif not is_float(samples) or samples.shape != shape:
            raise LayerError(self, f"samples is {spell(samples)}, wanted floats of shape {shape}")
        taps = []
        for axis, (n, m, size) in enumerate(zip(sizes, targets, self.window, strict=True)):
            start = starts(widen(samples)[..., axis], n, m, size)
            taps.append([start + jnp.int32(k) for k in range(size)])
        y, place = maximum(x, taps)
        kept = Shape((samples.ndim,)) if given else None
        residuals = FractionalMaxPoolResiduals(place, Shape(sizes), kept)
        return ((y, place) if self.return_places else y), residuals

    def backward(
        self, params: tuple, residuals: FractionalMaxPoolResiduals, dy: Any
    ) -> tuple[Any, tuple]:
        place, sizes = residuals.place, residuals.sizes.sizes
        if self.return_places:
            dy = of_maxima(self, dy)
        check_cotangent(self, dy, place.shape, dy.dtype)
        dx = put_back(dy, place, sizes)
        if residuals.samples is None:
            return dx, ()
        leading = dy.shape[: -len(sizes) - 1]
        return (dx, jnp.zeros((*leading, dy.shape[-1], len(sizes)), dy.dtype)), ()

    def _targets(self, x: Array, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes of y, for those of x."""
        targets = tuple(
            math.floor(n * m) if isinstance(m, float) else m
            for n, m in zip(sizes, self.sizes, strict=True)
        )
        rows = zip(sizes, targets, self.window, strict=True)
        if any(m < 1 or m + size - 1 > n for n, m, size in rows):
            raise LayerError(
                self,
                f"x is {spell(x)}: {targets} windows of {self.window} do not fit into {sizes}",
                "along every axis m windows of k need m + k − 1 places",
            )
        return targets


def starts(u: Array, n: int, m: int, size: int) -> Array:
    """u [...] -> int32 [..., m]: where the windows start."""
    last = jnp.full((*u.shape, 1), n - size, jnp.int32)
    if m == 1:
        return last
    alpha = (n - size) / (m - 1)
    i = jnp.arange(m - 1, dtype=u.dtype)
    down = jnp.floor((u[..., None] + i) * alpha) - jnp.floor(u * alpha)[..., None]
    return jnp.concatenate([down.astype(jnp.int32), last], -1)
