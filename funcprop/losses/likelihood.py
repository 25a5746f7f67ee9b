"""Negative log-likelihoods of numbers."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import NamedTuple

import jax.numpy as jnp

from funcprop.layer import Array, Context, check_choice, check_number, widen
from funcprop.losses.loss import Loss


class PoissonResiduals(NamedTuple):
    """What PoissonNLL keeps."""

    z: Array  # log rates, or rates [..., features]
    y: Array  # counts [..., features]
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class PoissonNLL(Loss):
    """Σ (e^z − y z) per example: −log of the Poisson probability of y at the rate e^z, less log y!.

    log_input  z is the logarithm of the rate; else the rate itself, and the loss z − y log(z + ε)
    full       adds Stirling's log y! ≈ y log y − y + ½ log 2πy, where y > 1
    epsilon    ε, where log_input is False

    forward   (z, y), both [..., features] -> the loss
    keeps     z, y
    backward  dz = (e^z − y) dC    dy = −z dC, or of rates dz = (1 − y / (z + ε)) dC
              dy = −log(z + ε) dC; full adds (log y + 1/2y) dC to dy, where y > 1
    dtypes    any float, one for z and y; the loss and the gradients have it, sums are made in
              float32 at least
    raises    LayerError where epsilon is negative, log_input or full no bool or reduction unknown,
              z and y are not of one shape and dtype or empty, a mask is not bool [...], a mean is
              over no example, or dC has not the shape of the loss

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> z, y = jnp.array([[0.0, 0.0]]), jnp.array([[1.0, 3.0]])
    >>> C, residuals = fp.PoissonNLL().forward((), (z, y))
    >>> (dz, dy), _ = fp.PoissonNLL().backward((), residuals, jnp.ones(()))
    >>> float(C), dz
    (2.0, Array([[ 0., -2.]], dtype=float32))
    """

    _: KW_ONLY
    log_input: bool = True
    full: bool = False
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "log_input", self.log_input, (False, True))
        check_choice(self, "full", self.full, (False, True))
        check_number(self, "epsilon", self.epsilon, 0)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, PoissonResiduals]:
        z, y = self.same_shape(x)
        counted = self.counted(z.shape[:-1], context.mask)
        wide, count = widen(z), widen(y)
        if self.log_input:
            values = jnp.exp(wide) - count * wide
        else:
            values = wide - count * jnp.log(wide + self.epsilon)
        if self.full:
            above = jnp.where(count > 1, count, 1)  # where it is not above, no logarithm is taken
            stirling = (above + 0.5) * jnp.log(above) - above + 0.5 * math.log(2 * math.pi)
            values = values + jnp.where(count > 1, stirling, 0)
        return self.reduce(values.sum(-1), counted, z.dtype), PoissonResiduals(z, y, counted)

    def backward(
        self, params: tuple, residuals: PoissonResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        z, y, counted = residuals
        wide, count = widen(z), widen(y)
        if self.log_input:
            slope, log_rate = jnp.exp(wide) - count, wide
        else:
            rate = wide + self.epsilon
            slope, log_rate = 1 - count / rate, jnp.log(rate)
        of_target = -log_rate
        if self.full:
            above = jnp.where(count > 1, count, 1)
            more = jnp.log(above) + 0.5 / above
            of_target = of_target + jnp.where(count > 1, more, 0)
        return (self.spread(dy, slope, counted), self.spread(dy, of_target, counted)), ()
