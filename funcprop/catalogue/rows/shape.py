"""Layers that move numbers, draw noise, or compute a function of your own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop import layers
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Mutant, Row, key_of
from funcprop.layer import Array, Context, Layer, Params

PIXELS = Normal((2, 3, 5, 4))
PICTURES = Normal((16, 64, 64, 32))


def plain_transpose(params: Params, x: Array, context: Context) -> Array:
    return jnp.transpose(x, (0, 2, 3, 1))


def plain_pad(mode: str) -> Any:
    return lambda params, x, context: jnp.pad(x, ((0, 0), (2, 1), (1, 2), (0, 0)), mode)


def plain_nearest(params: Params, x: Array, context: Context) -> Array:
    return jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)


def plain_linear(params: Params, x: Array, context: Context) -> Array:
    b, h, w, c = x.shape
    return jax.image.resize(x, (b, 2 * h, 2 * w, c), "bilinear")


def plain_sin(params: Params, z: Array, context: Context) -> Array:
    return jnp.sin(z)


def plain_spatial_dropout(params: Params, x: Array, context: Context) -> Array:
    b, _, _, c = x.shape
    kept = jax.random.bernoulli(key_of(context), 0.6, (b, 1, 1, c))
    return jnp.where(kept, x / 0.6, 0)


def plain_noise(params: Params, x: Array, context: Context) -> Array:
    return x + 0.3 * jax.random.normal(key_of(context), x.shape, x.dtype)


def transposed_again(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The same permutation in place of its inverse: right for an exchange, wrong for a cycle."""
    first = dy.ndim - len(layer.axes)
    return dy.transpose(*range(first), *(first + axis for axis in layer.axes)), ()


