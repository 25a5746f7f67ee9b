"""Layers that only move numbers: nothing is kept but sizes, which live in tree structure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Shape,
    check_choice,
    check_cotangent,
    check_count,
    check_input,
    check_number,
    spell,
    widen,
)
from funcprop.sharding import aligned, reshaped, whole


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


@dataclass(frozen=True)
class Split(Layer):
    """The features in consecutive pieces, of the sizes given.

    forward   x [..., Σ sizes] -> (y₁ [..., size₁], …, yₙ [..., sizeₙ])
    keeps     nothing
    backward  dx = the dyᵢ side by side
    dtypes    any float; all pieces and dx have that of x
    raises    LayerError where sizes is no tuple of positive whole numbers, x is not a float array
              with their sum of features, or dy no such tuple of pieces

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> (one, two), _ = fp.Split((1, 3)).forward((), jnp.ones((8, 4)))
    >>> one.shape, two.shape
    ((8, 1), (8, 3))
    """

    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.sizes, tuple) or not self.sizes:
            raise LayerError(
                self, f"sizes is {self.sizes!r}, wanted a tuple of sizes", "write Split((2, 3))"
            )
        for size in self.sizes:
            check_count(self, "a size", size)

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[tuple[Array, ...], tuple]:
        check_input(self, x, rank=1)
        if x.shape[-1] != sum(self.sizes):
            raise LayerError(
                self, f"x is {spell(x)}, wanted [..., {sum(self.sizes)}]: the sum of the sizes"
            )
        return taken_apart(x, self.sizes), ()

    def backward(
        self, params: tuple, residuals: tuple, dy: tuple[Array, ...]
    ) -> tuple[Array, tuple]:
        if not isinstance(dy, tuple) or len(dy) != len(self.sizes):
            raise LayerError(self, f"dy is {spell(dy)}, wanted a tuple of {len(self.sizes)}")
        for piece, size in zip(dy, self.sizes, strict=True):
            check_cotangent(self, piece, (*dy[0].shape[:-1], size), dy[0].dtype)
        return jnp.concatenate(aligned(dy), -1), ()


@dataclass(frozen=True)
class Concatenate(Layer):
    """The features of several arrays side by side.

    forward   (x₁ [..., D₁], …, xₙ [..., Dₙ]) -> y [..., Σ Dᵢ]
    keeps     the sizes Dᵢ, in the tree structure
    backward  dxᵢ = its piece of dy
    dtypes    any float, one for all; y and all dxᵢ have it
    raises    LayerError where x is no tuple of float arrays that agree in all axes but the last and
              in dtype, or dy has not as many features as y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, sizes = fp.Concatenate().forward((), (jnp.ones((8, 1)), jnp.ones((8, 3))))
    >>> y.shape
    (8, 4)
    >>> [dx.shape for dx in fp.Concatenate().backward((), sizes, y)[0]]
    [(8, 1), (8, 3)]
    """

    def forward(
        self, params: tuple, x: tuple[Array, ...], context: Context = Context()
    ) -> tuple[Array, Shape]:
        if not isinstance(x, tuple) or not x:
            raise LayerError(self, f"x is {spell(x)}, wanted a tuple of arrays")
        for piece in x:
            check_input(self, piece, rank=1)
            if (piece.shape[:-1], piece.dtype) != (x[0].shape[:-1], x[0].dtype):
                raise LayerError(
                    self,
                    f"x is {spell(x)}: these cannot stand side by side",
                    "all axes but the last, and the dtypes, must agree",
                )
        return jnp.concatenate(aligned(x), -1), Shape(tuple(piece.shape[-1] for piece in x))

    def backward(self, params: tuple, sizes: Shape, dy: Array) -> tuple[tuple[Array, ...], tuple]:
        check_input(self, dy, features=sum(sizes.sizes), rank=1)
        return taken_apart(dy, sizes.sizes), ()


def taken_apart(x: Array, sizes: tuple[int, ...]) -> tuple[Array, ...]:
    """Consecutive pieces of the last axis."""
    x, starts = whole(x, -1), [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(x[..., i : i + size] for i, size in zip(starts, sizes, strict=True))


@dataclass(frozen=True)
class Pad(Layer):
    """x with something around it, along its last axes.

    widths  ((before, after), ...), one pair for each of the last axes, features included:
            ((1, 1), (1, 1), (0, 0)) frames images [..., height, width, channels]
    mode    "constant": `value`; "edge": the outermost element again; "reflect": what lies inside,
            mirrored at the outermost element; "wrap": what lies at the other end

    forward   x [..., sizes] -> y [..., sizes + before + after]
    keeps     nothing
    backward  dx = dy without the frame, plus each element of the frame where it was copied from
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where widths is no tuple of pairs of natural numbers or mode unknown, x is
              not a float array with as many axes, or an axis is too short for what is copied from
              it

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.Pad(((1, 2),), mode="edge")
    >>> layer.forward((), jnp.array([3.0, 4.0]))[0]
    Array([3., 3., 4., 4., 4.], dtype=float32)
    >>> layer.backward((), (), jnp.ones(5))[0]
    Array([2., 3.], dtype=float32)
    """

    widths: tuple[tuple[int, int], ...]
    _: KW_ONLY
    mode: Literal["constant", "edge", "reflect", "wrap"] = "constant"
    value: float = 0.0

    def __post_init__(self) -> None:
        check_choice(self, "mode", self.mode, ("constant", "edge", "reflect", "wrap"))
        if not isinstance(self.widths, tuple) or not all(
            isinstance(pair, tuple) and len(pair) == 2 for pair in self.widths
        ):
            raise LayerError(
                self,
                f"widths is {self.widths!r}, wanted a tuple of pairs (before, after)",
                "write Pad(((1, 1), (1, 1), (0, 0))) for images [..., height, width, channels]",
            )
        for pair in self.widths:
            for width in pair:
                check_count(self, "a width", width, 0)
        if self.value != float("inf"):  # an infinity may stand around what is maximized over
            check_number(self, "value", self.value, -np.inf)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x, rank=len(self.widths))
        self._check_widths("x", x, x.shape[x.ndim - len(self.widths) :])
        widths = ((0, 0),) * (x.ndim - len(self.widths)) + self.widths
        if self.mode == "constant":
            return jnp.pad(x, widths, constant_values=self.value), ()
        return jnp.pad(x, widths, self.mode), ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        check_input(self, dy, rank=len(self.widths))
        first = dy.ndim - len(self.widths)
        sizes = [n - sum(pair) for n, pair in zip(dy.shape[first:], self.widths, strict=True)]
        self._check_widths("dy", dy, sizes)
        if self.mode == "constant":
            cut = [(0, 0, 0)] * first + [(-before, -after, 0) for before, after in self.widths]
            return jax.lax.pad(dy, jnp.zeros((), dy.dtype), cut), ()
        dx = widen(dy)
        for axis, (before, after) in enumerate(self.widths, first):
            dx = fold(dx, axis, before, after, self.mode)
        return dx.astype(dy.dtype), ()

    def _check_widths(self, name: str, x: Array, sizes: Sequence[int]) -> None:
        """A frame is copied from x once: it is no wider than what it is copied from."""
        most = {"constant": math.inf, "edge": math.inf, "reflect": -1, "wrap": 0}[self.mode]
        for size, pair in zip(sizes, self.widths, strict=True):
            empty = size == 0 and self.mode != "constant"
            if size < 0 or empty or max(pair) > size + most:
                raise LayerError(
                    self,
                    f"{name} is {spell(x)}: an axis of {size} has not enough for {pair}",
                    'use mode="constant", or a narrower frame',
                )


def fold(dy: Array, axis: int, before: int, after: int, mode: str) -> Array:
    """The transpose of padding one axis: the frame is added to where it was copied from."""
    stop = dy.shape[axis] - after
    dx = jax.lax.slice_in_dim(dy, before, stop, axis=axis)
    n = stop - before
    first = jax.lax.slice_in_dim(dy, 0, before, axis=axis)
    last = jax.lax.slice_in_dim(dy, stop, None, axis=axis)

    def plus(dx: Array, start: int, part: Array) -> Array:
        part_stop = start + part.shape[axis]
        widths = [(0, 0)] * dx.ndim
        widths[axis] = (start, n - part_stop)
        return dx + jnp.pad(part, widths)

    if mode == "edge":
        dx = plus(dx, 0, first.sum(axis, keepdims=True)) if before else dx
        dx = plus(dx, n - 1, last.sum(axis, keepdims=True)) if after else dx
    elif mode == "reflect":
        dx = plus(dx, 1, jnp.flip(first, axis)) if before else dx
        dx = plus(dx, n - 1 - after, jnp.flip(last, axis)) if after else dx
    elif mode == "wrap":
        dx = plus(dx, n - before, first) if before else dx
        dx = plus(dx, 0, last) if after else dx
    return dx


@dataclass(frozen=True)
class Upsample(Layer):
    """x enlarged by whole factors along the axes before the features.

    factor  one whole number for each spatial axis: (2, 2) for images, (2,) for sequences; a
            single number stands for two axes
    method  "nearest": each element is repeated; "linear": between the centers of neighbors, the
            outermost continued (PyTorch's align_corners=False)

    forward   x [..., height, width, channels] -> y [..., height · s, width · s, channels]
    keeps     nothing
    backward  dx = the sum of dy over the s · s copies of an element, each with its weight
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where factor is no positive whole number or tuple of them or method
              unknown, x or dy is not a float array with axes for them, or an axis of dy is no
              multiple of its factor

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Upsample((2,)).forward((), jnp.array([[1.0], [5.0]]))
    >>> y.ravel()
    Array([1., 1., 5., 5.], dtype=float32)
    """

    factor: int | tuple[int, ...] = 2
    _: KW_ONLY
    method: Literal["nearest", "linear"] = "nearest"

    def __post_init__(self) -> None:
        check_choice(self, "method", self.method, ("nearest", "linear"))
        for factor in self._factors() or (self.factor,):
            check_count(self, "factor", factor)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x, rank=len(self._factors()) + 1)
        if self.method == "linear":
            return self._resized(x, "forward"), ()
        for axis, factor in self._axes(x):
            x = jnp.repeat(x, factor, axis)
        return x, ()

    def backward(self, params: tuple, residuals: tuple, dy: Array) -> tuple[Array, tuple]:
        check_input(self, dy, rank=len(self._factors()) + 1)
        for axis, factor in self._axes(dy):
            if dy.shape[axis] % factor:
                raise LayerError(
                    self, f"dy is {spell(dy)}: {dy.shape[axis]} is no multiple of {factor}"
                )
        if self.method == "linear":
            return self._resized(dy, "backward"), ()
        dx = widen(dy)
        for axis, factor in reversed(self._axes(dy)):
            copies = dx.reshape(
                *dx.shape[:axis], dx.shape[axis] // factor, factor, *dx.shape[axis + 1 :]
            )
            dx = copies.sum(axis + 1)
        return dx.astype(dy.dtype), ()

    def _resized(self, x: Array, direction: Literal["forward", "backward"]) -> Array:
        """One small matrix an axis, all in one contraction, as `jax.image.resize` does it."""
        wide, out = widen(x), list(range(x.ndim))
        operands: list[Any] = [wide, list(range(x.ndim))]
        for axis, factor in self._axes(x):
            n = x.shape[axis] if direction == "forward" else x.shape[axis] // factor
            matrix = interpolation(n, factor)
            out[axis] = axis + x.ndim
            indices = [out[axis], axis] if direction == "forward" else [axis, out[axis]]
            operands += [jnp.asarray(matrix, wide.dtype), indices]
        y = jnp.einsum(*operands, out, precision=jax.lax.Precision.HIGHEST)
        return y.astype(x.dtype)

    def _factors(self) -> tuple[int, ...]:
        return self.factor if isinstance(self.factor, tuple) else (self.factor, self.factor)

    def _axes(self, x: Array) -> list[tuple[int, int]]:
        """(axis, factor) of the spatial axes."""
        return list(enumerate(self._factors(), x.ndim - 1 - len(self._factors())))


def interpolation(n: int, factor: int) -> np.ndarray:
    """[n · factor, n]: the weights of linear interpolation between the centers of neighbors."""
    places = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(n)))
