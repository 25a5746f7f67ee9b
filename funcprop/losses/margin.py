"""Losses of scores and margins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import Array, Context, check_number, widen
from funcprop.losses.loss import Loss, check_classes, valid_classes


class HingeResiduals(NamedTuple):
    """What Hinge keeps."""

    active: Array  # bool [..., classes]: the wrong classes inside the margin
    target: Array  # int [...]
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class Hinge(Loss):
    """Σ_{j ≠ t} max(0, zⱼ − z_t + margin) per example (Weston and Watkins, 1999).

    forward   (z, t): scores [..., classes], integer classes [...] -> the loss
    keeps     which wrong classes lie inside the margin
    backward  dzⱼ = [active] dC    dz_t = −(number active) dC; 0 exactly at the margin
    dtypes    z of any float, which the loss and dz have; classes of any integer dtype; sums are
              made in float32 at least
    raises    LayerError where margin is negative or reduction unknown, x is no pair or empty, t is
              not int [...], a class that counts is known and out of range, a mask is not bool
              [...], a mean is over no example, or dC has not the shape of the loss
    source    Weston and Watkins, Support vector machines for multi-class pattern recognition, 1999

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> scores, labels = jnp.array([[1.0, 0.5, -1.0]]), jnp.array([0])
    >>> C, residuals = fp.Hinge().forward((), (scores, labels))
    >>> (dz, _), _ = fp.Hinge().backward((), residuals, jnp.ones(()))
    >>> float(C), dz
    (0.5, Array([[-1.,  1.,  0.]], dtype=float32))
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "margin", self.margin, 0)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, HingeResiduals]:
        z, target = self.pair(x)
        check_classes(self, z, target)
        counted = self.counted(target.shape, context.mask)
        valid = valid_classes(self, target, z.shape[-1], counted)
        wide, classes = widen(z), jnp.arange(z.shape[-1], dtype=target.dtype)
        safe = jnp.clip(target, 0, z.shape[-1] - 1)[..., None]
        excess = wide - jnp.take_along_axis(wide, safe, -1) + self.margin
        active = (excess > 0) & (classes != target[..., None])
        values = jnp.where(valid, jnp.sum(jnp.where(active, excess, 0), -1), jnp.nan)
        return self.reduce(values, counted, z.dtype), HingeResiduals(active, target, counted)

    def backward(
        self, params: tuple, residuals: HingeResiduals, dy: Array
    ) -> tuple[tuple[Array, None], tuple]:
        active, target, counted = residuals
        wrong = active.astype(widen(dy).dtype)  # 16 bits cannot count many classes
        right = jax.nn.one_hot(target, active.shape[-1], dtype=wrong.dtype)
        slope = wrong - right * wrong.sum(-1, keepdims=True)
        valid = (target >= 0) & (target < active.shape[-1])
        return (self.spread(dy, jnp.where(valid[..., None], slope, jnp.nan), counted), None), ()
