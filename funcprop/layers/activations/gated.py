"""Gates: z times a function of z that rises from 0 to 1. None is monotone, so z is kept."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    check_cotangent,
    check_input,
)
from funcprop.layers.activations.activation import Activation


@dataclass(frozen=True)
class GELU(Activation):
    """a = z Φ(z), or with `approximate` a = ½z(1 + tanh u), u = √(2/π)(z + 0.044715 z³).

    Hendrycks and Gimpel (2016); GPT-2 uses the approximate form.

    forward   z [...] -> a [...]
    keeps     z: a is not monotone in z; and a, since Φ(z) = a / z costs less than erfc again
    backward  dz = da · (Φ(z) + zφ(z)), or da · (½(1 + t) + ½z(1 − t²)u′), t = tanh u
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Hendrycks and Gimpel, 2016, arXiv:1606.08415

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.GELU().forward((), jnp.array([-1.0, 1.0]))
    >>> print(f"{a[0]:.3f} {a[1]:.3f}")
    -0.159 0.841
    """

    _: KW_ONLY
    approximate: bool = False

    def forward(
        self, params: tuple, z: Array, context: Context = Context()
    ) -> tuple[Array, GELUResiduals]:
        check_input(self, z)
        a = jax.nn.gelu(z, approximate=self.approximate)
        return a, GELUResiduals(z, None if self.approximate else a)

    def backward(self, params: tuple, residuals: GELUResiduals, da: Array) -> tuple[Array, tuple]:
        z, a = residuals
        check_cotangent(self, da, z.shape, z.dtype)
        if a is not None:
            # around 0 the quotient has no digits left, and Φ is ½ to the last bit
            tiny = jnp.abs(z) < jnp.finfo(z.dtype).eps ** 2
            cumulative = jnp.where(tiny, 0.5, a / jnp.where(tiny, 1, z))
            density = jnp.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
            return da * (cumulative + z * density), ()
        # beyond |z| = 20 t is ±1 to the last bit; clipping keeps u′ finite, and 0 · u′ zero. In u z
        # is not clipped, so that XLA finds the tanh of the forward pass here again
        v = jnp.clip(z, -20, 20)
        c = math.sqrt(2 / math.pi)
        t = jnp.tanh(c * (z + 0.044715 * z**3))
        slope = c * (1 + 3 * 0.044715 * v * v)
        return da * (0.5 * (1 + t) + 0.5 * v * (1 + t) * (1 - t) * slope), ()


class GELUResiduals(NamedTuple):
    """What GELU keeps."""

    z: Array  # [...]
    a: Array | None  # [...], of which Φ(z) is made; None where approximate


@dataclass(frozen=True)
class SiLU(Activation):
    """a = z σ(z), also called swish.

    forward   z [...] -> a [...]
    keeps     z: a is not monotone in z
    backward  dz = da · s(1 + z(1 − s)), s = σ(z)
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Hendrycks and Gimpel, 2016, arXiv:1606.08415; Ramachandran, Zoph and Le, 2017,
              arXiv:1710.05941

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.SiLU().forward((), jnp.zeros(1))
    >>> fp.SiLU().backward((), residuals, jnp.ones(1))[0]
    Array([0.5], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return z * jax.nn.sigmoid(z), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        s = jax.nn.sigmoid(z)
        return da * s * (1 + z * (1 - s)), ()


@dataclass(frozen=True)
class Mish(Activation):
    """a = z · tanh(log(1 + eᶻ)), elementwise.

    forward   z [...] -> a [...]
    keeps     z: a is not monotone in z
    backward  dz = da · (t + z(1 − t²)σ(z)), t = tanh(log(1 + eᶻ))
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Misra, 2019, arXiv:1908.08681

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Mish().forward((), jnp.array([0.0, 100.0]))
    >>> a
    Array([  0., 100.], dtype=float32)
    >>> fp.Mish().backward((), residuals, jnp.ones(2))[0]
    Array([0.6, 1. ], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return z * mish_gate(z)[0], z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        t, slope = mish_gate(z)
        return da * (t + z * slope), ()


def mish_gate(z: Array) -> tuple[Array, Array]:
    """t = tanh(log(1 + eᶻ)) and its derivative, of one exponential that cannot overflow.

    With n = eᶻ, t = (n² + 2n) / D and t′ = 4n(1 + n) / D², D = n² + 2n + 2; for z > 0 both sides
    of the fractions are divided by n² and n⁴, so that m = e⁻ᶻ is what they are made of.
    """
    e = jnp.exp(-jnp.abs(z))
    positive = z > 0
    below = jnp.where(positive, 1 + 2 * e + 2 * e * e, e * e + 2 * e + 2)
    t = jnp.where(positive, 1 + 2 * e, e * e + 2 * e) / below
    slope = 4 * e * (1 + e) * jnp.where(positive, e, 1) / (below * below)
    return t, slope


@dataclass(frozen=True)
class HardSwish(Activation):
    """a = z · min(max(z + 3, 0), 6) / 6, elementwise.

    forward   z [...] -> a [...]
    keeps     z: a is not monotone in z
    backward  dz = da · (0 where z ≤ −3, 1 where z ≥ 3, z/3 + ½ between)
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Howard et al., 2019, arXiv:1905.02244

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.HardSwish().forward((), jnp.array([-4.0, 0.0, 4.0]))
    >>> a
    Array([-0.,  0.,  4.], dtype=float32)
    >>> fp.HardSwish().backward((), residuals, jnp.ones(3))[0]
    Array([0. , 0.5, 1. ], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return z * (jnp.clip(z + 3, 0, 6) / 6), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        slope = jnp.where(z < 3, z / 3 + 0.5, 1)
        return jnp.where(z > -3, da * slope, 0), ()
