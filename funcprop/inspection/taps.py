"""Taps: zeros that are added to the output of every layer, so that `jax.grad` of them is δ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.composites import Composite, Wrapper
from funcprop.composites.sharing import NOTHING
from funcprop.layer import Array, Context, Layer, Params, Residuals, is_float, output_shape
from funcprop.lifting.traceable import Traceable


class TappedParams(NamedTuple):
    """What a tapped layer owns."""

    params: Params
    tap: Any  # zeros like the output, None for what is no float


@dataclass(frozen=True)
class Tapped(Wrapper):
    """A layer whose output has zeros added to it that count as its parameters."""

    def own_params(self, params: TappedParams) -> Params:
        return params.params

    def init(self, key: Array, x: Any) -> TappedParams:
        params = self.layer.init(key, x)
        return TappedParams(params, zeros_like(output_shape(self.layer, params, x)))

    def forward(
        self, params: TappedParams, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        y, residuals = super().forward(params, x, context)
        return jax.tree.map(added, y, params.tap), residuals

    def backward(self, params: TappedParams, residuals: Residuals, dy: Any) -> tuple[Any, Any]:
        dx, dparams = super().backward(params, residuals, dy)
        return dx, TappedParams(dparams, dy)


def zeros_like(y: Any) -> Any:
    """Zeros for the floats of a tree, of which shapes are enough; None for the rest."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) if is_float(x) else None, y)


def added(y: Array, tap: Array | None) -> Array:
    """y, and a tap where there is one."""
    return y if tap is None else y + tap


def tapped(layer: Layer, params: Params, outputs: Sequence[Any]) -> tuple[Layer, Params]:
    """The model with a tap after every leaf, and its parameters with the taps' zeros.

    outputs  of the leaves, in the order of their records, of which shapes are enough; None of one
             that is to have no tap

    A composite that uses parameters several times, or gives them on in another form, is left as it
    is: what is added to them has no place of its own.
    """
    given = list(outputs)
    found = _tapped(layer, params, given)
    assert not given, "every output belongs to a leaf"
    return found


def _tapped(layer: Layer, params: Params, outputs: list[Any]) -> tuple[Layer, Params]:
    if not isinstance(layer, Composite):
        y = outputs.pop(0)
        if y is None:  # of a frozen layer nothing is recorded
            return layer, params
        return Tapped(layer), TappedParams(params, zeros_like(y))
    if not is_plain(layer):
        del outputs[: leaves_in(layer)]
        return layer, params
    children = [
        _tapped(child, entry, outputs)
        for child, entry in zip(layer.layers, layer.spread(params), strict=True)
    ]
    layers, entries = zip(*children, strict=True) if children else ((), ())
    return layer.rebuild(tuple(layers)), layer.gathered(params, tuple(entries))


def is_plain(layer: Composite) -> bool:
    """Whether its children run as they are, and use each parameter once, as it stands."""
    runs = not isinstance(layer, Traceable)  # a function that was lifted runs as a whole
    return runs and layer.reused == NOTHING and not layer.owns and not layer.converts


def leaves_in(layer: Layer) -> int:
    """How many leaves a layer has."""
    return sum(map(leaves_in, layer.layers)) if isinstance(layer, Composite) else 1


def taps_in(layer: Layer, dparams: Params) -> list[Any]:
    """What `jax.grad` says of the taps: (dparams, δ) of every leaf in order, None without a tap."""
    if not isinstance(layer, Composite):
        return [(dparams.params, dparams.tap)] if isinstance(dparams, TappedParams) else [None]
    if not is_plain(layer):
        return [None] * leaves_in(layer)
    entries = zip(layer.layers, layer.spread(dparams), strict=True)
    return [found for child, entry in entries for found in taps_in(child, entry)]
