"""Scale and Bias: a learned factor and shift for each feature."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax

from funcprop.initializers import Constant, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_input,
    check_number,
    check_params,
    spell,
    widen,
)
from funcprop.sharding import beside, entries, spread_as


class Gain(NamedTuple):
    """The parameters of y = x · scale + bias, elementwise, both of one float dtype.

    scale  [features], or None where there is no factor; LayerNorm's and RMSNorm's over the last
           `axes` axes
    bias   of the same shape, or None where nothing is added
    """

    scale: Array | None
    bias: Array | None


@dataclass(frozen=True)
class Scale(Layer):
    """y = x · scale (+ bias), each feature by its own numbers.

    forward   x [..., features] -> y [..., features]
    keeps     x: dscale is its product with dy
    backward  dx = dy · scale    dscale = Σ dy · x    dbias = Σ dy, over all leading axes
    dtypes    any float, one for x, scale and bias; y and all gradients have it, products and sums
              are made in float32 at least
    raises    LayerError where x is not a float array with features, params is no Gain of its
              features and dtype, or dy has not the shape and dtype of y

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.Scale(), jnp.array([[1.0, 2.0], [3.0, 4.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> params
    Gain(scale=Array([1., 1.], dtype=float32), bias=None)
    >>> y, residuals = layer.forward(params, x)
    >>> layer.backward(params, residuals, jnp.ones((2, 2)))[1].scale
    Array([4., 6.], dtype=float32)
    """

    _: KW_ONLY
    bias: bool = False
    scale_init: Initializer = Constant(1.0)
    bias_init: Initializer = Zeros()

    def init(self, key: Array, x: Any) -> Gain:
        return init_gain(self, key, x, self.scale_init, self.bias_init if self.bias else None)

    def forward(self, params: Gain, x: Array, context: Context = Context()) -> tuple[Array, Array]:
        check_gain(self, params, x)
        return apply_gain(params, widen(x)).astype(x.dtype), x

    def backward(self, params: Gain, x: Array, dy: Array) -> tuple[Array, Gain]:
        check_cotangent(self, dy, x.shape, x.dtype)
        dx, dparams = gain_backward(params, widen(x), widen(dy))
        return dx.astype(x.dtype), dparams


@dataclass(frozen=True)
class Bias(Layer):
    """y = x + bias, each feature by its own number.

    forward   x [..., features] -> y [..., features]
    keeps     nothing
    backward  dx = dy    dbias = Σ dy, over all leading axes
    dtypes    any float, one for x and bias; y and all gradients have it, sums are made in float32
              at least
    raises    LayerError where x or dy is not a float array with features, or params is no Gain of
              its features and dtype

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.Bias(), jnp.ones((5, 2))
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> layer.backward(params, residuals, jnp.ones((5, 2)))[1].bias
    Array([5., 5.], dtype=float32)
    """

    _: KW_ONLY
    bias_init: Initializer = Zeros()

    def init(self, key: Array, x: Any) -> Gain:
        return init_gain(self, key, x, None, self.bias_init)

    def forward(self, params: Gain, x: Array, context: Context = Context()) -> tuple[Array, tuple]:
        check_gain(self, params, x)
        return apply_gain(params, widen(x)).astype(x.dtype), ()

    def backward(self, params: Gain, residuals: tuple, dy: Array) -> tuple[Array, Gain]:
        check_gain(self, params, dy)
        _, dparams = gain_backward(params, None, widen(dy))
        return dy, dparams


# --- what normalization layers share with Scale and Bias ------------------------------------------


def init_gain(
    layer: Layer,
    key: Array,
    x: Any,
    scale_init: Initializer | None,
    bias_init: Initializer | None,
    axes: int = 1,
) -> Gain:
    """Parameters over the last `axes` axes of x; None where there is no initializer."""
    check_input(layer, x, rank=axes)
    shape = x.shape[x.ndim - axes :]
    scale_key, bias_key = jax.random.split(key)
    scale = None if scale_init is None else scale_init(scale_key, shape, x.dtype)
    bias = None if bias_init is None else bias_init(bias_key, shape, x.dtype)
    return Gain(scale, bias)


def check_gain(layer: Layer, params: Gain, x: Array, axes: int = 1) -> None:
    """x is a float array, and params a Gain over its last `axes` axes, of its dtype."""
    check_input(layer, x, rank=axes)
    check_params(layer, params, Gain, like=x)
    wanted = x.shape[x.ndim - axes :]
    for name, leaf in zip(params._fields, params, strict=True):
        if leaf is not None and leaf.shape != wanted:
            raise LayerError(
                layer,
                f"{name} is {spell(leaf)} and x is {spell(x)}: wanted {name} of shape {wanted}",
                "make new parameters: layer.init(key, x)",
            )


def apply_gain(params: Gain, x: Array) -> Array:
    """x · scale + bias, in the dtype of x, which is at least float32."""
    params = beside(params, x)
    y = x if params.scale is None else x * widen(params.scale)
    return y if params.bias is None else y + widen(params.bias)


def gain_backward(params: Gain, x: Any, dy: Array) -> tuple[Array, Gain]:
    """dx in the dtype of dy; dscale = Σ dy · x and dbias = Σ dy in those of the parameters."""
    scale = beside(params.scale, dy)
    dx = dy if scale is None else dy * widen(scale)
    dscale = None if params.scale is None else sum_to(dy * x, params.scale)
    dbias = None if params.bias is None else sum_to(dy, params.bias)
    return dx, Gain(dscale, dbias)


def sum_to(values: Array, like: Array) -> Array:
    """The sum over all leading axes, in the shape and dtype of a parameter."""
    total = values.sum(tuple(range(values.ndim - like.ndim))).astype(like.dtype)
    return spread_as(total, entries(like), values)


def check_eps(layer: Layer, eps: float) -> None:
    """0 < eps < 1: at 0 a constant row would be divided by its deviation, 0."""
    check_number(layer, "eps", eps, 1e-30, 1)
