"""Activations with an exponential on one side and a straight line on the other."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

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
class ELU(Activation):
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
class SELU(Activation):
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
class CELU(Activation):
    """a = z where z > 0, α(e^(z/α) − 1) elsewhere: an ELU whose slope is 1 at 0 for every α.

    forward   z [...] -> a [...]
    keeps     a: it is positive exactly where z is, and e^(z/α) = a/α + 1
    backward  dz = da · (1 where a > 0, a/α + 1 elsewhere)
    dtypes    any float; a and dz have that of z
    raises    LayerError where alpha is not positive, z is not a float array, or da not of the
              shape and dtype of a
    source    Barron, 2017, arXiv:1704.07483

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.CELU(2.0).forward((), jnp.array([-200.0, 0.0, 2.0]))
    >>> a
    Array([-2.,  0.,  2.], dtype=float32)
    >>> fp.CELU(2.0).backward((), residuals, jnp.ones(3))[0]
    Array([0., 1., 1.], dtype=float32)
    """

    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "alpha", self.alpha, 1e-30)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        # e^(z/α) is taken of min(z, 0) only: the branch that is not chosen must not overflow
        below = jnp.expm1(jnp.where(z > 0, 0, z) / self.alpha)
        a = jnp.where(z > 0, z, self.alpha * below)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        return jnp.where(a > 0, da, da * (a / self.alpha + 1)), ()


@dataclass(frozen=True)
class Softplus(Activation):
    """a = log(1 + e^βz) / β, elementwise.

    forward   z [...] -> a [...], as (max(v, 0) + log(1 + e)) / β, v = βz, e = e^−|v|, which cannot
              overflow; with `threshold`, which PyTorch sets to 20, z where βz lies above it
    keeps     z: e costs one exponential, and XLA makes it once for both passes where it can
    backward  dz = da · σ(βz), σ(v) = 1 / (1 + e) for v ≥ 0 and e / (1 + e) below, e = e^−|v|
    dtypes    any float; a and dz have that of z
    raises    LayerError where beta is not positive, threshold no number, z is not a float array,
              or da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Softplus().forward((), jnp.array([0.0, 100.0]))
    >>> print(f"{a[0]:.3f} {a[1]:.3f}")
    0.693 100.000
    """

    _: KW_ONLY
    beta: float = 1.0
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_number(self, "beta", self.beta, 1e-30)
        if self.threshold is not None:
            check_number(self, "threshold", self.threshold, -1e30)

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        v = z if self.beta == 1 else self.beta * z
        a = jnp.maximum(v, 0) + jnp.log1p(jnp.exp(-jnp.abs(v)))
        a = a if self.beta == 1 else a / self.beta
        return (a if self.threshold is None else jnp.where(v > self.threshold, z, a)), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        v = z if self.beta == 1 else self.beta * z
        e = jnp.exp(-jnp.abs(v))
        dz = da * (jnp.where(v >= 0, 1, e) / (1 + e))
        return (dz if self.threshold is None else jnp.where(v > self.threshold, da, dz)), ()


@dataclass(frozen=True)
class LogSigmoid(Activation):
    """a = log σ(z) = −log(1 + e⁻ᶻ), elementwise.

    forward   z [...] -> a [...], as min(z, 0) − log(1 + e^−|z|)
    keeps     z: the derivative is made of e^−|z|, which cannot overflow
    backward  dz = da · σ(−z), σ(−z) = e / (1 + e) for z ≥ 0 and 1 / (1 + e) below, e = e^−|z|
    dtypes    any float; a and dz have that of z
    raises    LayerError where z is not a float array, or da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.LogSigmoid().forward((), jnp.array([-100.0, 0.0]))
    >>> print(f"{a[0]:.3f} {a[1]:.3f}")
    -100.000 -0.693
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z)
        return jnp.minimum(z, 0) - jnp.log1p(jnp.exp(-jnp.abs(z))), z

    def backward(self, params: tuple, z: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, z.shape, z.dtype)
        e = jnp.exp(-jnp.abs(z))
        return da * (jnp.where(z >= 0, e, 1) / (1 + e)), ()
