"""Cotangents reversed, clipped, made noisy, or sent on as if the layer were not there."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcprop.composites import Rewired, RewiredParams
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

    The straight-through estimator (Bengio, Léonard and Courville, 2013). To stop errors where x
    is large, put HardTanh() before: Serial(HardTanh(), StraightThrough(layer)).

    forward   x [...] -> y [...], the layer's, of one shape and dtype
    keeps     what the layer keeps
    backward  dx = dy    dparams: the layer's own
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
    """A layer before which everything learns the opposite (Ganin and Lempitsky, 2015).

    Around the first layer of a second head it makes features that this head cannot use.

    forward   x -> y, the layer's
    keeps     what the layer keeps
    backward  dx = −factor · the layer's dx    dparams: the layer's own
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

    forward   x -> y, the layer's
    keeps     what the layer keeps
    backward  dx: the layer's, scaled or clipped    dparams: the layer's own
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

    forward   x -> y, the layer's
    keeps     what the layer keeps
    backward  dx: the layer's plus noise; not linear in dy    dparams: the layer's own
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
    """dx = dy: the layer is computed forward, and not seen backward."""
    return StraightThrough


def gradient_reversal(factor: float = 1.0) -> Rewiring:
    """dx times −factor: what stands before learns the opposite."""
    return functools.partial(Reversed, factor=factor)


def clip_cotangent(max_norm: float | None = None, max_abs: float | None = None) -> Rewiring:
    """dx of at most this norm, or of numbers of at most this size."""
    return functools.partial(Clipped, max_norm=max_norm, max_abs=max_abs)


def noisy_cotangent(stddev: float) -> Rewiring:
    """dx plus N(0, stddev²)."""
    return functools.partial(Noisy, stddev=stddev)
