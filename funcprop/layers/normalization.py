"""Normalization within each example: layer, RMS, group and instance norm.

All of them are x̂ = (x − μ) / √(σ² + ε), with mean and variance over some axes, and all but RMSNorm
share one derivative:

    dx = (dx̂ − mean dx̂ − x̂ · mean(dx̂ · x̂)) / √(σ² + ε)

The mean is subtracted before squares are taken, so a large offset costs no digits of the variance.
Means and variances are accumulated in at least float32. A constant row has variance 0 and gives 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, NamedTuple

import jax.numpy as jnp

from funcprop.initializers import Constant, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_count,
    check_input,
    reciprocal_root,
    spell,
    widen,
)
from funcprop.layers.scale import (
    Gain,
    apply_gain,
    check_eps,
    check_gain,
    gain_backward,
    init_gain,
)
from funcprop.sharding import whole


class NormResiduals(NamedTuple):
    """What layer, group and instance norm keep."""

    x: Array  # the input, which the layer before has often kept already
    mean: Array  # of each row (float32 or wider)
    rstd: Array  # 1 / √(variance + ε) of each row (float32 or wider)


@dataclass(frozen=True)
class LayerNorm(Layer):
    """y = x̂ · scale + bias, over the last `axes` axes (Ba et al., 2016).

    forward   x [..., features] -> y [..., features]
    keeps     x, and the mean and 1/√(variance + ε) of each row
    backward  dx = (dx̂ − mean dx̂ − x̂ · mean(dx̂ · x̂)) rstd, dx̂ = dy · scale
              dscale = Σ dy · x̂    dbias = Σ dy, over all leading axes
    dtypes    any float, one for x and the parameters; y and all gradients have it, means, variances
              and sums are made in float32 at least
    raises    LayerError where eps is not positive or axes no positive whole number, x is not a
              float array with as many axes, params is no Gain of its shape over them and of its
              dtype, or dy has not the shape and dtype of y
    source    Ba, Kiros and Hinton, 2016, arXiv:1607.06450

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.LayerNorm(), jnp.array([[1.0, 3.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> print(f"{y[0, 0]:.3f} {y[0, 1]:.3f}")
    -1.000 1.000
    """

    _: KW_ONLY
    eps: float = 1e-5
    scale: bool = True
    bias: bool = True
    axes: int = 1
    scale_init: Initializer = Constant(1.0)
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_eps(self, self.eps)
        check_count(self, "axes", self.axes)

    def init(self, key: Array, x: Any) -> Gain:
        scale_init = self.scale_init if self.scale else None
        return init_gain(self, key, x, scale_init, self.bias_init if self.bias else None, self.axes)

    def forward(
        self, params: Gain, x: Array, context: Context = Context()
    ) -> tuple[Array, NormResiduals]:
        check_gain(self, params, x, self.axes)
        wide = widen(x)
        mean = self._average(wide)
        centered = wide - mean
        rstd = reciprocal_root(self._average, centered, self.eps)
        y = apply_gain(params, centered * rstd).astype(x.dtype)
        return y, NormResiduals(x, mean, rstd)

    def backward(self, params: Gain, residuals: NormResiduals, dy: Array) -> tuple[Array, Gain]:
        x, mean, rstd = residuals
        check_cotangent(self, dy, x.shape, x.dtype)
        x_hat = (widen(x) - mean) * rstd
        dx_hat, dparams = gain_backward(params, x_hat, widen(dy))
        return standardize_backward(x_hat, rstd, dx_hat, self._average).astype(x.dtype), dparams

    def _average(self, values: Array) -> Array:
        return values.mean(tuple(range(-self.axes, 0)), keepdims=True)


class RMSNormResiduals(NamedTuple):
    """What RMSNorm keeps."""

    x: Array  # the input, which the layer before has often kept already
    rstd: Array  # 1 / √(mean x² + ε) of each row (float32 or wider)


@dataclass(frozen=True)
class RMSNorm(Layer):
    """y = x̂ · scale, x̂ = x / √(mean x² + ε), over the last `axes` axes (Zhang, Sennrich, 2019).

    forward   x [..., features] -> y [..., features]
    keeps     x, and 1/√(mean x² + ε) of each row
    backward  dx = (dx̂ − x̂ · mean(dx̂ · x̂)) rstd, dx̂ = dy · scale
              dscale = Σ dy · x̂, over all leading axes
    dtypes    any float, one for x and scale; y and all gradients have it, means and sums are made
              in float32 at least
    raises    LayerError where eps is not positive or axes no positive whole number, x is not a
              float array with as many axes, params is no Gain of its shape over them and of its
              dtype, or dy has not the shape and dtype of y
    source    Zhang and Sennrich, 2019, arXiv:1910.07467

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.RMSNorm(), jnp.array([[1.0, 7.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> print(f"{y[0, 0]:.3f} {y[0, 1]:.3f}")
    0.200 1.400
    """

    _: KW_ONLY
    eps: float = 1e-6
    scale: bool = True
    axes: int = 1
    scale_init: Initializer = Constant(1.0)

    def __post_init__(self) -> None:
        check_eps(self, self.eps)
        check_count(self, "axes", self.axes)

    def init(self, key: Array, x: Any) -> Gain:
        return init_gain(self, key, x, self.scale_init if self.scale else None, None, self.axes)

    def forward(
        self, params: Gain, x: Array, context: Context = Context()
    ) -> tuple[Array, RMSNormResiduals]:
        check_gain(self, params, x, self.axes)
        wide = widen(x)
        rstd = reciprocal_root(self._average, wide, self.eps)
        return apply_gain(params, wide * rstd).astype(x.dtype), RMSNormResiduals(x, rstd)

    def backward(self, params: Gain, residuals: RMSNormResiduals, dy: Array) -> tuple[Array, Gain]:
        x, rstd = residuals
        check_cotangent(self, dy, x.shape, x.dtype)
        wide = widen(x)
        dx_hat, dparams = gain_backward(params, wide * rstd, widen(dy))
        # x̂ is written out as x · rstd: what goes with x is one number a row, and never rstd²,
        # which vanishes before x · rstd does
        along = rstd * self._average(dx_hat * wide)
        dx = rstd * (dx_hat - wide * (rstd * along))
        return dx.astype(x.dtype), dparams

    def _average(self, values: Array) -> Array:
        return values.mean(tuple(range(-self.axes, 0)), keepdims=True)


@dataclass(frozen=True)
class GroupNorm(Layer):
    """y = x̂ · scale + bias, each example and group of channels by itself (Wu and He, 2018).

    The `axes` axes before the channels belong to the example: 2 for images, 1 for sequences, 0 for
    features alone. `groups` divides the channels into runs of equal length.

    forward   x [..., sizes, channels] -> y [..., sizes, channels]
    keeps     x, and the mean and 1/√(variance + ε) of each group
    backward  dx = (dx̂ − mean dx̂ − x̂ · mean(dx̂ · x̂)) rstd, dx̂ = dy · scale
              dscale = Σ dy · x̂    dbias = Σ dy, over all axes but the channels
    dtypes    any float, one for x and the parameters; y and all gradients have it, means, variances
              and sums are made in float32 at least
    raises    LayerError where groups is no positive whole number, axes no natural number or eps not
              positive, x is not a float array of more than `axes` axes, groups does not divide its
              channels, params is no Gain of its channels and dtype, or dy has not the shape and
              dtype of y
    source    Wu and He, 2018, arXiv:1803.08494

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.GroupNorm(groups=4), jax.ShapeDtypeStruct((2, 6, 6, 8), jnp.float32)
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(layer.forward, params, x)
    >>> y.shape, residuals.mean.shape
    ((2, 6, 6, 8), (2, 1, 1, 4))
    """

    groups: int
    _: KW_ONLY
    axes: int = 2
    eps: float = 1e-5
    scale: bool = True
    bias: bool = True
    scale_init: Initializer = Constant(1.0)
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_count(self, "groups", self.groups)
        check_count(self, "axes", self.axes, low=0)
        check_eps(self, self.eps)

    def init(self, key: Array, x: Any) -> Gain:
        check_input(self, x, rank=self.axes + 1)
        self._groups(x)
        scale_init = self.scale_init if self.scale else None
        return init_gain(self, key, x, scale_init, self.bias_init if self.bias else None)

    def forward(
        self, params: Gain, x: Array, context: Context = Context()
    ) -> tuple[Array, NormResiduals]:
        check_input(self, x, rank=self.axes + 1)
        check_gain(self, params, x)
        wide, average, each = widen(x), self._average(x), self._each(x)
        mean = average(wide)
        centered = wide - each(mean)
        rstd = reciprocal_root(average, centered, self.eps)
        y = apply_gain(params, centered * each(rstd)).astype(x.dtype)
        return y, NormResiduals(x, mean, rstd)

    def backward(self, params: Gain, residuals: NormResiduals, dy: Array) -> tuple[Array, Gain]:
        x, mean, rstd = residuals
        check_cotangent(self, dy, x.shape, x.dtype)
        average, each = self._average(x), self._each(x)
        x_hat = (widen(x) - each(mean)) * each(rstd)
        dx_hat, dparams = gain_backward(params, x_hat, widen(dy))
        dx = standardize_backward(x_hat, each(rstd), dx_hat, lambda v: each(average(v)))
        return dx.astype(x.dtype), dparams

    def _average(self, x: Array) -> Callable[[Array], Array]:
        """[..., sizes, channels] -> [..., 1, groups]: channel by channel first, which is faster."""
        groups, sizes = self._groups(x), tuple(range(-self.axes - 1, -1))

        def average(values: Array) -> Array:
            channels = whole(values.mean(sizes, keepdims=True), -1)
            size = channels.shape[-1] // groups
            return channels.reshape(*channels.shape[:-1], groups, size).mean(-1)

        return average

    def _each(self, x: Array) -> Callable[[Array], Array]:
        """[..., 1, groups] -> [..., 1, channels]: every channel has its group's number."""
        repeats = x.shape[-1] // self._groups(x)
        return lambda values: jnp.repeat(values, repeats, -1)

    def _groups(self, x: Array) -> int:
        if x.shape[-1] % self.groups:
            raise LayerError(
                self,
                f"x is {spell(x)}: {self.groups} groups do not divide its {x.shape[-1]} channels",
                "choose groups among the divisors of the number of channels",
            )
        return self.groups


@dataclass(frozen=True)
class InstanceNorm(GroupNorm):
    """y = x̂ · scale + bias, each example and channel by itself (Ulyanov et al., 2016).

    A GroupNorm with as many groups as channels.

    forward   x [..., sizes, channels] -> y [..., sizes, channels]
    keeps     x, and the mean and 1/√(variance + ε) of each channel
    backward  dx = (dx̂ − mean dx̂ − x̂ · mean(dx̂ · x̂)) rstd, dx̂ = dy · scale
              dscale = Σ dy · x̂    dbias = Σ dy, over all axes but the channels
    dtypes    any float, one for x and the parameters; y and all gradients have it, means, variances
              and sums are made in float32 at least
    raises    LayerError where axes is no positive whole number or eps not positive, x is not a
              float array of more than `axes` axes, params is no Gain of its channels and dtype, or
              dy has not the shape and dtype of y
    source    Ulyanov, Vedaldi and Lempitsky, 2016, arXiv:1607.08022

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.InstanceNorm(), jax.ShapeDtypeStruct((2, 6, 6, 8), jnp.float32)
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(layer.forward, params, x)
    >>> y.shape, residuals.mean.shape
    ((2, 6, 6, 8), (2, 1, 1, 8))
    """

    groups: int = field(default=1, init=False, repr=False)

    def __post_init__(self) -> None:
        check_count(self, "axes", self.axes)
        check_eps(self, self.eps)

    def _groups(self, x: Array) -> int:
        return x.shape[-1]


def standardize_backward(
    x_hat: Array, rstd: Array, dx_hat: Array, average: Callable[[Array], Array]
) -> Array:
    """dx of x̂ = (x − mean x) · rstd, where `average` is the mean that was taken.

    1. x̂ moves with x; 2. the mean takes the common part of dx̂; 3. rstd takes its part along x̂.
    """
    return rstd * (dx_hat - average(dx_hat) - x_hat * average(dx_hat * x_hat))
