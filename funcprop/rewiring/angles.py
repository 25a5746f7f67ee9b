"""How far rewired gradients point away from the true ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.composites import Composite, Rewired
from funcprop.doors import door
from funcprop.gradient import backprop
from funcprop.layer import Array, Context, Layer, Params, norm_of, widen
from funcprop.rewiring.direct import DirectFeedback


@door
def alignment(model: Layer, loss: Layer | None = None) -> Callable[..., dict[str, Array]]:
    """(params, batch, context=Context()) -> {parameter: degrees}: how far off its gradient is.

    model    a rewired model; `loss` as in `backprop`
    degrees  [] each, in float32 at least

    The angle lies between the gradient that the rewired model takes and that of the same model
    without its rewirings, at the same parameters and under the same key: 0 is the gradient, 90 says
    nothing about it. Parameters are named by their path without rewirings: "[2].w". Frozen ones are
    left out, and a gradient of zeros has the angle NaN. Under `Repeat` all steps have one angle.

    raises  what `backprop` raises
    source  the angle in place of the gradient: Lillicrap et al. 2016, arXiv:1411.0247; how it is
            computed: Kahan 2006

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> rewired = fp.rewire(model, {fp.Tanh: fp.rewiring.gradient_reversal()})
    >>> params = rewired.init(jax.random.key(0), x)
    >>> angles = fp.rewiring.alignment(rewired, fp.SoftmaxCrossEntropy())(params, (x, y))
    >>> {name: round(float(angle)) for name, angle in angles.items()}
    {'[0].w': 180, '[0].b': 180, '[2].w': 0, '[2].b': 0}
    """

    def angles(params: Params, batch: Any, context: Context = Context()) -> dict[str, Array]:
        plain, own = without_rewirings(model, params)
        _, found = backprop(model, loss)(params, batch, context)
        _, exact = backprop(plain, loss)(own, batch, context)
        ours = named(without_rewirings(model, found)[1])
        return {
            name: angle(ours[name], leaf) for name, leaf in named(exact).items() if name in ours
        }

    return angles


def without_rewirings(layer: Layer, params: Params) -> tuple[Layer, Params]:
    """The layer without its rewirings, and its parameters, or anything of their structure."""
    if isinstance(layer, Rewired):
        return without_rewirings(layer.layer, None if params is None else params.params)
    if isinstance(layer, DirectFeedback):
        layer, params = layer.serial, params.params
    if isinstance(layer, Composite):
        given = (None,) * len(layer.layers) if params is None else params
        pairs = [without_rewirings(*pair) for pair in zip(layer.layers, given, strict=True)]
        return layer.rebuild(tuple(child for child, _ in pairs)), tuple(p for _, p in pairs)
    return layer, params


def named(tree: Any) -> dict[str, Array]:
    """The leaves by their paths: {"[2].w": ...}."""
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def angle(a: Array, b: Array) -> Array:
    """Degrees between two arrays, exact for small angles too (Kahan, 2006)."""
    a, b = (widen(array).ravel() for array in (a, b))
    a, b = a / norm_of(a), b / norm_of(b)
    return jnp.degrees(2 * jnp.arctan2(norm_of(a - b), norm_of(a + b)))
