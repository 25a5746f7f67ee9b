"""Softmax and its kin: the outputs along one axis depend on all of its inputs."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_input,
    widen,
)


@dataclass(frozen=True)
class OverAxis(Layer):
    """What they share: an axis counted from the end, the same under vmap and behind batch axes."""

    _: KW_ONLY
    axis: int = -1

    def __post_init__(self) -> None:
        if isinstance(self.axis, bool) or not isinstance(self.axis, int) or self.axis >= 0:
            raise LayerError(
                self,
                f"axis is {self.axis!r}, wanted a negative number: axes count from the end",
                f"write axis=-1 for the features: {type(self).__name__}()",
            )


@dataclass(frozen=True)
class Softmax(OverAxis):
    """aᵢ = e^zᵢ / Σⱼ e^zⱼ over one axis, the features where none is named.

    forward   z [..., features] -> a [..., features]
    keeps     a: the Jacobian is diag(a) − a aᵀ
    backward  dz = a · (da − Σⱼ aⱼ daⱼ)
    dtypes    any float; a and dz have that of z, sums are made in float32 at least
    raises    LayerError where axis is not negative, z is not a float array with such an axis, or
              da not of the shape and dtype of a
    source    Nielsen, Neural Networks and Deep Learning, chapter 3

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Softmax().forward((), jnp.zeros((2, 4)))
    >>> a[0]
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z, rank=-self.axis)
        a = jax.nn.softmax(widen(z), axis=self.axis).astype(z.dtype)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        p, dp = widen(a), widen(da)
        return (p * (dp - jnp.sum(p * dp, self.axis, keepdims=True))).astype(a.dtype), ()


@dataclass(frozen=True)
class Softmin(Softmax):
    """aᵢ = e^−zᵢ / Σⱼ e^−zⱼ over one axis, the features where none is named.

    forward   z [..., features] -> a [..., features]
    keeps     a: the Jacobian is a aᵀ − diag(a)
    backward  dz = −a · (da − Σⱼ aⱼ daⱼ)
    dtypes    any float; a and dz have that of z, sums are made in float32 at least
    raises    LayerError where axis is not negative, z is not a float array with such an axis, or
              da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.Softmin().forward((), jnp.array([0.0, 100.0]))
    >>> a
    Array([1., 0.], dtype=float32)
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z, rank=-self.axis)
        return super().forward(params, -z, context)

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        dz, dparams = super().backward(params, a, da)
        return -dz, dparams


@dataclass(frozen=True)
class LogSoftmax(OverAxis):
    """aᵢ = zᵢ − log Σⱼ e^zⱼ over one axis, the features where none is named.

    forward   z [..., features] -> a [..., features]
    keeps     a: the probabilities are eᵃ
    backward  dz = da − eᵃ Σⱼ daⱼ
    dtypes    any float; a and dz have that of z, sums are made in float32 at least
    raises    LayerError where axis is not negative, z is not a float array with such an axis, or
              da not of the shape and dtype of a

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, residuals = fp.LogSoftmax().forward((), jnp.zeros((2, 4)))
    >>> print(f"{a[0, 0]:.3f}")
    -1.386
    """

    def forward(self, params: tuple, z: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_input(self, z, rank=-self.axis)
        a = jax.nn.log_softmax(widen(z), axis=self.axis).astype(z.dtype)
        return a, a

    def backward(self, params: tuple, a: Array, da: Array) -> tuple[Array, tuple]:
        check_cotangent(self, da, a.shape, a.dtype)
        wide = widen(da)
        da_sum = jnp.sum(wide, self.axis, keepdims=True)
        return (wide - jnp.exp(widen(a)) * da_sum).astype(a.dtype), ()
