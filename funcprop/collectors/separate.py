"""Sharing that passes up the record of every use of a parameter, and combines none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax import lax

from funcprop.composites import Tied
from funcprop.composites.sharing import Sum
from funcprop.layer import Layer, Params, Residuals, inside


@dataclass(frozen=True)
class Apart(Sum):
    """What each step of `OverTime` leaves, stacked on axis 0 in place of the sum.

    A loop, not a batch of steps: XLA's CPU compiler (jaxlib 0.10.2) picks layouts for products
    stacked in this way that it then refuses to emit, and ends the process.
    """

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        return lax.map(step, each)


class Untied(Tied):
    """`Tied` with the records of every use, where they stand in the child."""

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        with inside(self, 0):
            dx, records = self.layers[0].backward(self._fill(params), residuals, dy)
        return dx, (records,)
