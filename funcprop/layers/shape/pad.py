"""Pad: a frame around x, of a constant or of what x holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_choice,
    check_count,
    check_input,
    check_number,
    spell,
    widen,
)


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
        first = x.ndim - len(self.widths)
        if self.mode == "constant":
            widths = ((0, 0),) * first + self.widths
            return jnp.pad(x, widths, constant_values=self.value), ()
        for axis, (before, after) in enumerate(self.widths, first):
            x = copied(x, axis, before, after, self.mode)
        return x, ()

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


def copied(x: Array, axis: int, before: int, after: int, mode: str) -> Array:
    """x with a frame of what it holds along one axis. `jnp.pad` would cut the other axes too."""
    if before == after == 0:
        return x
    n = x.shape[axis]

    def part(start: int, stop: int) -> Array:
        return jax.lax.slice_in_dim(x, start, stop, axis=axis)

    if mode == "edge":
        first, last = jnp.repeat(part(0, 1), before, axis), jnp.repeat(part(n - 1, n), after, axis)
    elif mode == "reflect":
        first = jnp.flip(part(1, before + 1), axis)
        last = jnp.flip(part(n - 1 - after, n - 1), axis)
    else:
        first, last = part(n - before, n), part(0, after)
    return jnp.concatenate([first, x, last], axis)


def fold(dy: Array, axis: int, before: int, after: int, mode: str) -> Array:
    """The transpose of padding one axis: the frame is added to where it was copied from."""
    if before == after == 0:
        return dy
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
