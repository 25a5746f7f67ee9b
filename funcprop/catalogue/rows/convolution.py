"""Convolutions: the plain form is a single call of `jax.lax`, under jax.vjp."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import lax

from funcprop import layers
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.layer import Array, Context

LETTERS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


# --- plain forms ----------------------------------------------------------------------------------


def convolve(stride: int = 1, padding: Any = "SAME") -> Any:
    """lax.conv_general_dilated over one batch axis; the shapes say how many groups there are."""

    def plain(params: layers.Kernel, x: Array, context: Context) -> Array:
        axes = x.ndim - 2
        z = lax.conv_general_dilated(
            x,
            params.w,
            (stride,) * axes,
            padding,
            dimension_numbers=LETTERS[axes],
            feature_group_count=x.shape[-1] // params.w.shape[-2],
        )
        return z if params.b is None else z + params.b

    return plain


def convolve_transpose(stride: int) -> Any:
    """lax.conv_transpose, which wants the kernel flipped."""

    def plain(params: layers.Kernel, x: Array, context: Context) -> Array:
        axes = x.ndim - 2
        w = jnp.flip(params.w, tuple(range(axes)))
        z = lax.conv_transpose(x, w, (stride,) * axes, "SAME", dimension_numbers=LETTERS[axes])
        return z if params.b is None else z + params.b

    return plain


# --- mutants --------------------------------------------------------------------------------------


def not_flipped(layer: Any, params: layers.Kernel, x: Array, dz: Array) -> Any:
    """dx with the kernel of the forward pass: right for symmetric kernels alone."""
    flipped = params._replace(w=jnp.flip(params.w, tuple(range(params.w.ndim - 2))))
    return layer.backward(flipped, x, dz)[0], layer.backward(params, x, dz)[1]


def channels_not_exchanged(layer: Any, params: layers.Kernel, x: Array, dz: Array) -> Any:
    """dx with w[t] for w[t]ᵀ: shapes tell only where in and out differ."""
    exchanged = params._replace(w=params.w.swapaxes(-1, -2))
    return layer.backward(exchanged, x, dz)[0], layer.backward(params, x, dz)[1]


def dw_flipped(layer: Any, params: layers.Kernel, x: Array, dz: Array) -> Any:
    """dw of a convolution that flips its kernel."""
    dx, (dw, db) = layer.backward(params, x, dz)
    return dx, layers.Kernel(jnp.flip(dw, tuple(range(dw.ndim - 2))), db)


def dw_averaged(layer: Any, params: layers.Kernel, x: Array, dz: Array) -> Any:
    """dw as a mean over the positions: a learning rate that depends on the image size."""
    dx, (dw, db) = layer.backward(params, x, dz)
    positions = dz.size // dz.shape[-1]
    return dx, layers.Kernel(dw / positions, db)


def padding_at_the_other_end(layer: Any, params: layers.Kernel, x: Array, dz: Array) -> Any:
    """dw against x shifted by one: SAME with the odd zero in front."""
    dx, dparams = layer.backward(params, x, dz)
    return dx, layer.backward(params, jnp.roll(x, 1, -2), dz)[1]._replace(b=dparams.b)


def frame_forgotten(layer: Any, params: layers.Kernel, x: Array, dz: Array) -> Any:
    """dx as if there were zeros in the padding."""
    plain = replace(layer, padding_mode="constant")
    return plain.backward(params, x, dz)[0], layer.backward(params, x, dz)[1]


def frame_forgotten_in_dw(layer: Any, params: layers.Kernel, x: Array, dz: Array) -> Any:
    """dw against x with zeros in the padding."""
    plain = replace(layer, padding_mode="constant")
    return layer.backward(params, x, dz)[0], plain.backward(params, x, dz)[1]


def convolve_framed(mode: Any) -> Any:
    """jnp.pad, and a convolution of what it returns."""

    def plain(params: layers.Kernel, x: Array, context: Context) -> Array:
        around = ((0, 0), *((1, 1) for _ in x.shape[1:-1]), (0, 0))
        return convolve(padding="VALID")(params, jnp.pad(x, around, mode), context)

    return plain


CONVOLUTION = (
    Row(
        "Conv",
        layers.Conv(5, (3, 3)),
        Normal((2, 5, 6, 5)),
        plain=convolve(),
        large=(layers.Conv(64, (3, 3)), Normal((16, 28, 28, 32))),
        mutants=(
            Mutant("kernel not flipped in dx", not_flipped),
            Mutant("w not transposed in dx", channels_not_exchanged),
            Mutant("dw flipped", dw_flipped),
            Mutant("dw averaged over positions", dw_averaged),
        ),
    ),
    Row(
        "Conv, stride 2, SAME",
        layers.Conv(3, (3, 4), stride=2),
        Normal((2, 7, 8, 5)),
        plain=convolve(2),
        large=(layers.Conv(64, (3, 3), stride=2), Normal((16, 33, 33, 32))),
        mutants=(Mutant("padding at the other end", padding_at_the_other_end),),
    ),
    Row(
        "Conv, dilated, padded by hand, no bias",
        layers.Conv(
            3, (2, 3), stride=(1, 2), padding=((2, 0), (1, 3)), dilation=(3, 2), bias=False
        ),
        Normal((2, 6, 7, 5)),
    ),
    Row(
        "Conv, one channel",
        layers.Conv(3, (3, 2), padding="VALID"),
        Normal((2, 7, 6, 1)),
        plain=convolve(padding="VALID"),
        large=(layers.Conv(20, (5, 5), padding="VALID"), Normal((64, 28, 28, 1))),
    ),
    Row(
        "Conv, one channel, strided, dilated",
        layers.Conv(3, (3, 2), stride=(2, 1), dilation=(1, 2)),
        Normal((2, 7, 6, 1)),
    ),
    Row(
        "Conv, 1 x 1",
        layers.Conv(3, (1, 1)),
        Normal((2, 4, 5, 6)),
        plain=convolve(),
        large=(layers.Conv(128, (1, 1)), Normal((16, 32, 32, 64))),
        promise=("time",),
    ),
    Row("Conv, 1 x 1, stride 2", layers.Conv(3, (1, 1), stride=2), Normal((2, 4, 5, 6))),
    Row("Conv, one image", layers.Conv(3, (3, 3)), Normal((4, 5, 6)), batched=False),
    Row("Conv, two batch axes", layers.Conv(2, (3, 2)), Normal((2, 3, 4, 5, 6))),
    Row(
        "Conv, grouped",
        layers.Conv(6, (3, 2), groups=2),
        Normal((2, 5, 4, 6)),
        plain=convolve(),
        large=(layers.Conv(32, (3, 3), groups=4), Normal((8, 16, 16, 32))),
        promise=("time",),
        reason="pays 1.3 times the memory: the groups are cut apart and joined again",
    ),
    Row(
        "Conv, depthwise",
        layers.Conv(7, (3, 3), groups=7),
        Normal((2, 5, 4, 7)),
        plain=convolve(),
        large=(layers.Conv(32, (3, 3), groups=32), Normal((8, 24, 24, 32))),
        promise=("time",),
        mutants=(Mutant("kernel not flipped in dx", not_flipped),),
    ),
    Row(
        "Conv, depthwise, two outputs a channel, stride 2",
        layers.Conv(6, (3, 2), stride=2, groups=3, dilation=(1, 2)),
        Normal((2, 7, 6, 3)),
    ),
    Row(
        "Conv, 1-D, causal",
        layers.Conv(3, (3,), padding="CAUSAL"),
        Normal((2, 9, 5)),
        plain=convolve(padding=((2, 0),)),
        large=(layers.Conv(64, (3,), padding="CAUSAL"), Normal((32, 256, 64))),
    ),
    Row(
        "Conv, 3-D",
        layers.Conv(3, (3, 2, 3)),
        Normal((2, 4, 3, 4, 5)),
        plain=convolve(),
        large=(layers.Conv(16, (3, 3, 3)), Normal((2, 14, 14, 14, 8))),
        promise=("time",),
        reason="pays 1.9 times the memory: the slices that a tap in depth meets are copied",
    ),
    Row(
        "Conv, 3-D, strided, dilated, grouped",
        layers.Conv(4, (3, 2, 2), stride=(2, 1, 1), dilation=(1, 2, 1), groups=2),
        Normal((2, 5, 4, 3, 10)),
    ),
    Row(
        "Conv, 3-D, few channels, grouped",
        layers.Conv(4, (2, 3, 2), groups=2),
        Normal((2, 4, 3, 4, 4)),
    ),
    Row(
        "Conv, reflected",
        layers.Conv(3, (3, 3), padding_mode="reflect"),
        Normal((2, 5, 4, 5)),
        plain=convolve_framed("reflect"),
        large=(layers.Conv(64, (3, 3), padding_mode="reflect"), Normal((16, 28, 28, 32))),
        mutants=(
            Mutant("zeros around x in dx", frame_forgotten),
            Mutant("zeros around x in dw", frame_forgotten_in_dw),
        ),
    ),
    Row(
        "Conv, 1-D, wrapped around, strided, dilated, grouped",
        layers.Conv(
            4, (3,), stride=2, padding=((3, 1),), dilation=2, groups=2, padding_mode="wrap"
        ),
        Normal((2, 7, 6)),
    ),
    Row(
        "Conv, 1-D, causal, its first step repeated",
        layers.Conv(3, (3,), padding="CAUSAL", padding_mode="edge"),
        Normal((2, 5, 4)),
    ),
    Row(
        "ConvTranspose",
        layers.ConvTranspose(5, (4, 3), stride=2),
        Normal((2, 3, 4, 5)),
        plain=convolve_transpose(2),
        large=(layers.ConvTranspose(16, (4, 4), stride=2), Normal((8, 14, 14, 32))),
        promise=("time",),
        mutants=(
            Mutant("kernel not flipped in dx", not_flipped),
            Mutant("dw flipped", dw_flipped),
            Mutant("w not transposed in dx", channels_not_exchanged),
        ),
    ),
    Row(
        "ConvTranspose, grouped, dilated, cropped",
        layers.ConvTranspose(
            4, (3, 2), stride=(2, 3), padding=((1, 0), (0, -1)), dilation=2, groups=2
        ),
        Normal((2, 4, 3, 6)),
    ),
    Row(
        "ConvTranspose, VALID, stride above kernel",
        layers.ConvTranspose(3, (2,), stride=3, padding="VALID"),
        Normal((2, 4, 5)),
    ),
    Row(
        "ConvTranspose, 3-D", layers.ConvTranspose(3, (2, 3, 2), stride=2), Normal((2, 3, 2, 3, 5))
    ),
    Row(
        "ConvTranspose, depthwise",
        layers.ConvTranspose(5, (3, 3), stride=2, groups=5, bias=False),
        Normal((2, 4, 3, 5)),
    ),
)
