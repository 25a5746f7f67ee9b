"""Normalization, and the gains it ends with."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop import layers
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.composites import WeightStandardized
from funcprop.layer import Array, Context, Layer, Params


def standardized(x: Array, axes: Any, eps: float = 1e-5) -> Array:
    mean, variance = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps)


def plain_batch_norm(params: Any, x: Array, context: Context) -> Array:
    return standardized(x, tuple(range(x.ndim - 1))) * params.scale + params.bias


def plain_layer_norm(params: Any, x: Array, context: Context) -> Array:
    return standardized(x, -1) * params.scale + params.bias


def plain_rms_norm(params: Any, x: Array, context: Context) -> Array:
    mean = jnp.square(x).mean(-1, keepdims=True)
    return x * jax.lax.rsqrt(mean + 1e-6) * params.scale


def plain_group_norm(params: Any, x: Array, context: Context) -> Array:
    """Two channels a group in the small row, as in the large one."""
    groups = x.reshape(*x.shape[:-1], x.shape[-1] // 2, 2)
    return standardized(groups, (-4, -3, -1)).reshape(x.shape) * params.scale + params.bias


def plain_instance_norm(params: Any, x: Array, context: Context) -> Array:
    return standardized(x, (-3, -2)) * params.scale + params.bias


def plain_weight_standardized(params: Any, x: Array, context: Context) -> Array:
    return x @ standardized(params.w, 0) + params.b


def plain_scale(params: Any, x: Array, context: Context) -> Array:
    return x * params.scale + params.bias


def statistics_constant(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """Mean and deviation taken for constants: dx = dy · scale / σ."""
    _, dparams = layer.backward(params, residuals, dy)
    return dy * params.scale * rstd_of(residuals), dparams


def scale_left_out_of_dx(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """dx of dy in place of dx̂ = dy · scale."""
    dx, _ = layer.backward(params._replace(scale=jnp.ones_like(params.scale)), residuals, dy)
    return dx, layer.backward(params, residuals, dy)[1]


def mean_constant(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """The deviation's derivative kept, the mean's forgotten."""
    dx, dparams = layer.backward(params, residuals, dy)
    axes = tuple(range(dy.ndim - 1)) if isinstance(layer, layers.BatchNorm) else (-1,)
    forgotten = (dy * params.scale).mean(axes, keepdims=True)
    return dx + forgotten * rstd_of(residuals), dparams


def scale_gradient_of_x(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """dscale = Σ dy · x, with the input in place of the normalized one."""
    dx, dparams = layer.backward(params, residuals, dy)
    leading = tuple(range(dy.ndim - 1))
    return dx, dparams._replace(scale=(dy * residuals.x).sum(leading))


def rstd_of(residuals: Any) -> Array:
    """1/σ of each group of channels, for every channel; of each row or feature as it is."""
    rstd, channels = residuals.rstd, residuals.x.shape[-1]
    return jnp.repeat(rstd, channels // rstd.shape[-1], -1) if rstd.shape[-1] > 1 else rstd


def dw_of_the_child(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """dŵ taken for dw."""
    dx, _ = layer.backward(params, residuals, dy)
    w_hat = ((params.w - residuals.mean) * residuals.rstd).astype(params.w.dtype)
    return dx, layer.layer.backward(params._replace(w=w_hat), residuals.child, dy)[1]


def raw_weights_in_dx(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """dx by w in place of ŵ."""
    _, dparams = layer.backward(params, residuals, dy)
    return layer.layer.backward(params, residuals.child, dy)[0], dparams


def scale_not_applied(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """dx = dy."""
    return dy, layer.backward(params, residuals, dy)[1]


def scale_by_the_sum_of_dy(layer: Layer, params: Params, x: Array, dy: Array) -> Any:
    """dscale = Σ dy: the bias's gradient twice."""
    dx, dparams = layer.backward(params, x, dy)
    return dx, dparams._replace(scale=dy.sum(tuple(range(dy.ndim - 1))))


