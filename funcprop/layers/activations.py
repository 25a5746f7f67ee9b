"""Activations: z -> a, and da -> dz = da · σ′(z).

Each keeps its output a where the derivative can be written with it, since the next layer keeps a
as well; GELU and SiLU are not monotone, so they keep z. At a kink the derivative is that of the
side where the function is flatter: relu′(0) = 0, leaky_relu′(0) = slope, hardtanh′(±1) = 0.
"""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
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
class Tanh(Layer):
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
class ReLU(Layer):
    """a = max(z, 0), elementwise.

    forward   z [...] -> a [...]
    keeps     a: it is positive exactly where z is
    backward  dz = da · [a > 0], so relu′(0) = 0
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Nair and Hinton, Rectified linear units improve restricted Boltzmann machines, 2010

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.ReLU().forward((), jnp.array([-1.0, 0.0, 2.0]))
    >>> a
    Array([0., 0., 2.], dtype=float32)
    >>> fp.ReLU().backward((), residuals, jnp.ones(3))[0]
    Array([0., 0., 1.], dtype=float32)
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
    dtypes    any float; a and dz have that of z
    raises    LayerError where slope is negative, z is not a float array, or da not of the shape and
              dtype of a
    source    Maas, Hannun and Ng, Rectifier nonlinearities improve neural network acoustic models,
              2013

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.LeakyReLU(0.5).forward((), jnp.array([-2.0, 2.0]))
    >>> a
    Array([-1.,  2.], dtype=float32)
    >>> fp.LeakyReLU(0.5).backward((), residuals, jnp.ones(2))[0]
    Array([0.5, 1. ], dtype=float32)
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
    dtypes    any float; a and dz have that of z
    raises    LayerError where alpha is negative, z is not a float array, or da not of the shape and
              dtype of a
    source    Clevert, Unterthiner and Hochreiter, 2015, arXiv:1511.07289

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.ELU().forward((), jnp.array([-100.0, 0.0, 2.0]))
    >>> a
    Array([-1.,  0.,  2.], dtype=float32)
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
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a
    source    Klambauer, Unterthiner, Mayr and Hochreiter, 2017, arXiv:1706.02515

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.SELU().forward((), jnp.array([-1.0, 1.0]))
    >>> print(f"{a[0]:.3f} {a[1]:.3f}")
    -1.111 1.051
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
class SiLU(Layer):
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
class Softplus(Layer):
    """a = log(1 + eᶻ), elementwise.

    forward   z [...] -> a [...], as max(z, 0) + log(1 + e), e = e^−|z|, which cannot overflow
    keeps     z: e costs one exponential, and XLA makes it once for both passes where it can
    backward  dz = da · σ(z), σ(z) = 1 / (1 + e) for z ≥ 0 and e / (1 + e) below
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Softplus().forward((), jnp.array([0.0, 100.0]))
    >>> print(f"{a[0]:.3f} {a[1]:.3f}")
    0.693 100.000
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
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.HardTanh().forward((), jnp.array([-2.0, 0.5, 1.0]))
    >>> a
    Array([-1. ,  0.5,  1. ], dtype=float32)
    >>> fp.HardTanh().backward((), residuals, jnp.ones(3))[0]
    Array([0., 1., 0.], dtype=float32)
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
    dtypes    any float; a and dz have that of z, sums are made in float32 at least
    raises    LayerError where z is not a float array with features, or da not of the shape and
              dtype of a
    source    Nielsen, Neural Networks and Deep Learning, chapter 3

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Softmax().forward((), jnp.zeros((2, 4)))
    >>> a[0]
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
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
    dtypes    any float; a and dz have that of z, sums are made in float32 at least
    raises    LayerError where z is not a float array with features, or da not of the shape and
              dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.LogSoftmax().forward((), jnp.zeros((2, 4)))
    >>> print(f"{a[0, 0]:.3f}")
    -1.386
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
