"""Activations whose output is bounded on both sides: sigmoids, smooth and of straight lines.

At a kink the derivative is that of the side where the function is flatter, as PyTorch has it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    LayerError,
    check_cotangent,
    check_input,
    check_number,
)
from funcprop.layers.activations.activation import Activation


@dataclass(frozen=True)
class Sigmoid(Activation):
    """a = σ(z) = 1 / (1 + e⁻ᶻ), elementwise.

    forward   z [...] -> a [...]
    keeps     a: the derivative needs only the output
    backward  dz = da · a(1 − a)
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Nielsen, Neural Networks and Deep Learning, chapter 1

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Sigmoid().forward((), jnp.zeros(2))
    >>> a
    Array([0.5, 0.5], dtype=float32)
    >>> fp.Sigmoid().backward((), residuals, jnp.ones(2))[0]
    Array([0.25, 0.25], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jax.nn.sigmoid(z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return da * a * (1 - a), ()


@dataclass(frozen=True)
class Tanh(Activation):
    """a = tanh z, elementwise.

    forward   z [...] -> a [...]
    keeps     a: the derivative needs only the output
    backward  dz = da · (1 − a²)
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Tanh().forward((), jnp.array([0.0, 100.0]))
    >>> a
    Array([0., 1.], dtype=float32)
    >>> fp.Tanh().backward((), residuals, jnp.ones(2))[0]
    Array([1., 0.], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jnp.tanh(z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return da * (1 + a) * (1 - a), ()


@dataclass(frozen=True)
class Softsign(Activation):
    """a = z / (1 + |z|), elementwise.

    forward   z [...] -> a [...]
    keeps     z: near |a| = 1 the output has lost the digits of 1 − |a|
    backward  dz = da / (1 + |z|)²
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Bergstra, Desjardins, Lamblin and Bengio, Quadratic polynomials learn better image
              features, 2009

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Softsign().forward((), jnp.array([-3.0, 0.0]))
    >>> a
    Array([-0.75,  0.  ], dtype=float32)
    >>> fp.Softsign().backward((), residuals, jnp.ones(2))[0]
    Array([0.0625, 1.    ], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return z / (1 + jnp.abs(z)), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        r = 1 / (1 + jnp.abs(z))
        return da * r * r, ()


@dataclass(frozen=True)
class HardTanh(Activation):
    """a = z clipped to [low, high], elementwise.

    forward   z [...] -> a [...]
    keeps     a: it lies inside (low, high) exactly where z does
    backward  dz = da · [low < a < high]
    dtypes    any float; a and dz have that of z
    raises    LayerError where low is not below high, z is not a float array, or da not of the
              shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.HardTanh().forward((), jnp.array([-2.0, 0.5, 1.0]))
    >>> a
    Array([-1. ,  0.5,  1. ], dtype=float32)
    >>> fp.HardTanh().backward((), residuals, jnp.ones(3))[0]
    Array([0., 1., 0.], dtype=float32)
    """

    _: KW_ONLY
    low: float = -1.0
    high: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "low", self.low, -1e30)
        check_number(self, "high", self.high, self.low)
        if self.low == self.high:
            raise LayerError(self, f"low and high are both {self.low!r}, wanted low < high")

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jnp.clip(z, self.low, self.high)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where((a > self.low) & (a < self.high), da, 0), ()


@dataclass(frozen=True)
class ReLU6(HardTanh):
    """a = min(max(z, 0), 6), elementwise: `HardTanh(low=0, high=6)` by the name it has.

    forward   z [...] -> a [...]
    keeps     a: it lies inside (0, 6) exactly where z does
    backward  dz = da · [0 < a < 6]
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Howard et al., 2017, arXiv:1704.04861

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.ReLU6().forward((), jnp.array([-1.0, 3.0, 8.0]))[0]
    Array([0., 3., 6.], dtype=float32)
    """

    low: float = field(default=0.0, init=False)
    high: float = field(default=6.0, init=False)


@dataclass(frozen=True)
class HardSigmoid(Activation):
    """a = min(max(z + 3, 0), 6) / 6, elementwise: a straight line in place of σ.

    forward   z [...] -> a [...]
    keeps     whether −3 < z < 3: bool [...], one byte an element
    backward  dz = da / 6 inside, 0 elsewhere
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Howard et al., 2019, arXiv:1905.02244

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.HardSigmoid().forward((), jnp.array([-4.0, 0.0, 3.0]))
    >>> a
    Array([0. , 0.5, 1. ], dtype=float32)
    >>> print(fp.HardSigmoid().backward((), residuals, jnp.full(3, 6.0))[0])
    [0. 1. 0.]
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return jnp.clip(z + 3, 0, 6) / 6, jnp.abs(z) < 3

    def backward(self, params: tuple, inside: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, inside.shape, da.dtype)
        return jnp.where(inside, da / 6, 0), ()
