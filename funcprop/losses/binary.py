"""Losses of two classes a feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import Array, Context, widen
from funcprop.losses.loss import Loss, check_range


class BinaryResiduals(NamedTuple):
    """What BinaryCrossEntropy keeps."""

    z: Array  # logits [..., features]: σ(z) is cheap, and dy needs z itself
    y: Array  # targets [..., features]
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """−Σ (y log σ(z) + (1 − y) log(1 − σ(z))) per example, from logits, summed over the features.

    This is Nielsen's cross-entropy cost of sigmoid outputs; a mean over D features is 1/D of it.
    Targets lie in [0, 1]: outside, an error, or NaN where their values are not known yet.

    forward   (z, y), both [..., features] -> the loss
    keeps     z, y
    backward  dz = (σ(z) − y) dC    dy = −z dC
    dtypes    any float, one for z and y; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where reduction is unknown, z and y are not of one shape and dtype or
              empty, a target that counts is known and not in [0, 1], a mask is not bool [...], a
              mean is over no example, or dC has not the shape of the loss
    source    Nielsen, Neural Networks and Deep Learning, chapter 3

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> z, y = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 0.0]])
    >>> C, residuals = fp.BinaryCrossEntropy().forward((), (z, y))
    >>> (dz, dy), _ = fp.BinaryCrossEntropy().backward((), residuals, jnp.ones(()))
    >>> print(f"{C:.3f}", dz)
    1.386 [[-0.5  0.5]]
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, BinaryResiduals]:
        z, y = self.same_shape(x)
        counted = self.counted(z.shape[:-1], context.mask)
        check_range(self, y, counted, "targets in [0, 1]", lambda v: (v >= 0) & (v <= 1))
        wide, target = widen(z), widen(jnp.where((y >= 0) & (y <= 1), y, jnp.nan))
        size, wrong = jnp.abs(wide), jnp.where(wide >= 0, 1 - target, target)
        # no term is negative, and a right answer that is infinitely sure costs 0, not ∞ · 0
        size = jnp.where((wrong == 0) & (size == jnp.inf), 0, size) * wrong
        values = size + jnp.log1p(jnp.exp(-jnp.abs(wide)))
        return self.reduce(values.sum(-1), counted, z.dtype), BinaryResiduals(z, y, counted)

    def backward(
        self, params: tuple, residuals: BinaryResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        z, y, counted = residuals
        inside = (y >= 0) & (y <= 1)
        wide, target = widen(z), widen(y)
        # σ(z) − y from the smaller of σ(z) and 1 − σ(z), which may be far smaller than 1
        slope = jax.nn.sigmoid(-jnp.abs(wide))
        slope = jnp.where(wide >= 0, (1 - target) - slope, slope - target)
        dz = self.spread(dy, jnp.where(inside, slope, jnp.nan), counted)
        return (dz, self.spread(dy, -z, counted)), ()


class SoftMarginResiduals(NamedTuple):
    """What SoftMargin keeps."""

    z: Array  # scores [..., features]
    y: Array  # signs [..., features]
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class SoftMargin(Loss):
    """Σ log(1 + e^(−y z)) per example, summed over the features: logistic loss of signs.

    Targets are −1 or 1. With (y + 1)/2 for the target it is BinaryCrossEntropy.

    forward   (z, y), both [..., features] -> the loss
    keeps     z, y
    backward  dz = −y σ(−y z) dC    dy = −z σ(−y z) dC
    dtypes    any float, one for z and y; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where reduction is unknown, z and y are not of one shape and dtype or
              empty, a mask is not bool [...], a mean is over no example, or dC has not the shape of
              the loss

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> z, y = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, -1.0]])
    >>> C, residuals = fp.SoftMargin().forward((), (z, y))
    >>> (dz, dy), _ = fp.SoftMargin().backward((), residuals, jnp.ones(()))
    >>> print(f"{C:.3f}", dz)
    1.386 [[-0.5  0.5]]
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, SoftMarginResiduals]:
        z, y = self.same_shape(x)
        counted = self.counted(z.shape[:-1], context.mask)
        behind = -widen(y) * widen(z)
        values = jnp.maximum(behind, 0) + jnp.log1p(jnp.exp(-jnp.abs(behind)))
        return self.reduce(values.sum(-1), counted, z.dtype), SoftMarginResiduals(z, y, counted)

    def backward(
        self, params: tuple, residuals: SoftMarginResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        z, y, counted = residuals
        slope = -jax.nn.sigmoid(-widen(y) * widen(z))
        dz = self.spread(dy, widen(y) * slope, counted)
        return (dz, self.spread(dy, widen(z) * slope, counted)), ()
