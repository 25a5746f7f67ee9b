"""The derivative rules that stand in a function, as layers of a model that can be looked into."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun

from funcprop.comparison.subject.subject import Inner
from funcprop.comparison.subject.without_rules import CALLS, RULES, jaxprs_in, traced
from funcprop.layer import Context
from funcprop.lifting.jaxprs import closed
from funcprop.lifting.tracing import with_rules

LONG = 400  # equations: to look into more takes longer than all the rest
JAX = os.path.dirname(jax.__file__)


def rules_inside(function: Callable[..., Any], x: tuple[Any, ...]) -> Inner | None:
    """The calls of `jax.custom_vjp` and `jax.custom_jvp` functions that function(*x) makes, under
    `jit`, `scan`, `vmap`, `checkpoint`, `cond` and `shard_map`; None where there are none, or where
    they do not show.

    Where all of them are JAX's own, or the function is long, they are looked at only if the whole
    is wrong.
    """
    try:
        lifted = with_rules(function, x)
    except Exception:  # the whole is compared all the same
        return None
    if not lifted.calls or not all(call.real for call in lifted.calls):
        return None
    own = any(not call.defined.startswith(JAX) for call in lifted.calls)
    jaxpr = traced(function, x)[0]
    if len(lifted.calls) == 1 and (plain := the_only(jaxpr.jaxpr)):
        inner = rules_inside(plain, x) if lifted.calls[0].calls else None
        nested = None if inner is None else inner._replace(always=False)
        return Inner(lambda wrap: wrap(lifted, ()), (), x, Context(), whole=True, nested=nested,
                     words={"": lifted.calls[0].words}, always=own)  # fmt: skip
    words = {f"{lifted.place_of(call)} {type(call).__name__}": call.words for call in lifted.calls}
    return Inner(lambda wrap: wrap(lifted, ()), (), x, Context(), words=words,
                 always=own and equations(jaxpr) <= LONG)  # fmt: skip


def equations(jaxpr: Any) -> int:
    """How many there are, those of inner jaxprs too."""
    inside = (equations(inner) for eqn in jaxpr.eqns for inner in jaxprs_in(eqn))
    return len(jaxpr.eqns) + sum(inside)


def the_only(jaxpr: Any) -> Callable[..., Any] | None:
    """What the call of a rule computes, where a jaxpr is that call and nothing else."""
    while len(jaxpr.eqns) == 1 and not jaxpr.constvars:
        (eqn,) = jaxpr.eqns
        name = eqn.primitive.name
        if name not in CALLS or (eqn.invars, eqn.outvars) != (jaxpr.invars, jaxpr.outvars):
            return None
        inside = closed(eqn.params[CALLS[name]])
        if name in RULES:
            plain = jaxpr_as_fun(inside)
            return lambda *x: plain(*jax.tree.leaves(x))
        jaxpr = inside.jaxpr
    return None
