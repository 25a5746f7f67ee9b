"""Gradients of single examples as a lifted function has them: in stacks of matrices, of
convolutions in any arrangement, and told of a parameter from a value that is made of it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.collectors.forms import (
    Form,
    Outer,
    by_example,
    joined,
    product,
    registered,
    scaled,
    squares,
)
from funcprop.layer import Array, widen
from funcprop.sharding import out_as


@registered()
class Blocks(Form):
    """g_b of a stack of matrices [G, in, out]: in each, Σ_n a_n δ_nᵀ. With G = 1, see `Outer`.

    a   [B, G, N, in]
    d   [B, G, N, out]
    """

    a: Array
    d: Array

    @staticmethod
    def of(a: Array, d: Array) -> Form:
        """a [B, *groups, N, in], d [B, *groups, N, out] -> an Outer where there is no group."""
        if a.ndim == 3:
            return Outer(a, d)  # type: ignore[call-arg]
        a, d = (part.reshape(part.shape[0], -1, *part.shape[-2:]) for part in (a, d))
        return Blocks(a, d)  # type: ignore[call-arg]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.a.shape[1], self.a.shape[-1], self.d.shape[-1])

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.a.dtype

    def materialize(self) -> Array:
        return product("bgni,bgno->bgio", self.a, self.d)

    def squared_norms(self) -> Array:
        groups, rows, wide = self.a.shape[1:]
        high = self.d.shape[-1]
        if rows == 1:
            a, d = (jnp.square(widen(part)).sum((-2, -1)) for part in (self.a, self.d))
            return (a * d).sum(1)
        if rows * (wide + high) >= wide * high:
            return super().squared_norms()

        def gram(one: Blocks) -> Array:
            of_a = product("bgni,bgmi->bgnm", one.a, one.a)
            return (of_a * product("bgno,bgmo->bgnm", one.d, one.d)).sum((1, 2, 3))

        return by_example(gram, 2 * groups * rows * rows, self)

    def weighted(self, c: Array) -> Array:
        d = scaled(c, widen(self.d)).astype(self.d.dtype)
        out = out_as((None, None, None), self.a, d)
        found = product("bgni,bgno->gio", self.a, d, **out)
        return found.astype(self.dtype)

    def folded(self) -> Form:
        def one(part: Array) -> Array:  # [T, B, G, N, F] -> [B, G, T N, F]
            moved = jnp.moveaxis(part, 0, 2)
            return moved.reshape(*moved.shape[:2], -1, moved.shape[-1])

        return Blocks(one(self.a), one(self.d))  # type: ignore[call-arg]


def stacked(form: Form) -> Form:
    """A form of every step, on axis 0 -> the form of the stack of the parameter's slices."""
    a, d = (jnp.moveaxis(part, 0, 1) for part in (form.a, form.d))  # type: ignore[attr-defined]
    return Blocks.of(a, d)


