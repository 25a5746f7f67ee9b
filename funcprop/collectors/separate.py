"""Composites that pass up the record of every use of a parameter, and do not combine them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop.composites import OverTime, Tied
from funcprop.layer import Params, Residuals, inside


class Stepwise(OverTime):
    """`OverTime` with the record of every step, stacked on axis 0, instead of their sum.

    A loop, not a batch of steps: XLA's CPU compiler (jaxlib 0.10.2) picks layouts for products
    stacked in this way that it then refuses to emit, and ends the process.
    """

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        (p,) = params

        def step(_: None, each: tuple[Residuals, Any]) -> tuple[None, tuple[Any, Any]]:
            with inside(self, 0):
                return None, self.layers[0].backward(p, *each)

        steps = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -2, 0), dy)
        _, (dx, records) = jax.lax.scan(step, None, (residuals, steps))
        return jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, -2), dx), (records,)


class Untied(Tied):
    """`Tied` with the records of every use, where they stand in the child."""

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        with inside(self, 0):
            dx, records = self.layers[0].backward(self._fill(params), residuals, dy)
        return dx, (records,)
