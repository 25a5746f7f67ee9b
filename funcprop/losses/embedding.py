"""Losses of embeddings: cosine, triplets, and contrast within a batch.

The zero vector has no direction: here it is zero, and so is its gradient, where automatic
differentiation of a plain norm gives NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    LayerError,
    check_number,
    spell,
    widen,
)
from funcprop.losses.loss import Loss

EPS = 1e-6


class Unit(NamedTuple):
    """A vector of length one, and how it was made."""

    direction: Array  # a / ‖a‖ [..., D], zero where ‖a‖ ≤ eps
    scale: Array  # 1 / ‖a‖ [..., 1], zero there too


def normalize(a: Array) -> Unit:
    """a / ‖a‖ over the last axis."""
    square = jnp.sum(jnp.square(a), -1, keepdims=True)
    known = square > EPS**2
    scale = jnp.where(known, jax.lax.rsqrt(jnp.where(known, square, 1)), 0)
    return Unit(a * scale, scale)


def normalize_backward(unit: Unit, ddirection: Array) -> Array:
    """da = (dâ − â (â · dâ)) / ‖a‖."""
    along = jnp.sum(unit.direction * ddirection, -1, keepdims=True)
    return unit.scale * (ddirection - along * unit.direction)


class CosineResiduals(NamedTuple):
    """What CosineDistance keeps."""

    a: Unit  # the prediction's direction and norm
    y: Unit  # the target's
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class CosineDistance(Loss):
    """1 − cos(a, y) per example.

    forward   (a, y), both [..., features] -> the loss
    keeps     the directions â, ŷ and the norms
    backward  da = −(ŷ − â cos) dC / ‖a‖    dy likewise
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, CosineResiduals]:
        a, y = self.same_shape(x)
        counted = self.counted(a.shape[:-1], context.mask)
        units = normalize(widen(a)), normalize(widen(y))
        values = 1 - jnp.sum(units[0].direction * units[1].direction, -1)
        return self.reduce(values, counted, a.dtype), CosineResiduals(*units, counted)

    def backward(
        self, params: tuple, residuals: CosineResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        a, y, counted = residuals
        da = self.spread(dy, normalize_backward(a, -y.direction), counted)
        return (da, self.spread(dy, normalize_backward(y, -a.direction), counted)), ()


class TripletResiduals(NamedTuple):
    """What TripletMargin keeps."""

    near: Array  # the direction of anchor − positive [..., D]
    far: Array  # the direction of anchor − negative [..., D]
    active: Array  # bool [...]: the triplets inside the margin
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class TripletMargin(Loss):
    """max(0, ‖a − p‖ − ‖a − n‖ + margin) per example (Schroff et al., 2015, without squares).

    forward   (a, (p, n)): anchor, positive and negative, all [..., features] -> the loss
    keeps     the two directions, and which triplets are active
    backward  dp = −(a − p)/‖a − p‖ dC    dn = (a − n)/‖a − n‖ dC    da = −dp − dn; else 0
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "margin", self.margin, 0)

    def forward(
        self, params: tuple, x: tuple[Array, tuple[Array, Array]], context: Context = Context()
    ) -> tuple[Array, TripletResiduals]:
        if not isinstance(x, tuple) or len(x) != 2 or not isinstance(x[1], tuple) or len(x[1]) != 2:
            raise LayerError(
                self,
                f"x is {spell(x)}, wanted (anchor, (positive, negative))",
                "write loss.forward((), (anchor, (positive, negative)))",
            )
        anchor, (positive, negative) = x
        for other in (positive, negative):
            self.same_shape((anchor, other))
        counted = self.counted(anchor.shape[:-1], context.mask)
        toward, away = widen(anchor - positive), widen(anchor - negative)
        near, far = normalize(toward).direction, normalize(away).direction
        # ‖a‖ = a · â
        excess = jnp.sum(toward * near, -1) - jnp.sum(away * far, -1) + self.margin
        active = excess > 0
        loss = self.reduce(jnp.where(active, excess, 0), counted, anchor.dtype)
        return loss, TripletResiduals(near, far, active, counted)

    def backward(
        self, params: tuple, residuals: TripletResiduals, dy: Array
    ) -> tuple[tuple[Array, tuple[Array, Array]], tuple]:
        near, far, active, counted = residuals
        toward = jnp.where(active[..., None], near, 0)
        away = jnp.where(active[..., None], far, 0)
        dpositive, dnegative = self.spread(dy, -toward, counted), self.spread(dy, away, counted)
        return (-dpositive - dnegative, (dpositive, dnegative)), ()


class ContrastResiduals(NamedTuple):
    """What InfoNCE keeps."""

    a: Unit  # [..., B, D]
    b: Unit  # [..., B, D]
    rows: Array  # softmax over the candidates of each a [..., B, B]
    columns: Array | None  # softmax over the candidates of each b, where symmetric
    counted: Array | None  # bool [..., B]: the examples that count, where a mask was given


@dataclass(frozen=True)
class InfoNCE(Loss):
    """−log softmaxⱼ(âᵢ · b̂ⱼ / τ) at j = i: which b belongs to each a (van den Oord et al., 2018).

    Axis −2 is the batch within which pairs are told apart, so the examples are mixed. With
    `symmetric` it is the mean with the same loss of b against a, as in CLIP (Radford et al., 2021).

    forward   (a, b), both [..., B, features] -> the loss
    keeps     the directions and norms, and the softmax
    backward  ds = (p − 1) dC    dâ = ds b̂ / τ    db̂ = dsᵀ â / τ
    """

    temperature: float = 0.07
    symmetric: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "temperature", self.temperature, 1e-8)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, ContrastResiduals]:
        a, b = self.same_shape(x)
        if a.ndim < 2:
            raise LayerError(self, f"x is {spell(x)}, wanted a batch of vectors [..., B, features]")
        counted = self.counted(a.shape[:-1], context.mask)
        units = normalize(widen(a)), normalize(widen(b))
        scores = units[0].direction @ jnp.swapaxes(units[1].direction, -1, -2) / self.temperature
        values = -jnp.diagonal(jax.nn.log_softmax(scores, -1), axis1=-2, axis2=-1)
        columns = None
        if self.symmetric:
            log_columns = jax.nn.log_softmax(scores, -2)
            values = (values - jnp.diagonal(log_columns, axis1=-2, axis2=-1)) / 2
            columns = jnp.exp(log_columns)
        kept = ContrastResiduals(*units, jax.nn.softmax(scores, -1), columns, counted)
        return self.reduce(values, counted, a.dtype), kept

    def backward(
        self, params: tuple, residuals: ContrastResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        a, b, rows, columns, counted = residuals
        eye = jnp.eye(rows.shape[-1], dtype=rows.dtype)
        dvalues = jnp.broadcast_to(self.share(dy, rows.shape[:-1], counted), rows.shape[:-1])
        if counted is not None:
            dvalues = jnp.where(counted, dvalues, 0)
        dscores = (rows - eye) * dvalues[..., None]
        if columns is not None:
            dscores = (dscores + (columns - eye) * dvalues[..., None, :]) / 2
        dscores = dscores / self.temperature
        da = normalize_backward(a, dscores @ b.direction)
        db = normalize_backward(b, jnp.swapaxes(dscores, -1, -2) @ a.direction)
        return (da.astype(dy.dtype), db.astype(dy.dtype)), ()
