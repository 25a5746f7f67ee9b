"""trace: what every layer saw and sent in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.collectors.rule import Remembered, Rule
from funcprop.layer import Array, Context, Layer, Params, Residuals, is_float, widen


class Trace(NamedTuple):
    """One layer in one pass. Of a Dense x is a, y is z and dy is δ.

    x, y, dy, dx   its input and output, the cotangent it received, and the one it sent on: the
                   shapes and dtypes of the pass
    dparams        a tree like the layer's parameters
    norms          of x, y, dy, dx, params and dparams, by name: [] each, in float32 at least
    ratio          [] ‖dparams‖ / ‖params‖; times the learning rate, the share a step of SGD changes
    dead           [] float32: the share of features that pass nothing back, in no example
    saturated      [] float32: the share of entries that pass back less than a hundredth

    dead and saturated are those of activations, and 0 for other layers.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.collect(fp.Tanh(), fp.collectors.trace)
    >>> y, residuals = layer.forward((), jnp.array([[0.0, 4.0], [0.0, 4.0]]))
    >>> trace = jax.jit(layer.backward)((), residuals, jnp.ones_like(y))[1].value
    >>> trace.dx.shape, float(trace.dead), float(trace.saturated)
    ((2, 2), 0.0, 0.5)
    """

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
    """What every layer saw and sent: the rule `trace`. The record of a layer is a Trace.

    A parameter used several times has a record for every use.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.backprop(fp.collect(model, fp.collectors.trace), fp.SoftmaxCrossEntropy())
    >>> _, found = jax.jit(gradient)(params, (x, y))
    >>> for record in fp.collectors.records(found):
    ...     print(record.path, record.value.x.shape, record.value.dy.shape)
    Serial[0] Dense (4, 2) (4, 3)
    Serial[1] Tanh (4, 3) (4, 3)
    Serial[2] Dense (4, 3) (4, 2)
    """

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
    wide = max(
        (leaf.dtype for leaf in leaves), key=lambda d: d.itemsize, default=jnp.dtype(jnp.float32)
    )
    return jnp.sqrt(
        sum((jnp.square(leaf).sum().astype(wide) for leaf in leaves), jnp.zeros((), wide))
    )


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