def order_forgotten(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """dy reshaped to the old sizes: right shape, wrong elements."""
    dx, _ = layer.backward(params, residuals, dy)
    return dy.reshape(dx.shape), ()


def frame_cut_off(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The gradient of the frame thrown away, as for a constant."""
    return layers.Pad(layer.widths).backward(params, residuals, dy)


def frame_as_edge(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """All of the frame added to the outermost element."""
    return layers.Pad(layer.widths, mode="edge").backward(params, residuals, dy)


def cut_one_too_far(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """before and after exchanged."""
    widths = tuple((after, before) for before, after in layer.widths)
    return layers.Pad(widths, mode=layer.mode).backward(params, residuals, dy)


def one_copy(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The gradient of the first copy alone."""
    return dy[..., ::2, ::3, :], ()


def mean_of_copies(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """The copies averaged, as in average pooling."""
    return layer.backward(params, residuals, dy)[0] / 6, ()


def nearest_backward(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The transpose of the other method."""
    return layers.Upsample(layer.factor).backward(params, residuals, dy)


def not_scaled(layer: Any, params: Params, kept: Array, dy: Array) -> Any:
    """Without 1 / (1 − rate)."""
    return jnp.where(kept, dy, 0), ()


def not_masked(layer: Any, params: Params, kept: Array, dy: Array) -> Any:
    """Dropped channels get a gradient too."""
    return dy / (1 - layer.rate), ()


def noise_scales(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """As if the noise were multiplied."""
    return dy * (1 + layer.stddev), ()


def derivative_dropped(layer: Any, params: Params, z: Array, da: Array) -> Any:
    """The function in place of its derivative."""
    return da * layer.elementwise.f(z), ()


def derivative_of_activation(layer: Any, params: Params, z: Array, da: Array) -> Any:
    """f′ taken of a in place of z."""
    return da * layer.elementwise.df(layer.elementwise.f(z)), ()


FRAME = ((2, 1), (1, 2), (0, 0))
MORE_SHAPES: tuple[Row, ...] = (
    Row(
        "Transpose",
        layers.Transpose((1, 2, 0)),
        PIXELS,
        plain=plain_transpose,
        large=(layers.Transpose((1, 2, 0)), PICTURES),
        mutants=(
            Mutant("the permutation, not its inverse", transposed_again),
            Mutant("reshaped", order_forgotten),
        ),
    ),
    Row("Transpose of a matrix", layers.Transpose(), Normal((3, 5)), batched=False),
    Row(
        "Pad",
        layers.Pad(FRAME),
        PIXELS,
        plain=plain_pad("constant"),
        large=(layers.Pad(FRAME), PICTURES),
        mutants=(Mutant("before and after exchanged", cut_one_too_far),),
    ),
    Row(
        "Pad, edge",
        layers.Pad(((4, 1), (1, 7)), mode="edge"),
        Normal((2, 3, 4)),
        plain=lambda params, x, context: jnp.pad(x, ((0, 0), (4, 1), (1, 7)), "edge"),
        large=(layers.Pad(((4, 1), (1, 7)), mode="edge"), Normal((256, 64, 128))),
    ),
    Row(
        "Pad, reflect",
        layers.Pad(FRAME, mode="reflect"),
        PIXELS,
        plain=plain_pad("reflect"),
        large=(layers.Pad(FRAME, mode="reflect"), PICTURES),
        mutants=(
            Mutant("frame cut off", frame_cut_off),
            Mutant("frame added to the border", frame_as_edge),
        ),
    ),
    Row("Pad, wrap", layers.Pad(FRAME, mode="wrap"), PIXELS),
    Row(
        "Upsample",
        layers.Upsample((2, 3)),
        PIXELS,
        plain=plain_nearest,
        large=(layers.Upsample(), PICTURES),
        mutants=(
            Mutant("the first copy alone", one_copy),
            Mutant("a mean over the copies", mean_of_copies),
        ),
    ),
    Row(
        "Upsample, linear",
        layers.Upsample((2, 3), method="linear"),
        PIXELS,
        plain=plain_linear,
        large=(layers.Upsample(method="linear"), PICTURES),
        mutants=(Mutant("the transpose of nearest", nearest_backward),),
    ),
    Row(
        "Upsample, linear, corners aligned",
        layers.Upsample((3,), method="linear", align_corners=True),
        Normal((2, 4, 3)),
        mutants=(Mutant("the transpose of nearest", nearest_backward),),
    ),
    Row(
        "Upsample, cubic",
        layers.Upsample((2, 3), method="cubic"),
        Normal((2, 3, 2, 4)),
        mutants=(Mutant("the transpose of nearest", nearest_backward),),
    ),
    Row(
        "Lambda",
        layers.Lambda(layers.Elementwise(jnp.sin, jnp.cos)),
        Normal((5, 7)),
        plain=plain_sin,
        large=(layers.Lambda(layers.Elementwise(jnp.sin, jnp.cos)), Normal((128, 4096))),
        mutants=(
            Mutant("f for f′", derivative_dropped),
            Mutant("f′ of the activation", derivative_of_activation),
        ),
    ),
)
MORE_STOCHASTIC: tuple[Row, ...] = (
    Row(
        "SpatialDropout",
        layers.SpatialDropout(0.4),
        Normal((3, 2, 3, 8)),  # so many channels that one is always dropped
        plain=plain_spatial_dropout,
        large=(layers.SpatialDropout(0.4), PICTURES),
        batched=False,
        reason="draws for a batch at once",
        mutants=(Mutant("not scaled", not_scaled), Mutant("not masked", not_masked)),
    ),
    Row(
        "SpatialDropout, sequences",
        layers.SpatialDropout(0.3, axes=1),
        Normal((3, 5, 7)),
        batched=False,
        reason="draws for a batch at once",
    ),
    Row(
        "GaussianNoise",
        layers.GaussianNoise(0.3),
        Normal((5, 7)),
        plain=plain_noise,
        large=(layers.GaussianNoise(0.3), Normal((128, 4096))),
        batched=False,
        reason="draws for a batch at once",
        mutants=(Mutant("noise taken for a factor", noise_scales),),
    ),
)
