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
    dtypes    any float; y and dx have that of x
    raises    LayerError where f(x) has not the shape and dtype of x; f's own errors, with their
              place in the model
    source    He, Zhang, Ren and Sun, 2015, arXiv:1512.03385

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Skip(fp.Tanh()), jnp.zeros((1, 2))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> model.backward(params, residuals, jnp.ones((1, 2)))[0]
    Array([[2., 2.]], dtype=float32)
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
