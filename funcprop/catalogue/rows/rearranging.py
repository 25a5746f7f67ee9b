"""Layers that move numbers between channels and places, and products of general shapes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import lax

from funcprop import layers
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.layer import Array, Context, Params

PIXELS = Normal((2, 4, 6, 3))
PICTURES = Normal((16, 64, 64, 32))


# --- plain forms ----------------------------------------------------------------------------------


def plain_shuffle(params: Params, x: Array, context: Context) -> Array:
    b, h, w, c = x.shape
    cut = x.reshape(b, h, w, c // 4, 2, 2)
    return cut.transpose(0, 1, 4, 2, 5, 3).reshape(b, 2 * h, 2 * w, c // 4)


def plain_unshuffle(params: Params, x: Array, context: Context) -> Array:
    b, h, w, c = x.shape
    cut = x.reshape(b, h // 2, 2, w // 2, 2, c)
    return cut.transpose(0, 1, 3, 5, 2, 4).reshape(b, h // 2, w // 2, 4 * c)


def plain_channels(params: Params, x: Array, context: Context) -> Array:
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 3, c // 3).swapaxes(-1, -2).reshape(x.shape)


def plain_patches(params: Params, x: Array, context: Context) -> Array:
    """XLA's own, whose features go channel by channel."""
    c = x.shape[-1]
    y = lax.conv_general_dilated_patches(
        x, (3, 3), (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y.reshape(*y.shape[:-1], c, 9).swapaxes(-1, -2).reshape(y.shape)


def plain_fold(params: Params, x: Array, context: Context) -> Array:
    """A scatter of every tap."""
    b, h, w, _ = x.shape
    parts = x.reshape(b, h, w, 3, 3, -1)
    y = jnp.zeros((b, h + 2, w + 2, parts.shape[-1]), x.dtype)
    for i in range(3):
        for j in range(3):
            y = y.at[:, i : i + h, j : j + w].add(parts[:, :, :, i, j])
    return y


def plain_local(params: layers.LocalKernel, x: Array, context: Context) -> Array:
    """lax.conv_general_dilated_local, whose rows go channel by channel."""
    *out, kh, kw, c, f = params.w.shape
    w = jnp.moveaxis(params.w, -2, 2).reshape(*out, c * kh * kw, f)
    z = lax.conv_general_dilated_local(
        x, w, (1, 1), "SAME", (kh, kw), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return z if params.b is None else z + params.b


def plain_bilinear(params: layers.Affine, x: tuple[Array, Array], context: Context) -> Array:
    z = jnp.einsum("bi,ijk,bj->bk", x[0], params.w, x[1])
    return z if params.b is None else z + params.b


def plain_general(params: layers.Affine, x: Array, context: Context) -> Array:
    z = jnp.tensordot(x, params.w, ((-2, -1), (0, 1)))
    return z if params.b is None else z + params.b


def plain_einsum(params: layers.Affine, x: Array, context: Context) -> Array:
    z = jnp.einsum("bthi,hij->bthj", x, params.w)
    return z if params.b is None else z + params.b


# --- mutants --------------------------------------------------------------------------------------


def reshaped_back(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """dy in the shape of x, its numbers not moved."""
    dx, _ = layer.backward(params, residuals, dy)
    return dy.reshape(dx.shape), ()


def shuffled_again(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The same dealing in place of its inverse."""
    return layer.forward(params, dy)[0], ()


def channels_first(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The rows taken for channel by channel."""
    rows = dy.reshape(*dy.shape[:-1], 9, -1).swapaxes(-1, -2)
    return layer.backward(params, residuals, rows.reshape(dy.shape))


def rows_by_channel(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The rows made channel by channel."""
    dx, _ = layer.backward(params, residuals, dy)
    rows = dx.reshape(*dx.shape[:-1], 9, -1).swapaxes(-1, -2)
    return rows.reshape(dx.shape), ()


def counted_once(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """A mean over the windows of an element in place of their sum."""
    dx, _ = layer.backward(params, residuals, dy)
    often, _ = layer.backward(params, residuals, jnp.ones_like(dy))
    return dx / often, ()


def one_kernel(layer: Any, params: layers.LocalKernel, x: Array, dz: Array) -> Any:
    """dw as of a kernel that all places share."""
    dx, own = layer.backward(params, x, dz)
    places = tuple(range(layer.axes))
    dw = jnp.broadcast_to(own.w.sum(places, keepdims=True), own.w.shape)
    return dx, own._replace(w=dw)


def one_bias(layer: Any, params: layers.LocalKernel, x: Array, dz: Array) -> Any:
    """db as of one bias for all places."""
    dx, own = layer.backward(params, x, dz)
    assert own.b is not None
    places = tuple(range(layer.axes))
    return dx, own._replace(b=jnp.broadcast_to(own.b.sum(places), own.b.shape))


def partners_exchanged(layer: Any, params: layers.Affine, x: Any, dz: Array) -> Any:
    """The gradient of each input with itself in place of the other."""
    (du, dv), own = layer.backward(params, x, dz)
    (du, _), _ = layer.backward(params, (x[0], x[0]), dz)
    return (du, dv), own


def one_side_forgotten(layer: Any, params: layers.Affine, x: Any, dz: Array) -> Any:
    """v taken for a constant."""
    (du, dv), own = layer.backward(params, x, dz)
    return (du, jnp.zeros_like(dv)), own


def axes_exchanged(layer: Any, params: layers.Affine, x: Array, dz: Array) -> Any:
    """dx with the two new axes of w exchanged: shapes tell only where they differ."""
    turned = params._replace(w=params.w.swapaxes(-1, -2))
    return layer.backward(turned, x, dz)[0], layer.backward(params, x, dz)[1]


# --- rows -----------------------------------------------------------------------------------------

LOCAL = layers.ConvLocal(3, (3, 3))
REARRANGING: tuple[Row, ...] = (
    Row(
        "PixelShuffle",
        layers.PixelShuffle(),
        Normal((2, 3, 5, 8)),
        plain=plain_shuffle,
        large=(layers.PixelShuffle(), PICTURES),
        mutants=(Mutant("reshaped", reshaped_back),),
    ),
    Row("PixelShuffle, sequences", layers.PixelShuffle((3,)), Normal((2, 4, 6))),
    Row(
        "PixelUnshuffle",
        layers.PixelUnshuffle(),
        PIXELS,
        plain=plain_unshuffle,
        large=(layers.PixelUnshuffle(), PICTURES),
        mutants=(Mutant("reshaped", reshaped_back),),
    ),
    Row("PixelUnshuffle, volumes", layers.PixelUnshuffle((2, 1, 3)), Normal((2, 4, 2, 3, 2))),
    Row(
        "ChannelShuffle",
        layers.ChannelShuffle(3),
        Normal((2, 2, 3, 6)),
        plain=plain_channels,
        large=(layers.ChannelShuffle(3), Normal((16, 64, 64, 48))),
        mutants=(Mutant("shuffled again", shuffled_again),),
    ),
    Row(
        "Unfold",
        layers.Unfold((3, 3)),
        Normal((2, 4, 5, 3)),
        plain=plain_patches,
        large=(layers.Unfold((3, 3)), Normal((8, 32, 32, 16))),
        promise=("time",),
        mutants=(
            Mutant("rows taken for channel by channel", channels_first),
            Mutant("a mean over the windows", counted_once),
        ),
    ),
    Row(
        "Unfold, strided, dilated, widely padded",
        layers.Unfold((2, 3), stride=(3, 1), padding=((3, 1), (0, 2)), dilation=(1, 2)),
        Normal((2, 4, 5, 2)),
    ),
    Row(
        "Fold",
        layers.Fold((4, 5), (3, 3)),
        Normal((2, 2, 3, 27)),
        plain=plain_fold,
        large=(layers.Fold((32, 32), (3, 3)), Normal((8, 30, 30, 144))),
        promise=("time",),
        reason="pays 1.4 times the memory: the rows are cut apart tap by tap",
        mutants=(Mutant("rows made channel by channel", rows_by_channel),),
    ),
    Row(
        "Fold, sequences, gaps, padded",
        layers.Fold((7,), (2,), stride=(3,), padding=((1, 0),)),
        Normal((2, 3, 6)),
    ),
    Row(
        "ConvLocal",
        LOCAL,
        Normal((2, 4, 3, 5)),
        plain=plain_local,
        large=(layers.ConvLocal(32, (3, 3)), Normal((16, 14, 14, 16))),
        promise=("time",),
        mutants=(
            Mutant("one kernel for all places", one_kernel),
            Mutant("one bias for all places", one_bias),
        ),
    ),
    Row(
        "ConvLocal, strided, dilated, padded by hand, no bias",
        layers.ConvLocal(2, (2,), stride=2, padding=((2, 1),), dilation=2, bias=False),
        Normal((3, 7, 5)),
    ),
    Row(
        "Bilinear",
        layers.Bilinear(2),
        (Normal((5, 4)), Normal((5, 4))),
        plain=plain_bilinear,
        large=(layers.Bilinear(32), (Normal((128, 64)), Normal((128, 64)))),
        promise=("time",),
        reason="pays 2.1 times the memory: the products of all features are laid out",
        mutants=(
            Mutant("an input with itself", partners_exchanged),
            Mutant("the second input a constant", one_side_forgotten),
        ),
    ),
    Row(
        "Bilinear, sequences, no bias",
        layers.Bilinear(3, bias=False),
        (Normal((2, 3, 4)), Normal((2, 3, 2))),
    ),
    Row(
        "DenseGeneral",
        layers.DenseGeneral((3, 3), axes=2),
        Normal((5, 2, 4)),
        plain=plain_general,
        large=(layers.DenseGeneral((8, 64), axes=2), Normal((256, 8, 64))),
        mutants=(Mutant("new axes exchanged in dx", axes_exchanged),),
    ),
    Row("DenseGeneral, no bias", layers.DenseGeneral((2, 3), bias=False), Normal((2, 3, 5))),
    Row(
        "Einsum",
        layers.Einsum("...hi,hij->...hj", (2, 3, 3)),
        Normal((2, 4, 2, 3)),
        plain=plain_einsum,
        large=(layers.Einsum("...hi,hij->...hj", (8, 64, 64)), Normal((16, 64, 8, 64))),
        mutants=(Mutant("w not transposed in dx", axes_exchanged),),
    ),
    Row(
        "Einsum, mixed axes, no bias",
        layers.Einsum("...ij,jki->...k", (4, 2, 3), bias=False),
        Normal((5, 3, 4)),
    ),
)
