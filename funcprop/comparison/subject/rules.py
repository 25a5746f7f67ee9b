"""The derivative rules that stand in a function, as layers of a model that can be looked into."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from funcprop.comparison.subject.subject import Inner
from funcprop.comparison.subject.without_rules import CALLS, RULES, traced
from funcprop.layer import Context
from funcprop.lifting.jaxprs import closed
from funcprop.lifting.tracing import with_rules

JAX = os.path.dirname(jax.__file__)


def rules_inside(function: Callable[..., Any], x: tuple[Any, ...]) -> Inner | None:
    """The calls of `jax.custom_vjp` and `jax.custom_jvp` functions that function(*x) makes, under
    `jit`, `scan`, `vmap` and `checkpoint`; None where there are none, or where they do not show.

    Where all of them are JAX's own, they are looked at only if the whole is wrong.
    """
    try:
        lifted = with_rules(function, x)
    except Exception:  # the whole is compared all the same
        return None
    if not lifted.calls or not all(call.real for call in lifted.calls):
        return None
    own = any(not call.defined.startswith(JAX) for call in lifted.calls)
    if len(lifted.calls) == 1 and (plain := the_only(function, x)):
        inner = rules_inside(plain, x) if lifted.calls[0].calls else None
        nested = None if inner is None else inner._replace(always=False)
        return Inner(lambda wrap: wrap(lifted, ()), (), x, Context(), whole=True, nested=nested,
                     words={"": lifted.calls[0].words}, always=own)  # fmt: skip
    words = {f"{lifted.place_of(call)} {type(call).__name__}": call.words for call in lifted.calls}
    return Inner(lambda wrap: wrap(lifted, ()), (), x, Context(), words=words, always=own)


def the_only(function: Callable[..., Any], x: tuple[Any, ...]) -> Callable[..., Any] | None:
    """What the call of a rule computes, where function(*x) is that call and nothing else."""
    jaxpr = traced(function, x)[0].jaxpr
    while len(jaxpr.eqns) == 1 and not jaxpr.constvars:
        (eqn,) = jaxpr.eqns
        if (eqn.invars, eqn.outvars) != (jaxpr.invars, jaxpr.outvars):
            return None
        inside = closed(eqn.params[CALLS[eqn.primitive.name]]) if eqn.primitive.name in CALLS else None
        if inside is None or eqn.primitive.name in RULES:
            plain = inside and jaxpr_as_fun(inside)
            return plain and (lambda *x: plain(*jax.tree.leaves(x)))
        jaxpr = inside.jaxpr
    return None
