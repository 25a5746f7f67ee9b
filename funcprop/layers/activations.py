"""Activations: z -> a, and da -> dz = da · σ′(z).

Each keeps its output a where the derivative can be written with it, since the next layer keeps a
as well; GELU and SiLU are not monotone, so they keep z. At a kink the derivative is that of the
side where the function is flatter: relu′(0) = 0, leaky_relu′(0) = slope, hardtanh′(±1) = 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    check_cotangent,
    check_input,
    check_number,
    widen,
)


@dataclass(frozen=True)
class Sigmoid(Layer):
    """a = σ(z) = 1 / (1 + e⁻ᶻ), elementwise.

    forward   z [...] -> a [...]
    keeps     a: the derivative needs only the output
    backward  dz = da · a(1 − a)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jax.nn.sigmoid(z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return da * a * (1 - a), ()


@dataclass(frozen=True)
class Tanh(Layer):
    """a = tanh z, elementwise.

    forward   z [...] -> a [...]
    keeps     a: the derivative needs only the output
    backward  dz = da · (1 − a²)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jnp.tanh(z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return da * (1 + a) * (1 - a), ()


@dataclass(frozen=True)
class ReLU(Layer):
    """a = max(z, 0), elementwise.

    forward   z [...] -> a [...]
    keeps     a: it is positive exactly where z is
    backward  dz = da · [a > 0], so relu′(0) = 0
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jax.nn.relu(z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(a > 0, da, 0), ()


@dataclass(frozen=True)
class LeakyReLU(Layer):
    """a = z where z > 0, slope · z elsewhere.

    forward   z [...] -> a [...]
    keeps     a: for slope ≥ 0 it is positive exactly where z is
    backward  dz = da · (1 where a > 0, slope elsewhere)
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        check_number(self, "slope", self.slope, 0)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jnp.where(z > 0, z, self.slope * z)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(a > 0, da, self.slope * da), ()


@dataclass(frozen=True)
class ELU(Layer):
    """a = z where z > 0, α(eᶻ − 1) elsewhere (Clevert et al., 2015).

    forward   z [...] -> a [...]
    keeps     a: for α > 0 it is positive exactly where z is, and αeᶻ = a + α
    backward  dz = da · (1 where a > 0, a + α elsewhere)
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "alpha", self.alpha, 0)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        # e^z is taken of min(z, 0) only: the branch that is not chosen must not overflow
        a = jnp.where(z > 0, z, self.alpha * jnp.expm1(jnp.where(z > 0, 0, z)))
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(a > 0, da, da * (a + self.alpha)), ()


@dataclass(frozen=True)
class SELU(Layer):
    """a = λz where z > 0, λα(eᶻ − 1) elsewhere, with the constants of Klambauer et al. (2017).

    forward   z [...] -> a [...]
    keeps     a: it is positive exactly where z is, and λαeᶻ = a + λα
    backward  dz = da · (λ where a > 0, a + λα elsewhere)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        flat = SELU_SCALE * SELU_ALPHA
        a = jnp.where(z > 0, SELU_SCALE * z, flat * jnp.expm1(jnp.where(z > 0, 0, z)))
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return da * jnp.where(a > 0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA), ()


SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


@dataclass(frozen=True)
class GELU(Layer):
    """a = z Φ(z), or with `approximate` a = ½z(1 + tanh u), u = √(2/π)(z + 0.044715 z³).

    Hendrycks and Gimpel (2016); GPT-2 uses the approximate form.

    forward   z [...] -> a [...]
    keeps     z: a is not monotone in z; and a, since Φ(z) = a / z costs less than erfc again
    backward  dz = da · (Φ(z) + zφ(z)), or da · (½(1 + t) + ½z(1 − t²)u′), t = tanh u
    """

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
class SiLU(Layer):
    """a = z σ(z), also called swish.

    forward   z [...] -> a [...]
    keeps     z: a is not monotone in z
    backward  dz = da · s(1 + z(1 − s)), s = σ(z)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return z * jax.nn.sigmoid(z), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        s = jax.nn.sigmoid(z)
        return da * s * (1 + z * (1 - s)), ()


@dataclass(frozen=True)
class Softplus(Layer):
    """a = log(1 + eᶻ), elementwise.

    forward   z [...] -> a [...], as max(z, 0) + log(1 + e), e = e^−|z|, which cannot overflow
    keeps     z: e costs one exponential, and XLA makes it once for both passes where it can
    backward  dz = da · σ(z), σ(z) = 1 / (1 + e) for z ≥ 0 and e / (1 + e) below
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return jnp.maximum(z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z))), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        e = jnp.exp(-jnp.abs(z))
        return da * (jnp.where(z >= 0, 1, e) / (1 + e)), ()


@dataclass(frozen=True)
class HardTanh(Layer):
    """a = z clipped to [−1, 1], elementwise.

    forward   z [...] -> a [...]
    keeps     a: it lies inside (−1, 1) exactly where z does
    backward  dz = da · [|a| < 1]
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        a = jnp.where(jnp.abs(z) < 1, z, jnp.sign(z))
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(jnp.abs(a) < 1, da, 0), ()


@dataclass(frozen=True)
class Softmax(Layer):
    """aᵢ = e^zᵢ / Σⱼ e^zⱼ over the features.

    forward   z [..., features] -> a [..., features]
    keeps     a: the Jacobian is diag(a) − a aᵀ
    backward  dz = a · (da − Σⱼ aⱼ daⱼ)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z, rank=1)
        a = jax.nn.softmax(widen(z)).astype(z.dtype)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        p, dp = widen(a), widen(da)
        return (p * (dp - jnp.sum(p * dp, -1, keepdims=True))).astype(a.dtype), ()


@dataclass(frozen=True)
class LogSoftmax(Layer):
    """aᵢ = zᵢ − log Σⱼ e^zⱼ over the features.

    forward   z [..., features] -> a [..., features]
    keeps     a: the probabilities are eᵃ
    backward  dz = da − eᵃ Σⱼ daⱼ
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z, rank=1)
        a = jax.nn.log_softmax(widen(z)).astype(z.dtype)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        wide = widen(da)
        da_sum = jnp.sum(wide, -1, keepdims=True)
        return (wide - jnp.exp(widen(a)) * da_sum).astype(a.dtype), ()
