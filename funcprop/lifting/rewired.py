"""A lifted function in which uses of parameters send back something else: see `rewire`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from funcprop.composites import Rewired, RewiredParams, Wrapper
from funcprop.composites.rewired import zeros
from funcprop.layer import Layer, LayerError, is_float, spell
from funcprop.lifting.plan import Use
from funcprop.lifting.weight import At, Function


def rewiring_of(layer: Layer) -> Rewired | None:
    """The rewiring around a weight, if there is one."""
    while isinstance(layer, Wrapper):
        if isinstance(layer, Rewired):
            return layer
        layer = layer.layer
    return None


def instead(use: Use, rewired: Rewired, feedback: Any) -> Callable[..., list[Any]]:
    """(weight, operands) -> the outputs of a use, that sends back what its rewiring says."""
    function = Function(use.function, use.position)

    @jax.custom_vjp
    def called(weight: Any, operands: list[Any]) -> list[Any]:
        return function(weight, operands)

    def forward(weight: Any, operands: list[Any]) -> Any:
        return function(weight, operands), (weight, operands)

    def backward(kept: Any, dys: list[Any]) -> Any:
        weight, operands = kept
        (dy,) = dys
        given = RewiredParams(weight, feedback)
        dx, dparams = rewired.backward(given, At(operands, function), dy)
        dx = dx if isinstance(dx, (list, tuple)) else [dx]  # straight through
        rows = zip(dx, operands, strict=True) if len(dx) == len(operands) else ()
        fits = [d is None or d.shape == x.shape for d, x in rows if is_float(x)]
        if not fits or not all(fits):
            raise LayerError(
                rewired,
                f"sends back {spell(dx)} where {use.eqn.primitive.name} at {use.source} reads "
                f"{spell(list(operands))}",
                "take another rewiring, or another parameter",
            )
        sent = [d if is_float(x) else None for d, x in zip(dx, operands, strict=True)]
        own = None if dparams is None else dparams.params
        return own, sent

    called.defvjp(forward, backward)
    return called


def entry(rewired: Rewired, params: RewiredParams, gradient: Any) -> RewiredParams | None:
    """What stands in dparams for a rewired parameter."""
    if not rewired.trained:
        return None
    return RewiredParams(gradient, zeros(params.feedback))
