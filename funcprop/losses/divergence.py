"""Losses of distributions."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import Array, Context, check_choice, widen
from funcprop.losses.loss import Loss, check_range


class DivergenceResiduals(NamedTuple):
    """What KLDivergence keeps."""

    log_p: Array  # log-probabilities [..., classes]
    y: Array  # probabilities, or their logarithms [..., classes]
    ratio: Array  # log y − log p [..., classes], 0 where y is: becomes dy where it lies
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class KLDivergence(Loss):
    """Σᵢ yᵢ (log yᵢ − log pᵢ) per example: KL(y ‖ p), from log-probabilities, with 0 log 0 = 0.

    The prediction is what `LogSoftmax` gives; the target, probabilities, or with `log_target` their
    logarithms, which may be −∞.

    forward   (log p, y), both [..., classes] -> the loss
    keeps     both, and log y − log p
    backward  dlog p = −y dC    dy = (log y + 1 − log p) dC; at y = 0, −log p dC;
              with log_target dlog y = y (log y + 1 − log p) dC; at y = 0, zero
    dtypes    any float, one for both; the loss and the gradients have it, sums are made in float32
              at least
    raises    LayerError where reduction is unknown or log_target no bool, log p and y are not of
              one shape and dtype or empty, a probability that counts is known and negative, a mask
              is not bool [...], a mean is over no example, or dC has not the shape of the loss
    source    Kullback and Leibler, On information and sufficiency, 1951

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> log_p, y = jnp.log(jnp.array([[0.5, 0.5]])), jnp.array([[1.0, 0.0]])
    >>> C, residuals = fp.KLDivergence().forward((), (log_p, y))
    >>> print(f"{C:.3f}")
    0.693
    """

    _: KW_ONLY
    log_target: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "log_target", self.log_target, (False, True))

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DivergenceResiduals]:
        log_p, y = self.same_shape(x)
        counted = self.counted(y.shape[:-1], context.mask)
        if not self.log_target:
            check_range(self, y, counted, "probabilities, not negative", lambda v: v >= 0)
        wide, log_y = self._target(y)
        # y = 0 says nothing of p, also where log p is −∞; a negative y has no logarithm: NaN
        ratio = jnp.where(wide == 0, 0, log_y - widen(log_p))
        values = jnp.sum(wide * ratio, -1)
        # of two distributions it is not negative: what falls below 0 is their rounding
        rounding = 4 * float(jnp.finfo(y.dtype).eps) * (2 + math.log(y.shape[-1]))
        below = jax.lax.stop_gradient(jnp.where(jnp.abs(values) < rounding, values, 0))
        values = values - jnp.minimum(below, 0)
        loss = self.reduce(values, counted, y.dtype)
        return loss, DivergenceResiduals(log_p, y, ratio, counted)

    def backward(
        self, params: tuple, residuals: DivergenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        log_p, y, ratio, counted = residuals
        wide, _ = self._target(y)
        if self.log_target:
            slope = wide * (ratio + 1)
        else:
            slope = jnp.where(y == 0, -widen(log_p), ratio + 1)
        return (self.spread(dy, -wide, counted), self.spread(dy, slope, counted)), ()

    def _target(self, y: Array) -> tuple[Array, Array]:
        """(y, log y), in float32 at least."""
        wide = widen(y)
        return (jnp.exp(wide), wide) if self.log_target else (wide, jnp.log(wide))
