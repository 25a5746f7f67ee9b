"""Serial: one layer after the other. This is the chain rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from funcprop.composites.composite import Composite
from funcprop.layer import Array, Context, Params, Residuals, inside, output_shape, two


@dataclass(frozen=True, init=False, repr=False)
class Serial(Composite):
    """y = fₙ(… f₂(f₁(x))).

    forward   x -> y, each child on the output of the one before
    keeps     what the children keep
    backward  dy -> dx, each child on the cotangent of the one after: the chain rule
    """

    def init(self, key: Array, x: Any) -> Params:
        params = []
        for position, layer in enumerate(self.layers):
            key, child_key = jax.random.split(key)
            with inside(self, position):
                params.append(layer.init(child_key, x))
                x = output_shape(layer, params[-1], x)
        return tuple(params)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        residuals = []
        contexts = context.split(len(self.layers))
        for position, p in enumerate(self.entries("params", params)):
            with inside(self, position):
                layer = self.layers[position]
                x, kept = two(layer, "forward", layer.forward(p, x, contexts[position]))
            residuals.append(kept)
        return x, tuple(residuals)

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        dparams = []
        params, residuals = self.entries("params", params), self.entries("residuals", residuals)
        for position, layer in reversed(tuple(enumerate(self.layers))):
            with inside(self, position):
                given = layer.backward(params[position], residuals[position], dy)
                dy, dp = two(layer, "backward", given)
            dparams.append(dp)
        return dy, tuple(reversed(dparams))
