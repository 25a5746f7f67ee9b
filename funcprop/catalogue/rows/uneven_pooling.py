"""Pooling whose windows are not all alike, norms of windows, and unpooling."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop import layers
from funcprop.catalogue.inputs import Normal, Spec, Uniform
from funcprop.catalogue.row import Mutant, Row, key_of
from funcprop.layer import Array, Context, Params


@dataclass(frozen=True)
class Places(Spec):
    """Places as a pool of some input returns them: of a tap of each window, drawn."""

    pool: layers.MaxPool
    sizes: tuple[int, ...]

    def kind(self, dtype: Any) -> Any:
        return "int32"

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        elements = [np.asarray(self.pool._elements(o, self.sizes)) for o in self.pool._offsets()]
        taps = np.broadcast_to(
            np.stack(elements).reshape(
                len(elements), *(1,) * (len(self.shape) - len(self.sizes) - 1), *elements[0].shape
            ),
            (len(elements), *self.shape),
        )
        order = np.where(taps >= 0, random.random(taps.shape), -1)
        chosen = np.take_along_axis(taps, order.argmax(0)[None], 0)[0]
        return chosen.astype("int32")


# --- plain forms ----------------------------------------------------------------------------------


def plain_unpool(params: Params, x: Any, context: Context) -> Array:
    """A scatter over the flat sizes, twice those of x."""
    values, places = x
    b, h, w, c = values.shape
    rows, places = values.reshape(b, -1, c), places.reshape(b, -1, c)
    example = jnp.arange(b, dtype=jnp.int32)[:, None, None]
    channel = jnp.arange(c, dtype=jnp.int32)
    zeros = jnp.zeros((b, 4 * h * w, c), values.dtype)
    return zeros.at[example, places, channel].set(rows).reshape(b, 2 * h, 2 * w, c)


def plain_norm(layer: layers.LPPool) -> Callable[..., Array]:
    """reduce_window of a power, and its root."""

    def forward(params: Params, x: Array, context: Context) -> Array:
        window = (1, *layer.window, 1)
        stride = (1, *(layer.stride or layer.window), 1)
        total = jax.lax.reduce_window(x**2, 0.0, jax.lax.add, window, stride, "VALID")
        return jnp.sqrt(total)

    return forward


def plain_regions(sizes: tuple[int, ...], reduce: Callable[..., Array]) -> Callable[..., Array]:
    """Each window cut out, along one axis after the other."""

    def forward(params: Params, x: Array, context: Context) -> Array:
        for axis, m in enumerate(sizes, start=1):
            n = x.shape[axis]
            cuts = [slice(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
            parts = [reduce(x[(slice(None),) * axis + (cut,)], axis) for cut in cuts]
            x = jnp.stack(parts, axis)
        return x

    return forward


def plain_fractional(layer: layers.FractionalMaxPool) -> Callable[..., Array]:
    """The windows gathered, along one axis after the other."""

    def forward(params: Params, x: Array, context: Context) -> Array:
        u = jax.random.uniform(key_of(context), (x.shape[0], x.shape[-1], len(layer.sizes)))
        for axis, (size, target) in enumerate(zip(layer.window, layer.sizes, strict=True)):
            n = x.shape[axis + 1]
            m = int(n * target)
            i, alpha = jnp.arange(m - 1, dtype=x.dtype), (n - size) / (m - 1)
            down = u[:, :, axis, None].astype(x.dtype)
            start = jnp.floor((i + down) * alpha) - jnp.floor(down * alpha)
            last = jnp.full((*start.shape[:-1], 1), n - size, start.dtype)
            start = jnp.concatenate([start, last], -1).astype(jnp.int32)  # [B, C, m]
            taps = []
            for k in range(size):
                place = jnp.swapaxes(start, 1, 2) + jnp.int32(k)
                between = (1,) * axis, (1,) * (len(layer.sizes) - 1 - axis)
                shape = (x.shape[0], *between[0], m, *between[1], x.shape[-1])
                taps.append(jnp.take_along_axis(x, place.reshape(shape), axis + 1))
            x = jnp.stack(taps).max(0)
        return x

    return forward


# --- mutants --------------------------------------------------------------------------------------


def not_divided(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """A sum's gradient in place of a mean's."""
    return layer.backward(params, residuals, 4 * dy)


def windows_taken_for_even(layer: Any, params: Params, sizes: Any, dy: Array) -> Any:
    """dy over ⌈n/m⌉ elements each, though some windows have one less."""
    dx, _ = layer.backward(params, sizes, jnp.ones_like(dy))
    spread, _ = layer.backward(params, sizes, dy)
    return spread / jnp.where(dx == 0, 1, dx), ()


def place_off_by_one(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """Places counted from one."""
    moved = (residuals.place + jnp.int32(1)) % jnp.int32(math.prod(residuals.sizes.sizes))
    return layer.backward(params, residuals._replace(place=moved), dy)


def one_window_an_element(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """Of overlapping windows that share their maximum only the last gives its gradient."""
    place = residuals.place
    flat = place.reshape(place.shape[0], -1, place.shape[-1])
    later = flat[:, :, None] == flat[:, None]
    n = flat.shape[1]
    after = jnp.arange(n)[:, None] < jnp.arange(n)
    again = (later & after[..., None]).any(2).reshape(place.shape)
    return layer.backward(params, residuals, jnp.where(again, 0, dy))


def norm_forgotten(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """xᵖ⁻¹ without the derivative of the root."""
    return layer.backward(params, residuals._replace(root=jnp.ones_like(residuals.root)), dy)


def power_forgotten(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """dx of another p: x in place of xᵖ⁻¹."""
    return replace(layer, norm=layer.norm + 1).backward(params, residuals, dy)


def mean_of_the_window(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """The mean of dy over the window in place of dy at the place."""
    pool = layers.AvgPool(layer.window, stride=layer.stride, padding=layer.padding)
    return (pool.forward((), dy)[0], None), ()


def first_of_the_window(layer: Any, params: Params, residuals: Any, dy: Array) -> Any:
    """dy at the window's first element, wherever the place."""
    cut = tuple(slice(None, None, step) for step in layer.stride or layer.window)
    return (dy[:, *cut], None), ()


