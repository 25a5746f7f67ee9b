"""Shrinkage: what is small becomes nothing, or less."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    check_cotangent,
    check_input,
    check_number,
)
from funcprop.layers.activations.activation import Activation


@dataclass(frozen=True)
class HardShrink(Activation):
    """a = z where |z| > width, 0 elsewhere.

    forward   z [...] -> a [...]
    keeps     a: it is 0 exactly where |z| ≤ width
    backward  dz = da · [a ≠ 0]
    dtypes    any float; a and dz have that of z
    raises    LayerError where width is negative, z is not a float array, or da not of the shape
              and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.HardShrink().forward((), jnp.array([-2.0, 0.25, 0.5]))
    >>> a
    Array([-2.,  0.,  0.], dtype=float32)
    >>> fp.HardShrink().backward((), residuals, jnp.ones(3))[0]
    Array([1., 0., 0.], dtype=float32)
    """

    width: float = 0.5

    def __post_init__(self) -> None:
        check_number(self, "width", self.width, 0)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jnp.where(jnp.abs(z) <= self.width, 0, z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(a != 0, da, 0), ()


@dataclass(frozen=True)
class Softshrink(HardShrink):
    """a = z − width where z > width, z + width where z < −width, 0 between.

    forward   z [...] -> a [...]
    keeps     a: it is 0 exactly where |z| ≤ width
    backward  dz = da · [a ≠ 0]
    dtypes    any float; a and dz have that of z
    raises    LayerError where width is negative, z is not a float array, or da not of the shape
              and dtype of a
    source    Donoho, De-noising by soft-thresholding, 1995

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Softshrink().forward((), jnp.array([-2.0, 0.25, 1.0]))
    >>> a
    Array([-1.5,  0. ,  0.5], dtype=float32)
    >>> fp.Softshrink().backward((), residuals, jnp.ones(3))[0]
    Array([1., 0., 1.], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = z - jnp.clip(z, -self.width, self.width)
        return a, a


@dataclass(frozen=True)
class TanhShrink(Activation):
    """a = z − tanh z, elementwise.

    forward   z [...] -> a [...]
    keeps     t = tanh z: the derivative needs no more
    backward  dz = da · t²
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.TanhShrink().forward((), jnp.array([0.0, 100.0]))
    >>> a
    Array([ 0., 99.], dtype=float32)
    >>> fp.TanhShrink().backward((), residuals, jnp.ones(2))[0]
    Array([0., 1.], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        t = jnp.tanh(z)
        return z - t, t

    def backward(self, params: tuple, t: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, t.shape, t.dtype)
        return da * t * t, ()
