"""Upsample: images enlarged by whole factors."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

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
    spell,
    widen,
)


@dataclass(frozen=True)
class Upsample(Layer):
    """x enlarged by whole factors along the axes before the features.

    factor  one whole number for each spatial axis: (2, 2) for images, (2,) for sequences; a
            single number stands for two axes
    method  "nearest": each element is repeated; "linear": between the centers of neighbors, the
            outermost continued; "cubic": through four neighbors (Keys, 1981, with a = −3/4 as in
            PyTorch)
    align_corners
            of the latter two: the outermost elements stay at the edge, and those between are spread
            evenly, as in PyTorch under that name; False: an element is as wide as all others

    forward   x [..., height, width, channels] -> y [..., height · s, width · s, channels]
    keeps     nothing
    backward  dx = the sum of dy over the s · s copies of an element, each with its weight
    dtypes    any float; y and dx have that of x, sums are made in float32 at least
    raises    LayerError where factor is no positive whole number or tuple of them or method
              unknown, align_corners is given for "nearest", x or dy is not a float array with axes
              for them, or an axis of dy is no multiple of its factor
    source    of "cubic": Keys, 1981, IEEE Transactions on Acoustics, Speech, and Signal Processing

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, _ = fp.Upsample((2,)).forward((), jnp.array([[1.0], [5.0]]))
    >>> y.ravel()
    Array([1., 1., 5., 5.], dtype=float32)
    """

    factor: int | tuple[int, ...] = 2
    _: KW_ONLY
    method: Literal["nearest", "linear", "cubic"] = "nearest"
    align_corners: bool = False

    def __post_init__(self) -> None:
        check_choice(self, "method", self.method, ("nearest", "linear", "cubic"))
        if self.align_corners and self.method == "nearest":
            raise LayerError(
                self,
                "align_corners=True, and copies have no corners",
                f'write Upsample({self.factor}, method="linear", align_corners=True)',
            )
        for factor in self._factors() or (self.factor,):
            check_count(self, "factor", factor)

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_input(self, x, rank=len(self._factors()) + 1)
        if self.method != "nearest":
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
        if self.method != "nearest":
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
            matrix = interpolation(n, factor, self.method, self.align_corners)
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


def interpolation(n: int, factor: int, method: str, align_corners: bool) -> np.ndarray:
    """[n · factor, n]: the weights of interpolation between neighbors."""
    m = n * factor
    places = (np.arange(m) + 0.5) / factor - 0.5
    if align_corners:
        places = np.arange(m) * ((n - 1) / (m - 1) if m > 1 else 0)
    if method == "linear":
        places = np.clip(places, 0, n - 1)
        return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(n)))
    weights, first = np.zeros((m, n)), np.floor(places).astype(int) - 1
    for neighbor in range(4):
        at = np.clip(first + neighbor, 0, n - 1)  # the outermost continued
        np.add.at(weights, (np.arange(m), at), cubic(places - first - neighbor))
    return weights


def cubic(distance: np.ndarray) -> np.ndarray:
    """The weight of a neighbor, by its distance."""
    a, t = -0.75, np.abs(distance)
    near = ((a + 2) * t - (a + 3)) * t**2 + 1
    far = a * (((t - 5) * t + 8) * t - 4)
    return np.where(t <= 1, near, np.where(t < 2, far, 0))
