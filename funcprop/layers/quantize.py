"""Binarize and Quantize: steps forward, and a gradient that does not see them."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_count,
    check_input,
    check_number,
)


@dataclass(frozen=True)
class Binarize(Layer):
    """y = 1 where x ≥ 0, else −1; backward takes it for HardTanh (Hubara et al., 2016).

    The derivative is zero everywhere but at 0. What is sent back is not it, but a straight-through
    estimate: dy where |x| ≤ 1, and nothing beyond, where x would only grow. `compare`, which knows
    the derivative, says so; with against=HardTanh() it checks the estimate.

    forward   x [...] -> y [...]
    keeps     |x| ≤ 1: bool [...], one byte an element
    backward  dx = dy · 1[|x| ≤ 1]
    dtypes    any float; y and dx have that of x
    raises    LayerError where x is not a float array, or dy not of the shape of y
    source    Hubara et al., Binarized neural networks, 2016; the estimate: Bengio, Léonard and
              Courville, 2013, arXiv:1308.3432

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, residuals = fp.Binarize().forward((), jnp.array([-2.0, 0.0, 0.5]))
    >>> y
    Array([-1.,  1.,  1.], dtype=float32)
    >>> fp.Binarize().backward((), residuals, jnp.ones(3))[0]
    Array([0., 1., 1.], dtype=float32)
    """

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, x)
        return jnp.where(x == 0, 1, jnp.sign(x)), jnp.abs(x) <= 1

    def backward(self, params: tuple, inside: Array, dy: Array) -> tuple[Array, tuple]:
        check_cotangent(self, dy, inside.shape, dy.dtype)
        return jnp.where(inside, dy, 0), ()


@dataclass(frozen=True)
class Quantize(Layer):
    """y: the nearest of `levels` numbers, evenly spaced from `low` to `high`.

    Half-way between two it is the even one, counted from `low`. Quantize(2**bits) has that many
    bits. The gradient is a straight-through estimate, as in `Binarize`.

    forward   x [...] -> y [...]
    keeps     low ≤ x ≤ high: bool [...], one byte an element
    backward  dx = dy · 1[low ≤ x ≤ high]
    dtypes    any float; y and dx have that of x
    raises    LayerError where levels is no whole number of at least 2, low is not below high, x is
              not a float array, or dy not of the shape of y
    source    Bengio, Léonard and Courville, 2013, arXiv:1308.3432

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> y, residuals = fp.Quantize(3).forward((), jnp.array([-0.8, 0.1, 0.9]))
    >>> y
    Array([-1.,  0.,  1.], dtype=float32)
    """

    levels: int
    _: KW_ONLY
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_count(self, "levels", self.levels, 2)
        check_number(self, "low", self.low, np.finfo(float).min)
        check_number(self, "high", self.high, np.finfo(float).min)
        if not self.low < self.high:
            raise LayerError(self, f"low is {self.low} and high {self.high}, wanted low < high")

    def forward(self, params: tuple, x: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, x)
        step = (self.high - self.low) / (self.levels - 1)
        index = jnp.round((x.clip(self.low, self.high) - self.low) / step)
        return self.low + index * step, (self.low <= x) & (x <= self.high)

    def backward(self, params: tuple, inside: Array, dy: Array) -> tuple[Array, tuple]:
        check_cotangent(self, dy, inside.shape, dy.dtype)
        return jnp.where(inside, dy, 0), ()
