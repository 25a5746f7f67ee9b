"""WeightStandardized: a layer whose weights are normalized before they are used."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

from funcprop.composites.wrapper import Wrapper
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    inside,
    is_float,
    reciprocal_root,
    spell,
    widen,
)
from funcprop.layers.normalization import standardize_backward
from funcprop.layers.scale import check_eps


class WeightStandardizedResiduals(NamedTuple):
    """What WeightStandardized keeps."""

    child: Residuals  # what the layer keeps
    mean: Array  # of the weights of each output channel, [out] (float32 or wider)
    rstd: Array  # 1 / √(variance + ε), [out]; ŵ itself is a product of these with w


@dataclass(frozen=True)
class WeightStandardized(Wrapper):
    """y = f(ŵ, x), ŵ = (w − mean w) / √(var w + ε) for each output channel (Qiao et al., 2019).

    Around a Dense, a Conv, or any layer whose parameters are a NamedTuple with a `w [..., out]`;
    they stay the layer's own parameters. Mean and variance (biased) are over all axes of w but
    the last. To transforms that walk the tree of layers it is a leaf, since what its child says of
    ŵ is not yet said of w. `fp.inference` puts ŵ into the plain layer.

    forward   x [..., in] -> y [..., out], the layer's with ŵ
    keeps     what the layer keeps, and the mean and 1/√(variance + ε) of each channel's weights
    backward  dx, and all gradients but dw, are the layer's
              dw = (dŵ − mean dŵ − ŵ · mean(dŵ · ŵ)) rstd
    dtypes    those of the layer; means and variances are made in float32 at least
    raises    LayerError where layer is no layer, eps not positive, or params no NamedTuple with
              floats w [..., in, out]; the layer's own errors, with their place in the model
    source    Qiao, Wang, Liu, Shen and Yuille, 2019, arXiv:1903.10520

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.WeightStandardized(fp.Conv(16, (3, 3), bias=False))
    >>> x = jax.ShapeDtypeStruct((8, 28, 28, 3), jnp.float32)
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(model.forward, params, x)
    >>> y.shape, residuals.mean.shape
    ((8, 28, 28, 16), (16,))
    """

    _: KW_ONLY
    eps: float = 1e-5

    def __post_init__(self) -> None:
        if not isinstance(self.layer, Layer):
            raise LayerError(
                self,
                f"layer is {spell(self.layer)}, wanted a layer",
                "write WeightStandardized(Dense(30))",
            )
        check_eps(self, self.eps)

    def init(self, key: Array, x: Any) -> Params:
        with inside(self, 0):
            params = self.layer.init(key, x)
        self._weights(params)
        return params

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, WeightStandardizedResiduals]:
        w = self._weights(params)
        mean = average(w)
        rstd = reciprocal_root(average, w - mean, self.eps)
        with inside(self, 0):
            y, kept = self.layer.forward(standardized(params, mean, rstd), x, context)
        return y, WeightStandardizedResiduals(kept, mean, rstd)

    def backward(
        self, params: Params, residuals: WeightStandardizedResiduals, dy: Any
    ) -> tuple[Any, Params]:
        kept, mean, rstd = residuals
        w_hat = (self._weights(params) - mean) * rstd
        with inside(self, 0):
            dx, dparams = self.layer.backward(standardized(params, mean, rstd), kept, dy)
        dw = standardize_backward(w_hat, rstd, widen(dparams.w), average)
        return dx, dparams._replace(w=dw.astype(params.w.dtype))

    def own_residuals(self, residuals: WeightStandardizedResiduals) -> Residuals:
        return residuals.child

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        w = self._weights(params)
        mean = average(w)
        rstd = reciprocal_root(average, w - mean, self.eps)
        return self.layer.inference(standardized(params, mean, rstd), statistics)

    def _weights(self, params: Params) -> Array:
        """w in at least float32, checked."""
        w: Any = getattr(params, "w", None)
        if not is_float(w) or w.ndim < 2 or not hasattr(params, "_replace"):
            raise LayerError(
                self,
                f"params is {spell(params)}, wanted a NamedTuple with weights w [..., in, out]",
                "wrap a single Dense or Conv, not a composite; make params with layer.init(key, x)",
            )
        return widen(w)


def average(w: Array) -> Array:
    """The mean over all axes but the last: one number an output channel."""
    return w.mean(tuple(range(w.ndim - 1)))


def standardized(params: Params, mean: Array, rstd: Array) -> Params:
    """params with ŵ for w, in the dtype of w."""
    return params._replace(w=((widen(params.w) - mean) * rstd).astype(params.w.dtype))
