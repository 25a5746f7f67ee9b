"""Losses of embeddings: cosine, triplets, and contrast within a batch.

The zero vector has no direction: here it is zero, and so is its gradient, where automatic
differentiation of a plain norm gives NaN.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, NamedTuple

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
from funcprop.losses.loss import Loss, less_one
from funcprop.sharding import entries, is_spread, out_as, out_like, spread_as, whole


class Unit(NamedTuple):
    """A direction, kept as the vector it is of: that one is in memory anyway."""

    vector: Array  # a [..., D]
    scale: Array  # 1 / ‖a‖ [..., 1], zero for the zero vector

    @property
    def direction(self) -> Array:
        """â = a / ‖a‖ [..., D], zero for the zero vector."""
        return widen(self.vector) * self.scale


def normalize(a: Array) -> Unit:
    """a / ‖a‖ over the last axis, in float32 at least."""
    return Unit(a, norms(widen(a))[1])


def norms(a: Array) -> tuple[Array, Array]:
    """(‖a‖, 1 / ‖a‖) over the last axis, both [..., 1], and both zero for the zero vector.

    Squares are taken of a over its largest entry: they neither overflow nor vanish.
    """
    peak = jax.lax.stop_gradient(jnp.max(jnp.abs(a), -1, keepdims=True))
    known = ~(peak < jnp.finfo(a.dtype).tiny)  # less than that has no reciprocal; NaN stays NaN
    peak = jnp.where(known, peak, 1)
    square = jnp.sum(jnp.square(a / peak), -1, keepdims=True)
    square = jnp.where(known, square, 1)
    return (
        jnp.where(known, peak * jnp.sqrt(square), 0),
        jnp.where(known, jax.lax.rsqrt(square) / peak, 0),
    )


class CosineResiduals(NamedTuple):
    """What CosineDistance keeps."""

    a: Unit  # the prediction's direction
    y: Unit  # the target's
    cosine: Array  # [..., 1]
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class CosineDistance(Loss):
    """1 − cos(a, y) per example.

    forward   (a, y), both [..., features] -> the loss
    keeps     both, their norms, and cos(a, y)
    backward  da = −(ŷ − â cos) dC / ‖a‖    dy likewise
    dtypes    any float, one for a and y; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where reduction is unknown, a and y are not of one shape and dtype or
              empty, a mask is not bool [...], a mean is over no example, or dC has not the shape of
              the loss

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, y = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 5.0]])
    >>> C, residuals = fp.CosineDistance().forward((), (a, y))
    >>> float(C)
    1.0
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, CosineResiduals]:
        a, y = self.same_shape(x)
        counted = self.counted(a.shape[:-1], context.mask)
        units = normalize(a), normalize(y)
        # 1 − cos = ½‖â − ŷ‖²: never negative, and right to the last digit of a small angle
        between = units[0].direction - units[1].direction
        distance = jnp.sum(jnp.square(between), -1, keepdims=True) / 2
        known = (units[0].scale != 0) & (units[1].scale != 0)
        distance = jnp.where(known, distance, 1)  # the zero vector is at right angles to all
        loss = self.reduce(distance[..., 0], counted, a.dtype)
        return loss, CosineResiduals(*units, 1 - distance, counted)

    def backward(
        self, params: tuple, residuals: CosineResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        a, y, cosine, counted = residuals
        da = a.scale * (a.direction * cosine - y.direction)
        dtarget = y.scale * (y.direction * cosine - a.direction)
        return (self.spread(dy, da, counted), self.spread(dy, dtarget, counted)), ()


class TripletResiduals(NamedTuple):
    """What TripletMargin keeps."""

    x: tuple[Array, tuple[Array, Array]]  # anchor, positive, negative: in memory anyway
    near: Array  # 1 / ‖anchor − positive‖ [..., 1], zero outside the margin
    far: Array  # 1 / ‖anchor − negative‖ [..., 1], zero outside the margin
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class TripletMargin(Loss):
    """max(0, ‖a − p‖ − ‖a − n‖ + margin) per example (Schroff et al., 2015, without squares).

    forward   (a, (p, n)): anchor, positive and negative, all [..., features] -> the loss
    keeps     all three, and the two distances of the triplets inside the margin
    backward  dp = −(a − p)/‖a − p‖ dC    dn = (a − n)/‖a − n‖ dC    da = −dp − dn; else 0
    dtypes    any float, one for all three; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where margin is negative or reduction unknown, x is not (a, (p, n)) of one
              shape and dtype or empty, a mask is not bool [...], a mean is over no example, or dC
              has not the shape of the loss
    source    Schroff, Kalenichenko and Philbin, 2015, arXiv:1503.03832

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, p, n = jnp.array([[0.0, 0.0]]), jnp.array([[0.0, 1.0]]), jnp.array([[0.0, 1.5]])
    >>> C, residuals = fp.TripletMargin().forward((), (a, (p, n)))
    >>> float(C)
    0.5
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
        near, to_positive = self._distance(anchor, positive)
        far, to_negative = self._distance(anchor, negative)
        excess = to_positive - to_negative + self.margin
        active = excess > 0
        loss = self.reduce(jnp.where(active, excess, 0)[..., 0], counted, anchor.dtype)
        near, far = jnp.where(active, near, 0), jnp.where(active, far, 0)
        return loss, TripletResiduals(x, near, far, counted)

    def backward(
        self, params: tuple, residuals: TripletResiduals, dy: Array
    ) -> tuple[tuple[Array, tuple[Array, Array]], tuple]:
        (anchor, (positive, negative)), near, far, counted = residuals
        dpositive = self.spread(dy, near * (widen(positive) - widen(anchor)), counted)
        dnegative = self.spread(dy, far * (widen(anchor) - widen(negative)), counted)
        return (-dpositive - dnegative, (dpositive, dnegative)), ()

    def _distance(self, anchor: Array, other: Array) -> tuple[Array, Array]:
        """(1 / ‖a − b‖, ‖a − b‖), both [..., 1] and zero where they are one point."""
        distance, scale = norms(widen(anchor) - widen(other))
        return scale, distance


class ContrastResiduals(NamedTuple):
    """What InfoNCE keeps."""

    a: Unit  # [..., B, D]
    b: Unit  # [..., B, D]
    scores: Array  # [..., B, B]
    rows: Array  # log Σ e^scores over the candidates of each a [..., B, 1]
    columns: Array | None  # the same over the candidates of each b [..., 1, B], where symmetric
    counted: Array | None  # bool [..., B]: the examples that count, where a mask was given


@dataclass(frozen=True)
class InfoNCE(Loss):
    """−log softmaxⱼ(âᵢ · b̂ⱼ / τ) at j = i: which b belongs to each a (van den Oord et al., 2018).

    Axis −2 is the batch within which pairs are told apart, so the examples are mixed; what
    `context.mask` hides is no candidate either. With `symmetric` it is the mean with the same loss
    of b against a, as in CLIP (Radford et al., 2021).

    forward   (a, b), both [..., B, features] -> the loss
    keeps     both, their norms, the scores and their log-sum-exp
    backward  ds = (p − 1) dC    dâ = ds b̂ / τ    da = (dâ − â (â · dâ)) / ‖a‖    db likewise
    dtypes    any float, one for a and b; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where temperature is not positive or reduction unknown, a and b are not of
              one shape [..., B, features] and dtype or empty, a mask is not bool [..., B], a mean
              is over no example, or dC has not the shape of the loss
    source    van den Oord, Li and Vinyals, 2018, arXiv:1807.03748; symmetric: Radford et al., 2021,
              arXiv:2103.00020

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a = b = jnp.eye(2)
    >>> C, residuals = jax.jit(fp.InfoNCE(temperature=1.0).forward)((), (a, b))
    >>> print(f"{C:.3f}")  # log(e + 1) − 1
    0.313
    """

    temperature: float = 0.07
    _: KW_ONLY
    symmetric: bool = False
    mixes: ClassVar[bool] = True

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
        units = normalize(a), normalize(b)
        left, right = (self._direction(unit, counted) for unit in units)
        rows = (*entries(a)[:-1], None)  # every a against all b
        scores = jnp.matmul(left, jnp.swapaxes(right, -1, -2), **out_as(rows, a, b))
        scores = scores / self.temperature
        if counted is not None:  # what is hidden is nobody's candidate
            hidden = whole(counted, -1)[..., None, :] & counted[..., None]
            scores = jnp.where(hidden, scores, -jnp.inf)
        values, of_rows = self._contrast(scores, counted)
        columns = None
        if self.symmetric:
            of_columns, columns = self._contrast(scores, counted, axis=-2)
            values = (values + spread_as(of_columns, entries(values))) / 2
        kept = ContrastResiduals(*units, scores, of_rows, columns, counted)
        return self.reduce(values, counted, a.dtype), kept

    def backward(
        self, params: tuple, residuals: ContrastResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        a, b, scores, rows, columns, counted = residuals
        eye = jnp.eye(scores.shape[-1], dtype=scores.dtype)
        shape = scores.shape[:-1]
        dvalues = jnp.broadcast_to(self.share(dy, shape, counted), shape)
        if counted is not None:
            dvalues = jnp.where(counted, dvalues, 0)
        dscores = (jnp.exp(scores - rows) - eye) * dvalues[..., None]
        if columns is not None:
            dvalues_of_columns = whole(dvalues, -1)[..., None, :]
            dscores = (dscores + (jnp.exp(scores - columns) - eye) * dvalues_of_columns) / 2
        dscores = dscores / self.temperature
        left, right = (self._direction(unit, counted) for unit in (a, b))
        out_a, out_b = (out_like(unit.vector, dscores, unit.vector) for unit in (a, b))
        # over the norms before the products: behind them XLA would write the norms out as matrices
        of_a, of_b = dscores * a.scale, dscores * jnp.swapaxes(whole(b.scale, -2), -1, -2)
        da = self._turned(left, jnp.matmul(of_a, right, **out_a), counted)
        db = jnp.einsum("...ij,...id->...jd", of_b, left, **out_b)
        db = self._turned(right, db, counted)
        return (da.astype(dy.dtype), db.astype(dy.dtype)), ()

    def _direction(self, unit: Unit, counted: Array | None) -> Array:
        """â, zero where it is hidden: what lies there may be NaN."""
        direction = unit.direction
        return direction if counted is None else jnp.where(counted[..., None], direction, 0)

    def _contrast(
        self, scores: Array, counted: Array | None, axis: int = -1
    ) -> tuple[Array, Array]:
        """Of every row (or column, axis −2) −log of the share of its own, on the diagonal [..., B],
        and the log-sum-exp [..., B, 1] (or [..., 1, B]); both zero where it is hidden."""
        peak = jax.lax.stop_gradient(scores.max(axis, keepdims=True))
        shown = None
        if counted is not None:
            shown = jnp.expand_dims(counted if axis == -1 else whole(counted, -1), axis)
            peak = jnp.where(shown, peak, 0)
        eye = jnp.eye(scores.shape[-1], dtype=bool)
        rest = jnp.sum(less_one(jnp.exp(scores - peak), eye), axis, keepdims=True)
        if shown is not None:
            rest = jnp.where(shown, rest, 0)
        log_total = jnp.log1p(rest)
        own = (
            jnp.where(eye, scores, 0).sum(axis)  # a diagonal across devices is no slice
            if is_spread(scores)
            else jnp.diagonal(scores, axis1=-2, axis2=-1)
        )
        values, sums = (peak.squeeze(axis) - own) + log_total.squeeze(axis), peak + log_total
        if shown is None:
            return values, sums
        return jnp.where(shown.squeeze(axis), values, 0), jnp.where(shown, sums, 0)

    def _turned(self, direction: Array, da: Array, counted: Array | None) -> Array:
        """Without its part along a: a longer vector has the same direction."""
        da = da - direction * jnp.sum(direction * da, -1, keepdims=True)
        return da if counted is None else jnp.where(counted[..., None], da, 0)
