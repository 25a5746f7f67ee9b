"""Cotangents reversed, clipped, made noisy, or sent on as if the layer were not there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcprop.composites import Rewired, RewiredParams
from funcprop.doors import door
from funcprop.layer import (
    Array,
    Context,
    LayerError,
    Residuals,
    check_number,
    is_float,
    norm_of,
    spell,
    widen,
)
from funcprop.rewiring.randomness import key_from
from funcprop.rewiring.rewirings import Rewiring


@dataclass(frozen=True)
class StraightThrough(Rewired):
    """A layer that backward does not see: for functions whose derivative is zero or nothing.

    To stop errors where x is large, put HardTanh() before:
    Serial(HardTanh(), StraightThrough(layer)).

    forward   x [...] -> y [...], the layer's, of one shape and dtype
    keeps     what the layer keeps
    backward  dx = dy    dparams: the layer's own
    dtypes    y and dx have that of x, dparams those of the layer

    raises  LayerError where x and y are no floats of one shape and dtype
    source  Bengio, Léonard, Courville 2013, arXiv:1308.3432

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.StraightThrough(fp.ReLU())
    >>> x = jnp.array([[-1.0, 2.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> y.tolist(), layer.backward(params, residuals, jnp.ones_like(y))[0].tolist()
    ([[0.0, 2.0]], [[1.0, 1.0]])
    """

    def forward(
        self, params: RewiredParams, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        y, residuals = super().forward(params, x, context)
        if not is_float(x) or not is_float(y) or (x.shape, x.dtype) != (y.shape, y.dtype):
            raise LayerError(
                self,
                f"x is {spell(x)} and y {spell(y)}: dy fits x only where shape and dtype agree",
            )
        return y, residuals

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        return dy


@dataclass(frozen=True)
class Reversed(Rewired):
    """A layer before which everything learns the opposite.

    Around the first layer of a second head it makes features that this head cannot use.

    factor    what dx is multiplied with, and turned: at least 0

    forward   x -> y, the layer's, any trees
    keeps     what the layer keeps
    backward  dx = −factor · the layer's dx    dparams: the layer's own
    dtypes    those of the layer

    raises  LayerError for a factor below 0
    source  Ganin, Lempitsky 2015, arXiv:1409.7495

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.Reversed(fp.ReLU(), factor=0.5)
    >>> x = jnp.array([[-1.0, 2.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> layer.backward(params, residuals, jnp.ones_like(y))[0][0, 1].item()
    -0.5
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        check_number(self, "factor", self.factor, 0)

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        dx, _ = self.layer.backward(params.params, residuals, dy)
        return jax.tree.map(lambda leaf: -self.factor * leaf, dx)


@dataclass(frozen=True)
class Clipped(Rewired):
    """A layer that sends back no more than a limit. One of the two is given:

    max_norm  the norm of all of dx, whole batch: longer ones are scaled down to it
    max_abs   the size of each number

    forward   x -> y, the layer's, any trees
    keeps     what the layer keeps
    backward  dx: the layer's, scaled or clipped    dparams: the layer's own
    dtypes    those of the layer; the norm is taken in float32 at least

    raises  LayerError where not one of the two is given, or it is not positive
    source  the norm: Pascanu, Mikolov, Bengio 2013, arXiv:1211.5063

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.Clipped(fp.Identity(), max_abs=1.0)
    >>> x = jnp.array([[-1.0, 2.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> layer.backward(params, residuals, jnp.array([[3.0, -0.5]]))[0].tolist()
    [[1.0, -0.5]]
    """

    max_norm: float | None = None
    max_abs: float | None = None

    linear: ClassVar[bool] = False

    @property
    def mixes(self) -> bool:
        return self.max_norm is not None

    def __post_init__(self) -> None:
        if (self.max_norm is None) == (self.max_abs is None):
            raise LayerError(
                self,
                f"max_norm is {self.max_norm} and max_abs {self.max_abs}, wanted one of the two",
                "write clip_cotangent(max_norm=1.0)",
            )
        for name in ("max_norm", "max_abs"):
            if getattr(self, name) is not None:
                check_number(self, name, getattr(self, name), 1e-30)

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        dx, _ = self.layer.backward(params.params, residuals, dy)
        if (limit := self.max_abs) is not None:
            return jax.tree.map(lambda leaf: leaf.clip(-limit, limit), dx)
        assert self.max_norm is not None
        scale = jnp.minimum(1, self.max_norm / norm_of(dx))
        return jax.tree.map(lambda leaf: (widen(leaf) * scale).astype(leaf.dtype), dx)


@dataclass(frozen=True)
class Noisy(Rewired):
    """A layer that sends back its dx plus stddev · ε, ε ~ N(0, 1) for each number.

    backward has no key, so ε is drawn from one that is computed from the bits of dx: the same dx
    gets the same noise, any other gets another. A batch draws other numbers than its examples
    would one at a time, and another program, which rounds dx otherwise, other numbers too.

    stddev    at least 0

    forward   x -> y, the layer's, any trees
    keeps     what the layer keeps
    backward  dx: the layer's plus noise; not linear in dy    dparams: the layer's own
    dtypes    those of the layer; ε is drawn in float32 and rounded to that of dx

    raises  LayerError for a stddev below 0

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.rewiring.Noisy(fp.Identity(), stddev=0.1)
    >>> x = jnp.array([[-1.0, 2.0]])
    >>> params = layer.init(jax.random.key(0), x)
    >>> y, residuals = layer.forward(params, x)
    >>> backward = jax.jit(layer.backward)
    >>> dx, again = (backward(params, residuals, jnp.ones_like(y))[0] for _ in range(2))
    >>> dx.tolist() == again.tolist(), dx.tolist() == [[1.0, 1.0]]
    (True, False)
    """

    stddev: float

    linear: ClassVar[bool] = False

    @property
    def mixes(self) -> bool:
        return True

    def __post_init__(self) -> None:
        check_number(self, "stddev", self.stddev, 0)

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        dx, _ = self.layer.backward(params.params, residuals, dy)
        leaves, tree = jax.tree.flatten(dx)
        keys = jax.random.split(key_from(dx), max(len(leaves), 1))

        def noisy(leaf: Array, key: Array) -> Array:
            noise = jax.random.normal(key, leaf.shape, jnp.float32)
            return leaf + (self.stddev * noise).astype(leaf.dtype)

        return jax.tree.unflatten(tree, map(noisy, leaves, keys))


def straight_through() -> Rewiring:
    """dx = dy: the layer is computed forward, and not seen backward.

    Returns a rewiring: a function from a layer to a StraightThrough around it.

    source  Bengio, Léonard, Courville 2013, arXiv:1308.3432

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Binarize(), fp.Dense(2))
    >>> fp.rewire(model, {fp.Binarize: fp.rewiring.straight_through()})
    Serial(Dense(3), StraightThrough(Binarize()), Dense(2))
    """
    return StraightThrough


@door
def gradient_reversal(factor: float = 1.0) -> Rewiring:
    """dx times −factor: what stands before learns the opposite.

    factor   at least 0

    Returns a rewiring: a function from a layer to a Reversed around it.

    raises  LayerError, from `rewire`, for another factor
    source  Ganin, Lempitsky 2015, arXiv:1409.7495

    >>> import funcprop as fp
    >>> features = fp.Serial(fp.Dense(3), fp.Tanh())
    >>> domain = fp.rewire(fp.Serial(fp.Dense(2)), {fp.Dense: fp.rewiring.gradient_reversal(0.1)})
    >>> fp.Serial(features, fp.Branch(fp.Dense(10), domain))  # features that tell no domain
    Serial(Serial(Dense(3), Tanh()), Branch(Dense(10), Serial(Reversed(Dense(2), factor=0.1))))
    """
    return functools.partial(Reversed, factor=factor)


@door
def clip_cotangent(max_norm: float | None = None, max_abs: float | None = None) -> Rewiring:
    """dx of at most this norm, or of numbers of at most this size.

    max_norm  positive: of all of dx, whole batch
    max_abs   positive: of each number

    Returns a rewiring: a function from a layer to a Clipped around it.

    raises  LayerError, from `rewire`, where not one of the two is given

    >>> import funcprop as fp
    >>> fp.rewire(fp.Serial(fp.Dense(3), fp.Tanh()), {fp.Dense: fp.rewiring.clip_cotangent(1.0)})
    Serial(Clipped(Dense(3), max_norm=1.0), Tanh())
    """
    return functools.partial(Clipped, max_norm=max_norm, max_abs=max_abs)


@door
def noisy_cotangent(stddev: float) -> Rewiring:
    """dx plus N(0, stddev²).

    stddev   at least 0

    Returns a rewiring: a function from a layer to a Noisy around it.

    raises  LayerError, from `rewire`, for another stddev

    >>> import funcprop as fp
    >>> fp.rewire(fp.Serial(fp.Dense(3), fp.Tanh()), {fp.Tanh: fp.rewiring.noisy_cotangent(0.1)})
    Serial(Dense(3), Noisy(Tanh(), stddev=0.1))
    """
    return functools.partial(Noisy, stddev=stddev)