@registered("geometry")
class Convolution(Form):
    """g_b of a kernel [*window, in, out], x and δ being images.

    x         [B, I, *spatial, channels]: I images of every example
    d         [B, I, *positions, out]
    geometry  strides, padding, dilation of x and of the kernel, window, groups

    The gradient of one example is a product of patches of x, rows of window · in numbers, with δ:
    one matrix product for every example, in place of a convolution for each.
    """

    x: Array
    d: Array
    geometry: tuple[Any, ...]

    @property
    def groups(self) -> int:
        return self.geometry[-1]

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (*self.geometry[4], self.x.shape[-1] // self.groups, self.d.shape[-1])

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.x.dtype

    def sides(self) -> Form:
        """The patches and δ: [B, N, window · in] and [B, N, out], with groups [B, G, N, ...]."""
        a = patches(self.x, self.geometry)  # [B, N, window, channels]
        size, rows, taps, channels = a.shape
        d = self.d.reshape(size, rows, -1)
        if self.groups == 1:
            return Outer(a.reshape(size, rows, -1), d)  # type: ignore[call-arg]
        a = a.reshape(size, rows, taps, self.groups, channels // self.groups)
        a = a.transpose(0, 3, 1, 2, 4).reshape(size, self.groups, rows, -1)
        d = d.reshape(size, rows, self.groups, -1).transpose(0, 2, 1, 3)
        return Blocks(a, d)  # type: ignore[call-arg]

    def materialize(self) -> Array:
        found = self.sides().materialize()
        if self.groups > 1:  # [B, G, K, out / G] -> [B, K, out]
            found = found.transpose(0, 2, 1, 3)
        return found.reshape(found.shape[0], *self.shape)

    def squared_norms(self) -> Array:
        positions = math.prod(self.d.shape[1:-1])
        numbers = math.prod(self.shape[:-1]) * (positions + self.shape[-1])
        return by_example(lambda one: one.sides().squared_norms(), numbers, self)

    def squares_summed(self) -> Array:
        found = self.sides().squares_summed()
        if self.groups > 1:
            found = found.transpose(1, 0, 2)
        return found.reshape(self.shape)

    def weighted(self, c: Array) -> Array:
        """JAX's own gradient of the kernel, of δ with the weights in it."""
        d = scaled(c, widen(self.d)).astype(self.d.dtype)
        x, d = (part.reshape(-1, *part.shape[2:]) for part in (self.x, d))
        kernel = jax.ShapeDtypeStruct(self.shape, self.dtype)
        transpose = jax.linear_transpose(lambda w: convolved(x, w, self.geometry), kernel)
        return transpose(d)[0]

    def folded(self) -> Form:
        x, d = (joined(part) for part in (self.x, self.d))
        return Convolution(x, d, self.geometry)  # type: ignore[call-arg]

    def as_rows(self) -> tuple[Array, Array] | None:
        """As a weight with rows, for K-FAC: none where there are groups."""
        sides = self.sides()
        return sides.as_rows() if isinstance(sides, Outer) else None


def convolved(x: Array, w: Array, geometry: tuple[Any, ...]) -> Array:
    """The convolution that x and d are of: channels last."""
    strides, padding, dilation, kernel_dilation, _, groups = geometry
    images = (0, x.ndim - 1, *range(1, x.ndim - 1))
    kernel = (w.ndim - 1, w.ndim - 2, *range(w.ndim - 2))
    numbers = lax.ConvDimensionNumbers(images, kernel, images)
    return lax.conv_general_dilated(
        x, w, strides, padding, dilation, kernel_dilation, numbers, groups
    )


def patches(x: Array, geometry: tuple[Any, ...]) -> Array:
    """x [B, I, *spatial, channels] -> what the kernel meets: [B, I · positions, window, channels].

    By slices, one a tap: XLA's own primitive for it takes ten times as long on a CPU.
    """
    strides, padding, dilation, kernel_dilation, window, _ = geometry
    config = [(0, 0, 0)] * 2
    config += [(low, high, by - 1) for (low, high), by in zip(padding, dilation, strict=True)]
    padded = lax.pad(x, jnp.zeros((), x.dtype), [*config, (0, 0, 0)])
    spread = [(k - 1) * by + 1 for k, by in zip(window, kernel_dilation, strict=True)]
    sizes = padded.shape[2:-1]
    counts = [(n - s) // by + 1 for n, s, by in zip(sizes, spread, strides, strict=True)]
    taps = []
    for tap in range(math.prod(window)):
        at, rest = [], tap
        for k in reversed(window):
            at.insert(0, rest % k)
            rest //= k
        starts = [i * by for i, by in zip(at, kernel_dilation, strict=True)]
        ends = [s + (n - 1) * by + 1 for s, n, by in zip(starts, counts, strides, strict=True)]
        taps.append(
            lax.slice(
                padded,
                (0, 0, *starts, 0),
                (*padded.shape[:2], *ends, padded.shape[-1]),
                (1, 1, *strides, 1),
            )
        )
    seen = jnp.concatenate([tap[..., None, :] for tap in taps], -2)
    return seen.reshape(seen.shape[0], -1, *seen.shape[-2:])


@registered("leaf", "back", "kept")
class Told(Form):
    """g_b of a parameter, told by the form of a value that is made of it.

    form    of the value, in the shape of its own
    given   what `back` reads besides: the parameters that the value is made of
    leaf    ShapeDtypeStruct of the parameter, as (shape, dtype name)
    back    (given, gradient of the value) -> gradient of the parameter: linear in the gradient
    kept    whether that moves numbers about, and changes none
    """

    form: Form
    given: Any
    leaf: tuple[tuple[int, ...], str]
    back: Callable[[Any, Array], Array]
    kept: bool

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.leaf[0]

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return jnp.dtype(self.leaf[1])

    @property
    def mappable(self) -> bool:
        return False

    def one(self, gradient: Array) -> Array:
        return self.back(self.given, gradient)

    def materialize(self) -> Array:
        return jax.vmap(self.one)(self.form.materialize())

    def squared_norms(self) -> Array:
        if self.kept:
            return self.form.squared_norms()
        if not self.form.mappable:
            return squares(self.materialize())
        return by_example(
            lambda form: squares(jax.vmap(self.one)(form.materialize())), self.numbers, self.form
        )

    def gram(self) -> Array:
        return self.form.gram() if self.kept else super().gram()

    def inner(self, other: Form) -> Array:
        told: Any = other
        alike = isinstance(told, Told) and self.kept and told.kept and self.back is told.back
        if alike and self.form.shape == told.form.shape:  # a vector is a row here, a column there
            return self.form.inner(told.form)
        return super().inner(other)

    def squares_summed(self) -> Array:
        if self.kept:
            return self.one(self.form.squares_summed())
        return super().squares_summed()

    def weighted(self, c: Array) -> Array:
        return self.one(self.form.weighted(c)).astype(self.dtype)

    def as_rows(self) -> tuple[Array, Array] | None:
        """Those of the value, where it is a matrix, and the parameter that matrix in another
        shape."""
        matrix = self.form.ndim == 2 and self.back is reshaped(self.leaf)
        return self.form.as_rows() if matrix else None


@functools.cache
def reshaped(leaf: tuple[tuple[int, ...], str]) -> Callable[[Any, Array], Array]:
    """`back` of a value that is the parameter in another shape or dtype."""

    def back(_: Any, gradient: Array) -> Array:
        wide = max(gradient.dtype, jnp.dtype(leaf[1]), key=lambda dtype: dtype.itemsize)
        return gradient.reshape(leaf[0]).astype(wide)

    return back
