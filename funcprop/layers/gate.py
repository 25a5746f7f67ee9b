"""Multiply: one array opens and closes another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from funcprop.layer import Array, Context, Layer, LayerError, check_cotangent, is_float, spell


class MultiplyResiduals(NamedTuple):
    """What Multiply keeps."""

    a: Array  # [...]: the factor of db
    b: Array  # [...]: the factor of da


@dataclass(frozen=True)
class Multiply(Layer):
    """y = a · b, elementwise.

    forward   (a [...], b [...]) -> y [...]
    keeps     a, b
    backward  da = dy · b    db = dy · a
    dtypes    any float, one for a and b; y, da and db have it
    raises    LayerError where x is no pair of float arrays of one shape and dtype, or dy has not
              the shape and dtype of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, residuals = fp.Multiply().forward((), (jnp.array([2.0]), jnp.array([3.0])))
    >>> y
    Array([6.], dtype=float32)
    >>> fp.Multiply().backward((), residuals, jnp.ones(1))[0]
    (Array([3.], dtype=float32), Array([2.], dtype=float32))
    """

    def forward(
        self, params: tuple, x: tuple[Any, Any], context: Context = Context()
    ) -> tuple[Array, MultiplyResiduals]:
        if not isinstance(x, tuple) or len(x) != 2 or not all(map(is_float, x)):
            raise LayerError(self, f"x is {spell(x)}, wanted a tuple of two arrays of floats")
        a, b = x
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise LayerError(
                self,
                f"x is {spell(x)}: shape and dtype must agree",
                "broadcasting would hide a mistake: use jnp.broadcast_to before",
            )
        return a * b, MultiplyResiduals(a, b)

    def backward(
        self, params: tuple, residuals: MultiplyResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        a, b = residuals
        check_cotangent(self, dy, a.shape, a.dtype)
        return (dy * b, dy * a), ()
