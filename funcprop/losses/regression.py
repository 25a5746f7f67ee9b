"""Losses of a − y."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from funcprop.layer import Array, Context, check_number, widen
from funcprop.losses.loss import Loss


class DifferenceResiduals(NamedTuple):
    """What the losses of a − y keep."""

    difference: Array  # a − y [..., features]: the derivative is a function of it
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class QuadraticCost(Loss):
    """C = ½‖a − y‖² per example, with the ½, summed over the features (Nielsen's cost).

    forward   (a, y), both [..., features] -> C
    keeps     a − y
    backward  da = (a − y) dC    dy = −da
    dtypes    any float, one for a and y; C and the gradients have it, sums are made in float32 at
              least
    raises    LayerError where reduction is unknown, a and y are not of one shape and dtype or
              empty, a mask is not bool [...], a mean is over no example, or dC has not the shape of
              C
    source    Nielsen, Neural Networks and Deep Learning, chapter 1

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, y = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])
    >>> C, residuals = fp.QuadraticCost().forward((), (a, y))
    >>> (da, dy), _ = fp.QuadraticCost().backward((), residuals, jnp.ones(()))
    >>> float(C), da
    (2.5, Array([[1., 2.]], dtype=float32))
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DifferenceResiduals]:
        a, y = self.same_shape(x)
        difference = a - y
        counted = self.counted(a.shape[:-1], context.mask)
        values = 0.5 * jnp.sum(jnp.square(widen(difference)), -1)
        return self.reduce(values, counted, a.dtype), DifferenceResiduals(difference, counted)

    def backward(
        self, params: tuple, residuals: DifferenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        difference, counted = residuals
        da = self.spread(dy, difference, counted)
        return (da, -da), ()


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """(1/D) Σ (a − y)² per example: the mean over the D features, without a ½.

    forward   (a, y), both [..., features] -> the mean squared error
    keeps     a − y
    backward  da = (2/D)(a − y) dC    dy = −da
    dtypes    any float, one for a and y; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where reduction is unknown, a and y are not of one shape and dtype or
              empty, a mask is not bool [...], a mean is over no example, or dC has not the shape of
              the loss

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, y = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])
    >>> C, residuals = fp.MeanSquaredError().forward((), (a, y))
    >>> float(C)
    2.5
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DifferenceResiduals]:
        a, y = self.same_shape(x)
        difference = a - y
        counted = self.counted(a.shape[:-1], context.mask)
        values = jnp.mean(jnp.square(widen(difference)), -1)
        return self.reduce(values, counted, a.dtype), DifferenceResiduals(difference, counted)

    def backward(
        self, params: tuple, residuals: DifferenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        difference, counted = residuals
        da = self.spread(dy, widen(difference) * (2 / difference.shape[-1]), counted)
        return (da, -da), ()


@dataclass(frozen=True)
class MeanAbsoluteError(Loss):
    """(1/D) Σ |a − y| per example: the mean over the D features.

    forward   (a, y), both [..., features] -> the mean absolute error
    keeps     a − y
    backward  da = sign(a − y) dC / D, 0 at a = y    dy = −da
    dtypes    any float, one for a and y; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where reduction is unknown, a and y are not of one shape and dtype or
              empty, a mask is not bool [...], a mean is over no example, or dC has not the shape of
              the loss

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, y = jnp.array([[1.0, 3.0]]), jnp.array([[0.0, 1.0]])
    >>> C, residuals = fp.MeanAbsoluteError().forward((), (a, y))
    >>> float(C)
    1.5
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DifferenceResiduals]:
        a, y = self.same_shape(x)
        difference = a - y
        counted = self.counted(a.shape[:-1], context.mask)
        values = jnp.mean(jnp.abs(widen(difference)), -1)
        return self.reduce(values, counted, a.dtype), DifferenceResiduals(difference, counted)

    def backward(
        self, params: tuple, residuals: DifferenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        difference, counted = residuals
        slope = jnp.sign(widen(difference)) * (1 / difference.shape[-1])
        da = self.spread(dy, slope, counted)
        return (da, -da), ()


@dataclass(frozen=True)
class Huber(Loss):
    """Σ h(a − y) per example, h(d) = ½d² where |d| ≤ δ, δ(|d| − ½δ) beyond (Huber, 1964).

    forward   (a, y), both [..., features] -> the loss
    keeps     a − y
    backward  da = clip(a − y, −δ, δ) dC    dy = −da
    dtypes    any float, one for a and y; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where delta is negative or reduction unknown, a and y are not of one shape
              and dtype or empty, a mask is not bool [...], a mean is over no example, or dC has not
              the shape of the loss
    source    Huber, Robust estimation of a location parameter, 1964

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, y = jnp.array([[0.5, 3.0]]), jnp.zeros((1, 2))
    >>> C, residuals = fp.Huber().forward((), (a, y))
    >>> (da, dy), _ = fp.Huber().backward((), residuals, jnp.ones(()))
    >>> float(C), da
    (2.625, Array([[0.5, 1. ]], dtype=float32))
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "delta", self.delta, 0)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DifferenceResiduals]:
        a, y = self.same_shape(x)
        difference = a - y
        counted = self.counted(a.shape[:-1], context.mask)
        size = jnp.abs(widen(difference))
        inner = jnp.minimum(size, self.delta)  # ½d² inside, δ|d| − ½δ² outside, in one expression
        values = jnp.sum(inner * (size - 0.5 * inner), -1)
        return self.reduce(values, counted, a.dtype), DifferenceResiduals(difference, counted)

    def backward(
        self, params: tuple, residuals: DifferenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        difference, counted = residuals
        da = self.spread(dy, jnp.clip(difference, -self.delta, self.delta), counted)
        return (da, -da), ()
