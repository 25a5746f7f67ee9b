"""StochasticDepth: a branch that is left out at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.composites.composite import Composite
from funcprop.layer import (
    Array,
    Context,
    Layer,
    Params,
    Residuals,
    check_cotangent,
    check_input,
    check_rate,
    inside,
)


class DepthResiduals(NamedTuple):
    """What StochasticDepth keeps."""

    layer: Residuals  # what the layer keeps
    kept: Array | None  # bool [examples, 1, ...], or None at rate 0, where nothing is drawn


@dataclass(frozen=True, init=False, repr=False)
class StochasticDepth(Composite):
    """y = f(x) · kept / (1 − rate), where `kept` is drawn once per example (Huang et al., 2016).

    Inside `Skip` it leaves out a residual branch: `Skip(StochasticDepth(f, 0.1))`. Axis 0 of f(x)
    is the example axis; an output of one axis is one example's. A single example with more axes
    than one needs a batch axis of size 1, or `jax.vmap`. Needs `context.key`; a batch draws other
    numbers than its examples would one at a time. `fp.inference` replaces it by f.

    forward   x -> y [examples, ...]
    keeps     what f keeps, and kept
    backward  f backward of dy · kept / (1 − rate)
    dtypes    any float; y has that of f(x)
    raises    LayerError where rate is not in [0, 1], params is no tuple of one, f(x) is not a float
              array, there is no key, or dy has not the examples of y; f's own errors, with their
              place in the model
    source    Huang, Sun, Liu, Sedra and Weinberger, 2016, arXiv:1603.09382

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.StochasticDepth(fp.Identity(), 0.5), jnp.ones((100, 3))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x, fp.Context(key=jax.random.key(1)))
    >>> sorted(set(y[:, 0].tolist())), residuals.kept.shape
    ([0.0, 2.0], (100, 1))
    """

    rate: float

    def __init__(self, layer: Layer, rate: float) -> None:
        object.__setattr__(self, "rate", rate)
        super().__init__(layer)
        check_rate(self, rate)

    def __repr__(self) -> str:
        return f"StochasticDepth({self.layers[0]!r}, {self.rate!r})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return StochasticDepth(*layers, rate=self.rate)

    def init(self, key: Array, x: Any) -> Params:
        return self.init_each(key, (x,))

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Array, DepthResiduals]:
        (p,) = self.entries("params", params)
        own, child = context.split(2)
        with inside(self, 0):
            y, residuals = self.layers[0].forward(p, x, child)
        check_input(self, y)
        if self.rate == 0:
            return y, DepthResiduals(residuals, None)
        shape = (y.shape[0], *(1,) * (y.ndim - 1)) if y.ndim > 1 else ()
        kept = jax.random.bernoulli(own.key_for(self), jnp.float32(1 - self.rate), shape)
        return self._masked(y, kept), DepthResiduals(residuals, kept)

    def backward(self, params: Params, residuals: DepthResiduals, dy: Array) -> tuple[Any, Params]:
        (p,) = self.entries("params", params)
        if residuals.kept is not None:
            if residuals.kept.ndim:
                shape = (residuals.kept.shape[0], *dy.shape[1:])
                check_cotangent(self, dy, shape, dy.dtype)
            dy = self._masked(dy, residuals.kept)
        with inside(self, 0):
            dx, dp = self.layers[0].backward(p, residuals.layer, dy)
        return dx, (dp,)

    def _masked(self, y: Array, kept: Array) -> Array:
        if self.rate == 1:
            return jnp.zeros_like(y)
        return jnp.where(kept, y / (1 - self.rate), 0)

    def statistics(self, residuals: DepthResiduals) -> Any:
        return super().statistics((residuals.layer,))

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        (p,) = self.entries("params", params)
        (found,) = ((),) if statistics == () else self.entries("statistics", statistics)
        with inside(self, 0):
            return self.layers[0].inference(p, found)
