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

    forward   x -> y: any trees, for example [..., in] -> [..., out]; each child reads the output of
              the one before
    keeps     what the children keep
    backward  dy -> dx, each child on the cotangent of the one after: the chain rule
    dtypes    those of the children
    raises    LayerError where an entry is no layer, or params or residuals are no tuple with one
              entry a child; a child's own errors, with its place in the model
    source    Nielsen, Neural Networks and Deep Learning, chapter 2

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Serial(fp.Dense(3), fp.Sigmoid(), fp.Dense(2)), jnp.ones((8, 4))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> dx, dparams = model.backward(params, residuals, jnp.ones((8, 2)))
    >>> y.shape, dx.shape, dparams[2].w.shape
    ((8, 2), (8, 4), (3, 2))
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
