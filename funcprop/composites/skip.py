"""Skip: a layer's output added to its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from funcprop.composites.composite import Composite, add
from funcprop.layer import Array, Context, Layer, Params, Residuals


@dataclass(frozen=True, init=False, repr=False)
class Skip(Composite):
    """y = x + f(x), a residual connection (He et al., 2015).

    forward   x [...] -> y [...]; f keeps shape and dtype
    keeps     what f keeps
    backward  dx = dy + df(dy): x was used twice, so its gradients add
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)

    def init(self, key: Array, x: Any) -> Params:
        return self.init_each(key, (x,))

    def forward(
        self, params: Params, x: Array, context: Context = Context()
    ) -> tuple[Array, Residuals]:
        (y,), residuals = self.forward_each(params, (x,), context)
        return add(self, "x and f(x)", (x, y)), residuals

    def backward(self, params: Params, residuals: Residuals, dy: Array) -> tuple[Array, Params]:
        (dx,), dparams = self.backward_each(params, residuals, (dy,))
        return add(self, "dy and df(dy)", (dy, dx)), dparams
