"""Frozen: a layer that passes gradients on and takes none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax

from funcprop.composites import Rewired, RewiredParams
from funcprop.composites.rewired import checked
from funcprop.gradient import partition
from funcprop.layer import Context, Residuals, is_float
from funcprop.rewiring.rewirings import Rewiring


@dataclass(frozen=True)
class Frozen(Rewired):
    """A layer, or a whole composite, whose parameters have no gradient: not zeros, but None.

    Under `jit` nothing of them is computed, and the train step keeps no optimizer state for them.
    `jax.grad` of the forward gives them zeros.

    forward   x -> y, the layer's, any trees
    keeps     what the layer keeps
    backward  dx: the layer's    dparams = None
    dtypes    those of the layer

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.Frozen(fp.Dense(3))
    >>> x = jnp.arange(8.0).reshape(4, 2)
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = layer.forward(params, x)
    >>> dx, dparams = layer.backward(params, residuals, jnp.ones_like(z))
    >>> dx.shape, dparams
    ((4, 2), None)
    """

    trained: ClassVar[bool] = False

    def forward(
        self, params: RewiredParams, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        return super().forward(jax.lax.stop_gradient(params), x, context)

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        return self.layer.backward(params.params, residuals, dy)[0]

    def backward(
        self, params: RewiredParams, residuals: Residuals, dy: Any
    ) -> tuple[Any, RewiredParams | None]:
        floats = any(map(is_float, jax.tree.leaves(checked(self, params))))
        return self.send(params, residuals, dy), None if floats else partition(params)[0]


def frozen() -> Rewiring:
    """dparams = None: the layer keeps the parameters that it has.

    Returns a rewiring: a function from a layer to a Frozen around it.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> model = fp.Serial(fp.rewiring.frozen()(fp.Dense(3)), fp.Tanh(), fp.Dense(2))
    >>> params = model.init(jax.random.key(0), x)
    >>> _, grads = fp.backprop(model, fp.SoftmaxCrossEntropy())(params, (x, y))
    >>> jax.tree.map(jnp.shape, grads)
    (None, (), Affine(w=(3, 2), b=(2,)))
    """
    return Frozen