# --- rows -----------------------------------------------------------------------------------------

PICTURES = Normal((16, 64, 64, 32))
FRACTIONAL = layers.FractionalMaxPool((2, 3), (0.7, 0.7))
PAIR = layers.MaxPool((2, 2))
OVER = layers.MaxPool((3, 2), stride=(2, 1), padding=((1, 1), (0, 1)))
MAX_MUTANTS = (
    Mutant("places counted from one", place_off_by_one),
    Mutant("one window an element", one_window_an_element),
)
UNEVEN_POOLING: tuple[Row, ...] = (
    Row(
        "MaxUnpool",
        layers.MaxUnpool((2, 2)),
        (Normal((3, 2, 3, 2)), Places((3, 2, 3, 2), PAIR, (4, 6))),
        plain=plain_unpool,
        large=(
            layers.MaxUnpool((2, 2)),
            (Normal((16, 32, 32, 32)), Places((16, 32, 32, 32), PAIR, (64, 64))),
        ),
        promise=("time", "memory"),
        mutants=(
            Mutant("a mean over the window", mean_of_the_window),
            Mutant("dy at the window's first element", first_of_the_window),
        ),
    ),
    Row(
        "MaxUnpool, overlapping, padded",
        layers.MaxUnpool((3, 2), stride=(2, 1), padding=((1, 1), (0, 1)), sizes=(5, 4)),
        (Normal((3, 3, 4, 2)), Places((3, 3, 4, 2), OVER, (5, 4))),
    ),
    Row(
        "LPPool",
        layers.LPPool((2, 2), 2.0),
        Normal((3, 5, 7, 2)),
        plain=plain_norm(layers.LPPool((2, 2), 2.0)),
        large=(layers.LPPool((2, 2), 2.0), PICTURES),
        promise=("time",),
        mutants=(
            Mutant("the root's derivative forgotten", norm_forgotten),
            Mutant("another power of x", power_forgotten),
        ),
    ),
    Row(
        "LPPool, cubes, overlapping, beyond the edge",
        layers.LPPool((3,), 3.0, stride=(2,), ceil_mode=True),
        Uniform((3, 8, 2), 0.2, 2.0),
        mutants=(Mutant("another power of x", power_forgotten),),
    ),
    Row(
        "LPPool, volumes, a broken power",
        layers.LPPool((2, 1, 2), 1.5),
        Uniform((2, 4, 2, 5, 2), 0.2, 2.0),
    ),
    Row(
        "AdaptiveAvgPool",
        layers.AdaptiveAvgPool((3, 4)),
        Normal((3, 5, 7, 2)),
        plain=plain_regions((3, 4), jnp.mean),
        large=(layers.AdaptiveAvgPool((3, 4)), PICTURES),
        promise=("memory",),
        mutants=(
            Mutant("not divided by the count", not_divided),
            Mutant("an average over the windows of an element", windows_taken_for_even),
        ),
    ),
    Row(
        "AdaptiveAvgPool, even, one axis left",
        layers.AdaptiveAvgPool((4, None)),
        Normal((3, 8, 5, 2)),
        plain=plain_regions((4,), jnp.mean),
        large=(layers.AdaptiveAvgPool((4, None)), PICTURES),
        promise=("time", "memory"),
    ),
    Row(
        "AdaptiveAvgPool, more windows than places", layers.AdaptiveAvgPool((5,)), Normal((3, 3, 2))
    ),
    Row("AdaptiveAvgPool, volumes", layers.AdaptiveAvgPool((2, 3, 1)), Normal((2, 3, 4, 2, 2))),
    Row(
        "AdaptiveMaxPool",
        layers.AdaptiveMaxPool((3, 4)),
        Normal((3, 5, 7, 2)),
        plain=plain_regions((3, 4), jnp.max),
        large=(layers.AdaptiveMaxPool((3, 4)), PICTURES),
        promise=("time", "memory"),
        mutants=MAX_MUTANTS,
    ),
    Row(
        "AdaptiveMaxPool, even, with places",
        layers.AdaptiveMaxPool((3, 2), return_places=True),
        Normal((3, 6, 4, 2)),
    ),
    Row(
        "AdaptiveMaxPool, more windows than places", layers.AdaptiveMaxPool((5,)), Normal((3, 3, 2))
    ),
    Row("AdaptiveMaxPool, volumes", layers.AdaptiveMaxPool((2, 3, 1)), Normal((2, 3, 4, 2, 2))),
    Row(
        "FractionalMaxPool",
        FRACTIONAL,
        Normal((3, 5, 7, 2)),
        plain=plain_fractional(FRACTIONAL),
        large=(FRACTIONAL, PICTURES),
        promise=("time", "memory"),
        batched=False,
        reason="draws for a batch at once",
        mutants=MAX_MUTANTS,
    ),
    Row(
        "FractionalMaxPool, samples given, volumes",
        layers.FractionalMaxPool((2, 1, 2), (0.7, 0.6, 0.5)),
        (Normal((2, 5, 2, 7, 2)), Uniform((2, 2, 3))),
    ),
)
