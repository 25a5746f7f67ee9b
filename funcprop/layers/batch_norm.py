"""BatchNorm: each feature normalized over the batch, the one layer that mixes examples."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.initializers import Constant, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_input,
    reciprocal_root,
    spell,
    widen,
)
from funcprop.layers.scale import (
    Gain,
    Scale,
    apply_gain,
    check_eps,
    check_gain,
    init_gain,
)
from funcprop.sharding import beside, placed


class Statistics(NamedTuple):
    """What BatchNorm observed in a batch: what the train step averages. float32 or wider.

    mean      [features]
    variance  [features], unbiased: Σ(x − mean)² / (n − 1), as PyTorch's
    """

    mean: Array
    variance: Array


class BatchNormResiduals(NamedTuple):
    """What BatchNorm keeps."""

    x: Array  # the input [..., features], which the layer before has often kept already
    mean: Array  # [features], float32 or wider
    rstd: Array  # 1 / √(biased variance + ε), [features]
    variance: Array  # unbiased, [features]: for `statistics` alone, dropped by jit where unused


@dataclass(frozen=True)
class BatchNorm(Layer):
    """y = x̂ · scale + bias, x̂ = (x − mean) / √(variance + ε) over all axes but the last.

    Ioffe and Szegedy (2015). It computes with the statistics of its batch, always: a batch differs
    from its examples one at a time, and at least two values a feature are needed. The variance in
    x̂ is the biased one, Σ(x − mean)² / n; `statistics` tells the unbiased one. The train step
    averages what `statistics` tells, and `fp.inference` replaces the layer by the affine map of
    the averages. `context.mask` is not looked at: padding counts like anything else.

    forward   x [..., features] -> y [..., features]
    keeps     x, and the mean, the variance and 1/√(variance + ε) of each feature
    backward  dscale = Σ dy · x̂    dbias = Σ dy, both summed over all leading axes
              dx = (dy − dbias/n − x̂ · dscale/n) scale · rstd, n values a feature
    dtypes    any float, one for x and the parameters; y and all gradients have it, means, variances
              and sums are made in float32 at least
    raises    LayerError where eps is not positive, x is not a float array [..., features] of at
              least two values a feature, params is no Gain of its features and dtype, dy has not
              the shape and dtype of y, or `inference` gets no Statistics of its features
    source    Ioffe and Szegedy, 2015, arXiv:1502.03167

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.BatchNorm(), jnp.array([[1.0], [3.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> print(f"{y[0, 0]:.3f} {y[1, 0]:.3f}")
    -1.000 1.000
    >>> layer.statistics(residuals)
    Statistics(mean=Array([2.], dtype=float32), variance=Array([2.], dtype=float32))
    """

    _: KW_ONLY
    eps: float = 1e-5
    scale: bool = True
    bias: bool = True
    scale_init: Initializer = Constant(1.0)
    bias_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_eps(self, self.eps)

    def init(self, key: Array, x: Any) -> Gain:
        scale_init = self.scale_init if self.scale else None
        return init_gain(self, key, x, scale_init, self.bias_init if self.bias else None)

    def forward(
        self, params: Gain, x: Array, context: Context = Context()
    ) -> tuple[Array, BatchNormResiduals]:
        check_gain(self, params, x)
        wide, leading, n = widen(x), tuple(range(x.ndim - 1)), self._examples(x)
        mean = wide.mean(leading)
        centered = wide - mean
        squares = jnp.square(centered).sum(leading)
        rstd = reciprocal_root(lambda v: v.sum(leading) / n, centered, self.eps)
        y = apply_gain(params, centered * rstd).astype(x.dtype)
        return y, BatchNormResiduals(x, mean, rstd, squares / (n - 1))

    def backward(
        self, params: Gain, residuals: BatchNormResiduals, dy: Array
    ) -> tuple[Array, Gain]:
        x, mean, rstd, _ = residuals
        check_cotangent(self, dy, x.shape, x.dtype)
        wide, leading, n = widen(dy), tuple(range(x.ndim - 1)), self._examples(x)
        x_hat = (widen(x) - mean) * rstd
        # both sums are needed for dx, whether or not they are anybody's gradient
        dscale, dbias = (wide * x_hat).sum(leading), wide.sum(leading)
        own = beside(params.scale, x)
        scale = rstd if own is None else rstd * widen(own)
        dx = (wide - dbias / n - x_hat * (dscale / n)) * scale
        dparams = Gain(
            None if params.scale is None else dscale.astype(params.scale.dtype),
            None if params.bias is None else dbias.astype(params.bias.dtype),
        )
        return dx.astype(x.dtype), placed(dparams, params)

    def statistics(self, residuals: BatchNormResiduals) -> Statistics:
        return Statistics(residuals.mean, residuals.variance)

    def inference(self, params: Gain, statistics: Any) -> tuple[Layer, Gain]:
        """Scale: x · scale/√(variance + ε) + (bias − mean · scale/√(variance + ε))."""
        if not isinstance(statistics, Statistics):
            raise LayerError(
                self,
                f"its statistics are {spell(statistics)}, wanted Statistics(mean, variance)",
                "pass their averages: fp.inference(model, params, state.statistics)",
            )
        mean, variance = widen(statistics.mean), widen(statistics.variance)
        shapes = {leaf.shape for leaf in (mean, variance, *params) if leaf is not None}
        if len(shapes) != 1:
            raise LayerError(
                self,
                f"its statistics are {spell(statistics)}, and its parameters {spell(params)}",
                "pass the averages of this model's own statistics",
            )
        kinds = [leaf.dtype for leaf in params if leaf is not None]
        dtype = kinds[0] if kinds else mean.dtype
        rstd = jax.lax.rsqrt(variance + self.eps)
        # rounded before the bias is formed with it, so that x = mean still gives the bias alone
        scale = (rstd if params.scale is None else rstd * widen(params.scale)).astype(dtype)
        shift = -mean * widen(scale)
        bias = shift if params.bias is None else widen(params.bias) + shift
        return Scale(bias=True), Gain(scale, bias.astype(dtype))

    def _examples(self, x: Array) -> int:
        check_input(self, x, rank=2)
        n = math.prod(x.shape[:-1])
        if n < 2:
            raise LayerError(
                self,
                f"x is {spell(x)}: {n} value a feature has no variance",
                "give a batch of at least two, or predict with fp.inference(model, ...)",
            )
        return n
