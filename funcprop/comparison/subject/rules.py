"""The derivative rules that stand in a function, as layers of a model that can be looked into."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax

from funcprop.comparison.subject.subject import Inner
from funcprop.layer import Context
from funcprop.lifting.tracing import with_rules

JAX = os.path.dirname(jax.__file__)


def rules_inside(function: Callable[..., Any], x: tuple[Any, ...]) -> Inner | None:
    """The calls of `jax.custom_vjp` and `jax.custom_jvp` functions that function(*x) makes, under
    `jit`, `scan`, `vmap`, `checkpoint`, `cond` and `shard_map`; None where there are none, or where
    they do not show.

    Where all of them are JAX's own, they are looked at only if the whole is wrong.
    """
    try:
        lifted = with_rules(function, x)
    except Exception:  # the whole is compared all the same
        return None
    if not lifted.calls or not all(call.real for call in lifted.calls):
        return None
    own = any(not call.defined.startswith(JAX) for call in lifted.calls)
    words = {f"{lifted.place_of(call)} {type(call).__name__}": call.words for call in lifted.calls}
    return Inner(lambda wrap: wrap(lifted, ()), (), x, Context(), words=words, always=own)
