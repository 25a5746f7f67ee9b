"""LastStep: where a sequence ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Shape,
    check_cotangent,
    check_input,
    spell,
)


class LastStepResiduals(NamedTuple):
    """What LastStep keeps."""

    steps: Shape  # T
    chosen: Array | None  # bool [..., T]: the last step that counts, where a mask was given


@dataclass(frozen=True)
class LastStep(Layer):
    """y = the last step of x: where there is a mask, the last one that it shows.

    A sequence of which nothing is shown gives zeros, the state before its first step.

    forward   x [..., T, features] -> y [..., features]
    keeps     T, and which step it was where there is a mask
    backward  dx = dy at that step, 0 elsewhere
    dtypes    any float; y and dx have that of x
    raises    LayerError where x is not a float array [..., T, features], `context.mask` is not of
              the shape [..., T], or, under a mask, dy not of that of y

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> x = jnp.array([[1.0], [2.0], [3.0]])
    >>> fp.LastStep().forward((), x)[0]
    Array([3.], dtype=float32)
    >>> mask = jnp.array([True, True, False])
    >>> fp.LastStep().forward((), x, fp.Context(mask=mask))[0]
    Array([2.], dtype=float32)
    """

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, LastStepResiduals]:
        check_input(self, x, rank=2)
        steps = x.shape[-2]
        if context.mask is None:
            return x[..., -1, :], LastStepResiduals(Shape((steps,)), None)
        if context.mask.shape != x.shape[:-1]:
            wanted = ", ".join(map(str, x.shape[:-1]))
            raise LayerError(self, f"context.mask is {spell(context.mask)}, wanted bool[{wanted}]")
        number = jnp.arange(1, steps + 1, dtype=jnp.int32)
        shown = jnp.where(context.mask, number, 0)
        chosen = context.mask & (shown == shown.max(-1, keepdims=True))
        y = jnp.where(chosen[..., None], x, 0).sum(-2)
        return y, LastStepResiduals(Shape((steps,)), chosen)

    def backward(
        self, params: tuple, residuals: LastStepResiduals, dy: Array
    ) -> tuple[Array, tuple]:
        check_input(self, dy, rank=1)
        (steps,) = residuals.steps.sizes
        chosen = residuals.chosen
        if chosen is None:
            before = [(0, 0)] * (dy.ndim - 1) + [(steps - 1, 0), (0, 0)]
            return jnp.pad(dy[..., None, :], before), ()
        check_cotangent(self, dy, (*chosen.shape[:-1], dy.shape[-1]), dy.dtype)
        return jnp.where(chosen[..., None], dy[..., None, :], 0), ()
