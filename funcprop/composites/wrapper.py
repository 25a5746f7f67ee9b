"""Wrapper: what every layer around one other layer passes on to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from funcprop.layer import Array, Context, Layer, Params, Residuals


@dataclass(frozen=True)
class Wrapper(Layer):
    """A layer around one other, which is that layer wherever a subclass does not say otherwise.

    A subclass with parameters or residuals besides those of the layer says in `own_params` and
    `own_residuals` which are the layer's. To what walks the tree of layers a wrapper is a leaf;
    a composite of one child is a `Composite`.

    forward   x -> y, the layer's, any trees, for example [..., in] -> [..., out]
    keeps     what the layer keeps
    backward  dx, dparams: the layer's
    dtypes    those of the layer
    raises    the layer's own errors

    >>> from dataclasses import dataclass
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> @dataclass(frozen=True)
    ... class Doubled(fp.composites.Wrapper):
    ...     def backward(self, params, residuals, dy):
    ...         return super().backward(params, residuals, 2 * dy)
    >>> model, x = Doubled(fp.Tanh()), jnp.zeros(1)
    >>> y, residuals = model.forward((), x)
    >>> y, model.backward((), residuals, jnp.ones(1))[0]
    (Array([0.], dtype=float32), Array([2.], dtype=float32))
    """

    layer: Layer

    def own_params(self, params: Params) -> Params:
        """The layer's own among the parameters."""
        return params

    def own_residuals(self, residuals: Residuals) -> Residuals:
        """What the layer keeps, among the residuals."""
        return residuals

    def init(self, key: Array, x: Any) -> Params:
        return self.layer.init(key, x)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        return self.layer.forward(self.own_params(params), x, context)

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        return self.layer.backward(self.own_params(params), self.own_residuals(residuals), dy)

    def statistics(self, residuals: Residuals) -> Any:
        return self.layer.statistics(self.own_residuals(residuals))

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        """The layer itself, as it predicts."""
        return self.layer.inference(self.own_params(params), statistics)
