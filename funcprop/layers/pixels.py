"""Pixels: images stored as bytes become numbers."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    is_float,
    spell,
)


@dataclass(frozen=True)
class Pixels(Layer):
    """y = x / 255 for uint8 images, in float32 (float64 under x64); floats pass as they are.

    Data that stays in bytes on the device moves a quarter of the memory in every epoch.

    forward   x [...] uint8 or float -> y [...] float
    keeps     nothing; whether x was bytes is in the tree structure: None, not ()
    backward  None for bytes, dx = dy for floats
    dtypes    uint8, or any float
    raises    LayerError where x is neither

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, residuals = fp.Pixels().forward((), jnp.array([0, 255], jnp.uint8))
    >>> y
    Array([0., 1.], dtype=float32)
    """

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, tuple | None]:
        if is_float(x):
            return x, ()
        if getattr(x, "dtype", None) != jnp.uint8:
            raise LayerError(
                self,
                f"x is {spell(x)}, wanted uint8 or floats",
                "write x.astype(jnp.uint8) for bytes from 0 to 255",
            )
        return x.astype(jnp.zeros(()).dtype) * (1 / 255), None

    def backward(
        self, params: tuple, residuals: tuple | None, dy: Array
    ) -> tuple[Array | None, tuple]:
        check_cotangent(self, dy, dy.shape, dy.dtype)
        return None if residuals is None else dy, ()
