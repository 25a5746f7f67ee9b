"""Frozen: a layer that passes gradients on and takes none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from funcprop.composites import Rewired, RewiredParams
from funcprop.composites.rewired import checked
from funcprop.layer import Residuals
from funcprop.rewiring.rewire import Rewiring


@dataclass(frozen=True)
class Frozen(Rewired):
    """A layer, or a whole composite, whose parameters have no gradient: not zeros, but None.

    Under `jit` nothing of them is computed, and the train step keeps no optimizer state for them.

    forward   x -> y, the layer's
    keeps     what the layer keeps
    backward  dx: the layer's    dparams = None
    """

    trained: ClassVar[bool] = False

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        return self.layer.backward(params.params, residuals, dy)[0]

    def backward(
        self, params: RewiredParams, residuals: Residuals, dy: Any
    ) -> tuple[Any, RewiredParams | None]:
        return self.send(checked(self, params), residuals, dy), None


def frozen() -> Rewiring:
    """dparams = None: the layer keeps the parameters that it has."""
    return Frozen