def bias_halved(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """A mean where a sum belongs."""
    dx, dparams = layer.backward(params, residuals, dy)
    return dx, dparams._replace(bias=dparams.bias / dy.shape[0])


def gradient_to_dx_twice(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """dx = 2 dy."""
    return 2 * dy, layer.backward(params, residuals, dy)[1]


NORM_MUTANTS = (
    Mutant("mean and deviation taken for constants", statistics_constant),
    Mutant("dscale from x in place of x̂", scale_gradient_of_x),
    Mutant("scale left out of dx", scale_left_out_of_dx),
)
MEAN_MUTANTS = (*NORM_MUTANTS, Mutant("the mean's derivative forgotten", mean_constant))
MIXES: dict[str, Any] = {"batched": False, "reason": "normalizes over the batch: examples mix"}
IMAGES = Normal((32, 32, 32, 64))
NORMALIZATION = (
    Row(
        "BatchNorm",
        layers.BatchNorm(),
        Normal((7, 5), scale=2.0, mean=1.0),
        plain=plain_batch_norm,
        large=(layers.BatchNorm(), IMAGES),
        promise=("time",),
        mutants=MEAN_MUTANTS,
        **MIXES,
    ),
    Row("BatchNorm on images", layers.BatchNorm(), Normal((3, 5, 4, 3)), **MIXES),
    Row(
        "BatchNorm, no scale, no bias",
        layers.BatchNorm(scale=False, bias=False),
        Normal((7, 5)),
        **MIXES,
    ),
    Row(
        "LayerNorm",
        layers.LayerNorm(),
        Normal((3, 5, 7), scale=2.0, mean=1.0),
        plain=plain_layer_norm,
        large=(layers.LayerNorm(), Normal((4096, 512))),
        promise=("time",),
        mutants=MEAN_MUTANTS,
    ),
    Row(
        "LayerNorm over two axes, no bias", layers.LayerNorm(bias=False, axes=2), Normal((5, 3, 7))
    ),
    Row("LayerNorm, no scale", layers.LayerNorm(scale=False), Normal((5, 7))),
    Row(
        "RMSNorm",
        layers.RMSNorm(),
        Normal((3, 5, 7), scale=2.0, mean=1.0),
        plain=plain_rms_norm,
        large=(layers.RMSNorm(), Normal((4096, 512))),
        mutants=NORM_MUTANTS,
    ),
    Row("RMSNorm over two axes, no scale", layers.RMSNorm(scale=False, axes=2), Normal((5, 3, 7))),
    Row(
        "GroupNorm",
        layers.GroupNorm(3),
        Normal((2, 3, 5, 6), scale=2.0, mean=1.0),
        plain=plain_group_norm,
        large=(layers.GroupNorm(32), IMAGES),
        mutants=NORM_MUTANTS,
    ),
    Row("GroupNorm on features", layers.GroupNorm(2, axes=0), Normal((5, 6))),
    Row(
        "InstanceNorm",
        layers.InstanceNorm(),
        Normal((2, 3, 5, 4), scale=2.0, mean=1.0),
        plain=plain_instance_norm,
        large=(layers.InstanceNorm(), IMAGES),
        mutants=NORM_MUTANTS,
    ),
    Row(
        "WeightStandardized",
        WeightStandardized(layers.Dense(3)),
        Normal((5, 7)),
        plain=plain_weight_standardized,
        large=(WeightStandardized(layers.Dense(512)), Normal((256, 512))),
        mutants=(
            Mutant("dŵ taken for dw", dw_of_the_child),
            Mutant("dx by w in place of ŵ", raw_weights_in_dx),
        ),
    ),
    Row(
        "Scale and bias",
        layers.Scale(bias=True),
        Normal((3, 5, 7)),
        plain=plain_scale,
        large=(layers.Scale(bias=True), Normal((4096, 512))),
        mutants=(
            Mutant("scale not applied to dx", scale_not_applied),
            Mutant("dscale = Σ dy", scale_by_the_sum_of_dy),
        ),
    ),
    Row("Scale", layers.Scale(), Normal((5, 7))),
    Row(
        "Bias",
        layers.Bias(),
        Normal((5, 7)),
        plain=lambda params, x, context: x + params.bias,
        large=(layers.Bias(), Normal((4096, 512))),
        mutants=(
            Mutant("db a mean over the batch", bias_halved),
            Mutant("dx = 2 dy", gradient_to_dx_twice),
        ),
    ),
)
