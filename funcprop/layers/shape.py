"""Layers that only move numbers: nothing is kept but sizes, which live in tree structure."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class Identity(Layer):
    """y = x, for any tree.

    forward   x -> x
    keeps     nothing
    backward  dx = dy
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
    """

    shape: tuple[int, ...]
    axes: int = 1

    def __post_init__(self) -> None:
        check_count(self, "axes", self.axes)
        if not isinstance(self.shape, tuple) or sum(size == -1 for size in self.shape) > 1:
            raise LayerError(
                self, f"shape is {self.shape!r}, wanted a tuple of sizes, at most one of them -1"
            )

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Shape]:
        check_input(self, x, rank=self.axes)
        old = x.shape[x.ndim - self.axes :]
        return x.reshape(x.shape[: x.ndim - self.axes] + self._new(old, x)), Shape(old)

    def backward(self, params: tuple, old: Shape, dy: Array) -> tuple[Array, tuple]:
        new = self._new(old.sizes, dy)
        leading = dy.shape[: max(dy.ndim - len(new), 0)]
        check_cotangent(self, dy, leading + new, dy.dtype)
        return dy.reshape(leading + old.sizes), ()

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
    """

    shape: tuple[int, ...] = field(default=(-1,), init=False, repr=False)
    axes: int = 3
