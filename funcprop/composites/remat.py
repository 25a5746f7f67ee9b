"""Remat: remember less, and run forward again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from jax import lax

from funcprop.composites.composite import Composite
from funcprop.layer import Array, Context, Layer, Params, inside


class RematResiduals(NamedTuple):
    """What Remat keeps."""

    x: Any  # the input: forward runs again from it
    context: Context  # the same key draws the same numbers again
    statistics: Any  # what the layer observed: its own residuals are gone


@dataclass(frozen=True, init=False, repr=False)
class Remat(Composite):
    """y = f(x), remembered by its input alone: less memory for a second forward pass.

    Inside `Repeat` the memory falls on every device. On its own a CPU gains nothing: XLA undoes
    the separation there, and the two forward passes become one again.

    forward   x -> y, any trees, for example [..., in] -> [..., out]
    keeps     x and the context, and what f observed; nothing of f's residuals
    backward  f forward once more, then f backward: dx, dparams
    dtypes    those of f
    raises    LayerError where params is no tuple of one; f's own errors, with their place in the
              model
    source    Chen, Xu, Zhang and Guestrin, 2016, arXiv:1604.06174

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Remat(fp.Serial(fp.Dense(30), fp.Tanh())), jnp.ones((8, 4))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> y.shape, jax.tree.map(jnp.shape, residuals)
    ((8, 30), RematResiduals(x=(8, 4), context=Context(key=None, mask=None), statistics=()))
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)

    def init(self, key: Array, x: Any) -> Params:
        return self.init_each(key, (x,))

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, RematResiduals]:
        (p,) = self.entries("params", params)
        with inside(self, 0):
            y, kept = self.layers[0].forward(p, x, context)
        return y, RematResiduals(x, context, super().statistics((kept,)))

    def backward(self, params: Params, residuals: RematResiduals, dy: Any) -> tuple[Any, Params]:
        (p,) = self.entries("params", params)
        # without the barrier XLA would see that both passes compute the same, and keep the first;
        # dy passes it too, so that the second pass cannot start before its turn
        x, context, dy = lax.optimization_barrier((residuals.x, residuals.context, dy))
        with inside(self, 0):
            _, kept = self.layers[0].forward(p, x, context)
            dx, dp = self.layers[0].backward(p, kept, dy)
        return dx, (dp,)

    def statistics(self, residuals: RematResiduals) -> Any:
        return residuals.statistics
