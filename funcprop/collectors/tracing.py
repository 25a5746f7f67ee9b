"""trace: what every layer saw and sent in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.collectors.rule import Remembered, Rule
from funcprop.layer import Array, Context, Layer, Params, Residuals, is_float, widen


class Trace(NamedTuple):
    """One layer in one pass. Of a Dense x is a, y is z and dy is δ."""

    x: Any  # its input
    y: Any  # its output
    dy: Any  # the cotangent it received
    dx: Any  # and sent on
    dparams: Params
    norms: dict[str, Array]  # of x, y, dy, dx, params and dparams
    ratio: Array  # ‖dparams‖ / ‖params‖; times the learning rate, the share a step of SGD changes
    dead: Array  # the share of features that pass nothing back, in no example (no slope at all)
    saturated: Array  # the share of entries that pass back less than a hundredth


class Seen(NamedTuple):
    """What is remembered for it."""

    x: Any
    y: Any


@dataclass(frozen=True)
class Tracing(Rule):
    """The record of a layer is a Trace; a parameter used several times has one for every use."""

    separate: ClassVar[bool] = True

    def remember(
        self, layer: Layer, params: Params, x: Any, context: Context, y: Any, residuals: Residuals
    ) -> Any:
        return Seen(x, y)

    def __call__(
        self, layer: Layer, params: Params, residuals: Remembered, dy: Any
    ) -> tuple[Any, Trace]:
        x, y = residuals.extra
        dx, dparams = layer.backward(params, residuals.residuals, dy)
        parts = {"x": x, "y": y, "dy": dy, "dx": dx, "params": params, "dparams": dparams}
        norms = {name: norm(part) for name, part in parts.items()}
        tiny = jnp.finfo(norms["params"].dtype).tiny
        ratio = norms["dparams"] / jnp.maximum(norms["params"], tiny)
        dead, saturated = slopes(params, x, y, dy, dx)
        return dx, Trace(x, y, dy, dx, dparams, norms, ratio, dead, saturated)


def norm(tree: Any) -> Array:
    """√Σ of all squares in the tree, in float32 at least."""
    leaves = [widen(leaf) for leaf in jax.tree.leaves(tree) if is_float(leaf)]
    return jnp.sqrt(sum((jnp.square(leaf).sum() for leaf in leaves), jnp.float32(0)))


def slopes(params: Params, x: Any, y: Any, dy: Any, dx: Any) -> tuple[Array, Array]:
    """Of a layer without parameters that maps arrays of one shape, an activation: how many of its
    features, and entries, let no cotangent pass. 0 for all others."""
    same = is_float(x) and is_float(y) and x.shape == y.shape and x.ndim > 0
    if jax.tree.leaves(params) or not same:
        return jnp.float32(0), jnp.float32(0)
    asked, passed = jnp.abs(widen(dy)), jnp.abs(widen(dx))
    leading = tuple(range(x.ndim - 1))
    dead = (asked.max(leading) > 0) & (passed.max(leading) == 0)
    low = passed < 0.01 * asked
    return dead.mean(dtype=jnp.float32), low.mean(dtype=jnp.float32)


trace = Tracing()
