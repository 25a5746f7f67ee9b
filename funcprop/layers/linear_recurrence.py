"""LinearRecurrence: the diagonal state-space layer, its decay an input."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_input,
    spell,
    widen,
)


class LinearRecurrenceResiduals(NamedTuple):
    """What LinearRecurrence keeps."""

    a: Array  # [..., T, features]: the reversed recurrence runs through it
    h: Array  # [..., T, features]: the states, since da is their product with dh
    mask: Array | None  # bool [..., T]: the steps that count, where a mask was given


@dataclass(frozen=True)
class LinearRecurrence(Layer):
    """hₜ = aₜ hₜ₋₁ + xₜ, elementwise, from h = 0: a scan on the CPU, an associative scan elsewhere.

    A step that `context.mask` hides keeps h, and its output is zero. `reverse` walks from the last
    step to the first.

    forward   (a, x), both [..., T, features] -> h [..., T, features]
    keeps     a and h (float32 where x has 16 bits)
    backward  dxₜ = dhₜ + aₜ₊₁ dxₜ₊₁, the same recurrence walked the other way;    daₜ = dxₜ hₜ₋₁
    dtypes    any float, one for a and x; h, da and dx have it, the walk is in float32 at least
    raises    LayerError where reverse is no bool, x is no pair of float arrays of one shape
              [..., T, features] and dtype, `context.mask` is not bool [..., T], or dh has not the
              shape and dtype of h
    source    Martin and Cundy, 2017, arXiv:1709.04057

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> a, x = jnp.full((3, 1), 0.5), jnp.ones((3, 1))
    >>> h, residuals = fp.LinearRecurrence().forward((), (a, x))
    >>> h.ravel()
    Array([1.  , 1.5 , 1.75], dtype=float32)
    """

    _: KW_ONLY
    reverse: bool = False

    def forward(
        self, params: tuple, x: Any, context: Context = Context()
    ) -> tuple[Array, LinearRecurrenceResiduals]:
        a, x, mask = self._input(x, context)
        if mask is not None:
            a, x = jnp.where(mask[..., None], a, 1), jnp.where(mask[..., None], x, 0)
        h = recurrence(widen(a), widen(x), self.reverse)
        y = h if mask is None else jnp.where(mask[..., None], h, 0)
        return y.astype(x.dtype), LinearRecurrenceResiduals(a, h, mask)

    def backward(
        self, params: tuple, residuals: LinearRecurrenceResiduals, dh: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        a, h, mask = residuals
        check_cotangent(self, dh, a.shape, a.dtype)
        if mask is not None:
            dh = jnp.where(mask[..., None], dh, 0)
        dx = recurrence(shift(widen(a), not self.reverse), widen(dh), not self.reverse)
        da = dx * shift(h, self.reverse)
        if mask is not None:
            da, dx = jnp.where(mask[..., None], da, 0), jnp.where(mask[..., None], dx, 0)
        return (da.astype(a.dtype), dx.astype(a.dtype)), ()

    def _input(self, x: Any, context: Context) -> tuple[Array, Array, Array | None]:
        if not isinstance(x, tuple) or len(x) != 2:
            raise LayerError(self, f"x is {spell(x)}, wanted a tuple (a, x)")
        for part in x:
            check_input(self, part, rank=2)
        a, x = x[0], x[1]
        if spell(a) != spell(x):
            raise LayerError(
                self,
                f"a is {spell(a)} and x {spell(x)}: shape and dtype must agree",
                "write jnp.broadcast_to(a, x.shape)",
            )
        mask = context.mask
        if mask is not None and (mask.shape != x.shape[:-1] or mask.dtype != bool):
            raise LayerError(
                self,
                f"context.mask is {spell(mask)}, wanted "
                f"bool[{', '.join(map(str, x.shape[:-1]))}]: one truth value for each step",
            )
        return a, x, mask


def shift(h: Array, reverse: bool) -> Array:
    """The value one step earlier in the walk, zero at its start."""
    zero = jnp.zeros_like(h[..., :1, :])
    parts = (h[..., 1:, :], zero) if reverse else (zero, h[..., :-1, :])
    return jnp.concatenate(parts, -2)


def recurrence(a: Array, x: Array, reverse: bool) -> Array:
    """h of hₜ = aₜ hₜ₋₁ + xₜ along the last axis but one."""

    def scanned(a: Array, x: Array) -> Array:
        def step(h: Array, inputs: tuple[Array, Array]) -> tuple[Array, Array]:
            h = inputs[0] * h + inputs[1]
            return h, h

        steps = (jnp.moveaxis(a, -2, 0), jnp.moveaxis(x, -2, 0))
        hs = jax.lax.scan(step, jnp.zeros_like(steps[1][0]), steps, reverse=reverse)[1]
        return jnp.moveaxis(hs, 0, -2)

    def associative(a: Array, x: Array) -> Array:
        def join(one: tuple[Array, Array], two: tuple[Array, Array]) -> tuple[Array, Array]:
            return one[0] * two[0], two[0] * one[1] + two[1]

        return jax.lax.associative_scan(join, (a, x), reverse=reverse, axis=x.ndim - 2)[1]

    return jax.lax.platform_dependent(a, x, cpu=scanned, default=associative)
