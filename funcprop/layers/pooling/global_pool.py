"""Global pooling: one window, all of the axes before the channels."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

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
