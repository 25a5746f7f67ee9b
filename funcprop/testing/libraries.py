"""What is known of libraries that make a rule of JAX's of one of their own.

equinox.filter_custom_vjp   differentiates its first argument alone, and raises at all others
flax.nnx.custom_vjp         ties its function to the call that was, and returns its arguments too:
                            the two halves can be called again
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.testing.places import underlying
from funcprop.testing.seen import Slot, parameters

EQUINOX = "diff_array_vjp_arg"  # what equinox calls the floats of the first argument


def is_differentiated(rule: Any, slot: Slot) -> bool:
    """Whether there is a gradient with respect to an argument of the rule."""
    words = parameters(rule.fun)
    return EQUINOX not in words or slot == words.index(EQUINOX)


def argument_names(rule: Any) -> tuple[str, ...]:
    """Of a function (*args) that was made of another, the other's."""
    words = parameters(rule.fun)
    if words[:1] == ("args",):
        return parameters(underlying(rule.fun))
    first = parameters(underlying(rule.fun))[:1]
    return tuple(first[0] if word == EQUINOX and first else word for word in words)


def is_nnx(rule: Any) -> bool:
    """Whether it was made by flax.nnx.custom_vjp."""
    kind = type(rule.fun)
    return kind.__module__.startswith("flax.nnx") and kind.__name__ == "CustomVjpFnWrapper"


def halves(rule: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Of a rule of flax.nnx, forward(*args) -> y, kept and backward(kept, dy, *options) ->
    cotangents. What is sent to the arguments that it returns is zero: it may change them, and rules
    leave that out."""

    def forward(*args: Any, **named: Any) -> tuple[Any, Any]:
        (changed, y), kept = rule.fwd(*args, **named)
        return y, (kept, jax.tree.map(jnp.zeros_like, changed))

    def backward(kept: Any, dy: Any, *options: Any) -> tuple[Any, ...]:
        return rule.bwd(*options, kept[0], (kept[1], dy))

    return forward, backward
