"""Numbers moved between channels and places: PixelShuffle, PixelUnshuffle, ChannelShuffle."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_count,
    check_input,
    spell,
)
from funcprop.sharding import entries, on_each_device, whole


@dataclass(frozen=True)
class PixelShuffle(Layer):
    """Every s · s channels become a block of s × s places: height and width times s.

    y[h s + i, w s + j, c] = x[h, w, (c s + i) s + j], channel by channel as in PyTorch.

    factor  s, for height and width; or one number an axis: (2,) for sequences

    forward   x [..., height, width, channels · s²] -> y [..., height · s, width · s, channels]
    keeps     nothing
    backward  dx = dy back in its place: what PixelUnshuffle does
    dtypes    any float; y and dx have that of x
    raises    LayerError where factor is no positive whole number or tuple of them, x is not a float
              array with axes for it, its channels are no multiple of s², or an axis of dy no
              multiple of s
    source    Shi et al., 2016, arXiv:1609.05158

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.PixelShuffle((2,)).forward((), jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> y.ravel()
    Array([1., 2., 3., 4.], dtype=float32)
    """

    factor: int | tuple[int, ...] = 2

    def __post_init__(self) -> None:
        check_factor(self, self.factor)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        return places_of_channels(self, x, "x", factors(self.factor)), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        return channels_of_places(self, dy, "dy", factors(self.factor)), ()


@dataclass(frozen=True)
class PixelUnshuffle(Layer):
    """Every block of s × s places becomes s · s channels: height and width over s.

    y[h, w, (c s + i) s + j] = x[h s + i, w s + j, c]: what PixelShuffle makes undone.

    factor  s, for height and width; or one number an axis: (2,) for sequences

    forward   x [..., height · s, width · s, channels] -> y [..., height, width, channels · s²]
    keeps     nothing
    backward  dx = dy back in its place: what PixelShuffle does
    dtypes    any float; y and dx have that of x
    raises    LayerError where factor is no positive whole number or tuple of them, x is not a float
              array with axes for it, an axis of x is no multiple of s, or the channels of dy are
              none of s²

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.PixelUnshuffle((2,)).forward((), jnp.array([[1.0], [2.0], [3.0], [4.0]]))
    >>> y
    Array([[1., 2.],
           [3., 4.]], dtype=float32)
    """

    factor: int | tuple[int, ...] = 2

    def __post_init__(self) -> None:
        check_factor(self, self.factor)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        return channels_of_places(self, x, "x", factors(self.factor)), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        return places_of_channels(self, dy, "dy", factors(self.factor)), ()


@dataclass(frozen=True)
class ChannelShuffle(Layer):
    """The channels dealt out anew: as a matrix of `groups` rows they are read by columns.

    After a grouped convolution every group of the next one sees channels of all.

    forward   x [..., channels] -> y, of the same shape
    keeps     nothing
    backward  dx = dy dealt back: with channels / groups rows
    dtypes    any float; y and dx have that of x
    raises    LayerError where groups is no positive whole number, or x or dy is no float array
              whose channels it divides
    source    Zhang, Zhou, Lin and Sun, 2017, arXiv:1707.01083

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.ChannelShuffle(2).forward((), jnp.arange(6.0))[0]
    Array([0., 3., 1., 4., 2., 5.], dtype=float32)
    """

    groups: int

    def __post_init__(self) -> None:
        check_count(self, "groups", self.groups)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        return self._dealt(x, "x", back=False), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        return self._dealt(dy, "dy", back=True), ()

    def _dealt(self, x: Array, name: str, back: bool) -> Array:
        check_input(self, x, rank=1)
        if x.shape[-1] % self.groups:
            raise LayerError(
                self,
                f"{name} is {spell(x)}: {self.groups} groups do not divide its {x.shape[-1]} "
                "channels",
            )
        rows, columns = self.groups, x.shape[-1] // self.groups
        cut = (columns, rows) if back else (rows, columns)
        return whole(x, -1).reshape(*x.shape[:-1], *cut).swapaxes(-1, -2).reshape(x.shape)


def factors(factor: Any) -> tuple[int, ...]:
    """One factor an axis: a single number stands for two axes."""
    return factor if isinstance(factor, tuple) else (factor, factor)


def check_factor(layer: Layer, factor: Any) -> None:
    """A positive whole number, or a tuple of them."""
    for number in factors(factor) or (factor,):
        check_count(layer, "factor", number)


def places_of_channels(layer: Layer, x: Array, name: str, by: tuple[int, ...]) -> Array:
    """[..., sizes, c · Π by] -> [..., sizes · by, c]."""
    check_input(layer, x, rank=len(by) + 1)
    block, axes = math.prod(by), len(by)
    if x.shape[-1] % block:
        raise LayerError(
            layer, f"{name} is {spell(x)}: its {x.shape[-1]} channels are no multiple of {block}"
        )

    def moved(x: Array) -> Array:
        first, sizes, channels = x.ndim - axes - 1, x.shape[-axes - 1 : -1], x.shape[-1] // block
        cut = x.reshape(*x.shape[:-1], channels, *by)
        pairs = [axis for i in range(axes) for axis in (first + i, first + axes + 1 + i)]
        y = cut.transpose(*range(first), *pairs, first + axes)
        grown = (n * s for n, s in zip(sizes, by, strict=True))
        return y.reshape(*x.shape[:first], *grown, channels)

    return batch_apart(moved, x, axes)


def channels_of_places(layer: Layer, x: Array, name: str, by: tuple[int, ...]) -> Array:
    """[..., sizes · by, c] -> [..., sizes, c · Π by]."""
    check_input(layer, x, rank=len(by) + 1)
    axes = len(by)
    for n, s in zip(x.shape[-axes - 1 : -1], by, strict=True):
        if n % s:
            raise LayerError(layer, f"{name} is {spell(x)}: {n} is no multiple of {s}")

    def moved(x: Array) -> Array:
        first, sizes = x.ndim - axes - 1, x.shape[-axes - 1 : -1]
        parts = [part for n, s in zip(sizes, by, strict=True) for part in (n // s, s)]
        cut = x.reshape(*x.shape[:first], *parts, x.shape[-1])
        order = [*range(first, first + 2 * axes, 2), first + 2 * axes]
        y = cut.transpose(*range(first), *order, *range(first + 1, first + 2 * axes, 2))
        return y.reshape(*x.shape[:first], *parts[::2], x.shape[-1] * math.prod(by))

    return batch_apart(moved, x, axes)


def batch_apart(function: Callable[[Array], Array], x: Array, axes: int) -> Array:
    """The function on each device's own examples: it takes the axes after them apart."""
    spec = (*entries(x)[: -axes - 1], *(None for _ in range(axes + 1)))
    return on_each_device(function, (x,), (lambda _: spec,), spec)
