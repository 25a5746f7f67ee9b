"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop import layers
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.layer import Array, Context, Layer, Params


def plain_max(layer: layers.MaxPool) -> Callable[..., Array]:
    """The reduce_window that Flax writes."""

    def forward(params: Params, x: Array, context: Context) -> Array:
        return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, *places(layer, x))

    return forward


def plain_mean(layer: layers.AvgPool) -> Callable[..., Array]:
    """The reduce_window that Flax writes, divided by the window."""

    def forward(params: Params, x: Array, context: Context) -> Array:
        total = jax.lax.reduce_window(x, 0.0, jax.lax.add, *places(layer, x))
        return total / math.prod(layer.window)

    return forward


def places(layer: layers.MaxPool | layers.AvgPool, x: Array) -> tuple[Any, Any, Any]:
    """Window, stride and padding over all axes of x."""
    batch = (1,) * (x.ndim - len(layer.window) - 1)
    pads = layer.padding
    if not isinstance(pads, str):
        pads = (*((0, 0) for _ in batch), *pads, (0, 0))
    return (*batch, *layer.window, 1), (*batch, *(layer.stride or layer.window), 1), pads


def plain_global(params: Params, x: Array, context: Context) -> Array:
    return x.mean((-3, -2))


def first_tap_only(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """All of dy to the first element of each window."""
    index = jnp.zeros_like(residuals.index)
    return layer.backward(params, residuals._replace(index=index), dy)


def tap_off_by_one(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """Indices counted from one."""
    index = residuals.index + jnp.ones((), residuals.index.dtype)
    return layer.backward(params, residuals._replace(index=index), dy)


def not_divided(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """The mean's gradient without its 1/count."""
    return layer.backward(params, residuals, dy * 4)


def summed_over_one_window(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """The whole image's mean gradient in place of each place's own."""
    dx, dparams = layer.backward(params, residuals, dy)
    return jnp.broadcast_to(dx.mean(-2, keepdims=True), dx.shape), dparams


def divided_by_rows(layer: Layer, params: Params, residuals: Any, dy: Array) -> Any:
    """1/height in place of 1/(height · width)."""
    return layer.backward(params, residuals, dy * residuals.sizes[-1])


def max_row(name: str, layer: layers.MaxPool, x: Normal, **options: Any) -> Row:
    return Row(name, layer, x, plain=plain_max(layer), **options)


def mean_row(name: str, layer: layers.AvgPool, x: Normal, **options: Any) -> Row:
    return Row(name, layer, x, plain=plain_mean(layer), **options)


MAX_MUTANTS = (
    Mutant("all of dy to the first tap", first_tap_only),
    Mutant("indices counted from one", tap_off_by_one),
)
MEAN_MUTANTS = (
    Mutant("not divided by the count", not_divided),
    Mutant("averaged along a pooled axis", summed_over_one_window),
)
LARGE = Normal((16, 64, 64, 32))
POOLING = (
    max_row(
        "MaxPool",
        layers.MaxPool((2, 2)),
        Normal((3, 5, 7, 2)),
        large=(layers.MaxPool((2, 2)), LARGE),
        promise=("time", "memory"),
        mutants=MAX_MUTANTS,
    ),
    max_row(
        "MaxPool, overlapping",
        layers.MaxPool((3, 3), stride=(2, 2), padding="SAME"),
        Normal((3, 5, 8, 2)),
        large=(layers.MaxPool((3, 3), stride=(2, 2), padding="SAME"), LARGE),
        promise=("time", "memory"),
        mutants=MAX_MUTANTS,
    ),
    max_row(
        "MaxPool, sequences, explicit padding, gaps",
        layers.MaxPool((2,), stride=(3,), padding=((1, 0),)),
        Normal((3, 8, 2)),
        large=(layers.MaxPool((2,), stride=(3,), padding=((1, 0),)), Normal((32, 1024, 64))),
        promise=("time", "memory"),
    ),
    max_row(
        "MaxPool, volumes",
        layers.MaxPool((2, 1, 2)),
        Normal((2, 3, 2, 5, 2)),
        large=(layers.MaxPool((2, 1, 2)), Normal((4, 16, 32, 32, 16))),
        promise=("time", "memory"),
    ),
    mean_row(
        "AvgPool",
        layers.AvgPool((2, 2)),
        Normal((3, 5, 7, 2)),
        large=(layers.AvgPool((2, 2)), LARGE),
        mutants=MEAN_MUTANTS,
    ),
    mean_row(
        "AvgPool, overlapping",
        layers.AvgPool((3, 3), stride=(2, 2), padding="SAME"),
        Normal((3, 5, 8, 2)),
        large=(layers.AvgPool((3, 3), stride=(2, 2), padding="SAME"), LARGE),
        promise=("time",),
        mutants=MEAN_MUTANTS,
    ),
    Row(
        "AvgPool, padding not counted",
        layers.AvgPool((3,), stride=(1,), padding="SAME", count_include_pad=False),
        Normal((3, 5, 2)),
    ),
    Row(
        "MaxPool, dilated, one window beyond the edge",
        layers.MaxPool((2, 2), stride=(1, 3), dilation=(2, 1), ceil_mode=True),
        Normal((3, 5, 6, 2)),
        mutants=MAX_MUTANTS,
    ),
    Row(
        "MaxPool, with places",
        layers.MaxPool((3, 2), stride=(2, 1), padding=((1, 0), (0, 1)), return_places=True),
        Normal((3, 5, 4, 2)),
        mutants=MAX_MUTANTS,
    ),
    Row(
        "AvgPool, one window beyond the edge",
        layers.AvgPool((3, 2), stride=(2, 2), padding=((1, 1), (0, 1)), ceil_mode=True),
        Normal((3, 5, 6, 2)),
        mutants=MEAN_MUTANTS,
    ),
    Row("AvgPool, a divisor", layers.AvgPool((2,), divisor=3), Normal((3, 5, 2))),
    Row(
        "GlobalAvgPool",
        layers.GlobalAvgPool(),
        Normal((3, 5, 7, 2)),
        plain=plain_global,
        large=(layers.GlobalAvgPool(), Normal((64, 32, 32, 64))),
        mutants=(MEAN_MUTANTS[0], Mutant("divided by the rows alone", divided_by_rows)),
    ),
    Row(
        "GlobalMaxPool",
        layers.GlobalMaxPool(),
        Normal((3, 5, 7, 2)),
        plain=lambda params, x, context: x.max((-3, -2)),
        large=(layers.GlobalMaxPool(), Normal((64, 32, 32, 64))),
        promise=("time",),
        mutants=MAX_MUTANTS,
    ),
)
