"""The same numbers in the same or another order: Identity, Reshape, Flatten, Transpose."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

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
)
from funcprop.sharding import reshaped


@dataclass(frozen=True)
class Identity(Layer):
    """y = x, for any tree.

    forward   x -> x, any tree
    keeps     nothing
    backward  dx = dy
    dtypes    any
    raises    nothing

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Identity().forward((), (jnp.ones(2), jnp.arange(3)))
    >>> y[1]
    Array([0, 1, 2], dtype=int32)
    """

    def forward(self, params: tuple, x: Any, context: Context = Context()) -> tuple[Any, tuple]:
        return x, ()

    def backward(self, params: tuple, residuals: tuple, dy: Any) -> tuple[Any, tuple]:
        return dy, ()


@dataclass(frozen=True)
class Reshape(Layer):
    """The last `axes` axes of x take the shape `shape`; one size may be −1.

    forward   x [..., old] -> y [..., new]
    keeps     the old sizes, in the tree structure
    backward  dx = dy in the old shape
    dtypes    any float; y and dx have that of x
    raises    LayerError where shape is no tuple with at most one −1 or axes no positive whole
              number, x is not a float array of as many axes, they do not fill the shape, or dy has
              not that of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Reshape((2, -1)).forward((), jnp.ones((8, 6)))
    >>> y.shape
    (8, 2, 3)
    """

    shape: tuple[int, ...]
    _: KW_ONLY
    axes: int = 1

    def __post_init__(self) -> None:
        check_count(self, "axes", self.axes)
        if not isinstance(self.shape, tuple) or sum(size == -1 for size in self.shape) > 1:
            raise LayerError(
                self, f"shape is {self.shape!r}, wanted a tuple of sizes, at most one of them -1"
            )
        for size in self.shape:
            check_count(self, "a size", size, -1)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Shape]:
        check_input(self, x, rank=self.axes)
        old = x.shape[x.ndim - self.axes :]
        new = self._new(old, x)
        return reshaped(x, x.shape[: x.ndim - self.axes] + new, self.axes), Shape(old)

    def backward(self, params: tuple, old: Shape, dy: Array) -> tuple[Array, tuple]:
        new = self._new(old.sizes, dy)
        leading = dy.shape[: max(dy.ndim - len(new), 0)]
        check_cotangent(self, dy, leading + new, dy.dtype)
        return reshaped(dy, leading + old.sizes, len(new)), ()

    def _new(self, old: tuple[int, ...], x: Array) -> tuple[int, ...]:
        known = math.prod(size for size in self.shape if size != -1)
        free = math.prod(old) // known if known else 0
        new = tuple(free if size == -1 else size for size in self.shape)
        if math.prod(new) != math.prod(old):
            raise LayerError(
                self,
                f"x is {spell(x)}: its last {self.axes} axes hold {math.prod(old)} elements, "
                f"which do not fill {self.shape}",
                "give `axes` the number of trailing axes to reshape; the others are batch axes",
            )
        return new


@dataclass(frozen=True)
class Flatten(Reshape):
    """The last `axes` axes of x become one: images [..., height, width, channels] by default.

    forward   x [..., sizes] -> y [..., features]
    keeps     the sizes, in the tree structure
    backward  dx = dy in the old shape
    dtypes    any float; y and dx have that of x
    raises    LayerError where axes is no positive whole number, x is not a float array of as many
              axes, or dy has not the shape of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Flatten().forward((), jnp.ones((8, 5, 4, 3)))
    >>> y.shape
    (8, 60)
    """

    shape: tuple[int, ...] = field(default=(-1,), init=False, repr=False)
    _: KW_ONLY
    axes: int = 3


@dataclass(frozen=True)
class Transpose(Layer):
    """The last axes of x in another order: axis i of y is axis `axes[i]` of x.

    `axes` numbers the trailing axes alone, (1, 0) is a matrix transpose of the last two; the axes
    before them are batch axes.

    forward   x [..., sizes] -> y [..., sizes in the new order]
    keeps     nothing
    backward  dx = dy in the old order
    dtypes    any float; y and dx have that of x
    raises    LayerError where axes is no order of 0 ... n−1, or x or dy not a float array of at
              least n axes

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Transpose().forward((), jnp.ones((8, 10, 4)))
    >>> y.shape
    (8, 4, 10)
    """

    axes: tuple[int, ...] = (1, 0)

    def __post_init__(self) -> None:
        if not isinstance(self.axes, tuple) or sorted(self.axes) != list(range(len(self.axes))):
            raise LayerError(
                self,
                f"axes is {self.axes!r}, wanted each of 0 ... n-1 once, for the last n axes",
                "write Transpose((1, 0)) to exchange the last two axes",
            )

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x, rank=len(self.axes))
        return self._ordered(x, self.axes), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        check_input(self, dy, rank=len(self.axes))
        inverse = tuple(self.axes.index(axis) for axis in range(len(self.axes)))
        return self._ordered(dy, inverse), ()

    def _ordered(self, x: Array, axes: tuple[int, ...]) -> Array:
        first = x.ndim - len(axes)
        return x.transpose(*range(first), *(first + axis for axis in axes))
