"""The branches of `cond` and `switch`, entered for the calls of derivative rules in them.

Which branch runs is known where it runs. So every use in one sends its operands into a tap, as in a
checkpoint: of a branch that was not taken they are zeros, and so is what comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, JaxprEqn
from jax.extend.core import primitives as p

from funcprop.lifting.jaxprs import aval, closed
from funcprop.lifting.uses import Delta, Plan, Site

COND = p.cond_p.name


def branched(
    eqn: JaxprEqn, plan_of: Callable[[ClosedJaxpr], Plan], first_of: tuple[int, int]
) -> tuple[Site, list[Delta]] | None:
    """-> the site of a `cond`, and the cotangents that are asked for inside; None where what stands
    in it cannot be told: a key is no number that a tap takes."""
    plans = tuple(plan_of(closed(branch)) for branch in eqn.params["branches"])
    uses, deltas = [], []
    for inner in plans:
        if inner.moved or any(has_key(use.eqn) for use in inner.uses):
            return None
        before = first_of[1] + len(deltas)
        for use in inner.uses:
            uses.append(replace(use, again=True, deltas=tuple(before + i for i in use.deltas)))
        deltas += [Delta(None, delta.aval, delta.loops) for delta in inner.deltas]
    return Site(tuple(uses), atoms=tuple(eqn.invars), first=first_of, branches=plans), deltas


def has_key(eqn: JaxprEqn) -> bool:
    """Whether a key of `jax.random` is among the operands."""
    dtypes = [getattr(aval(atom), "dtype", None) for atom in eqn.invars]
    return any(d is not None and jax.numpy.issubdtype(d, jax.dtypes.prng_key) for d in dtypes)


def enter_branch(
    site: Site,
    operands: list[Any],
    deltas: list[Any],
    codes: list[Any],
    run: Callable[[Plan, list[Any], list[Any], list[Any]], list[Any]],
) -> list[Any]:
    """The outputs of the branch that the first operand names.

    deltas, codes  the taps of the plan around: see `evaluating.Taps`
    run            (plan, inputs, its deltas, its codes) -> outputs
    """
    use, delta = site.first
    parts = []
    for inner in site.branches:
        ends = use + len(inner.uses), delta + len(inner.deltas)
        parts.append((deltas[delta : ends[1]], codes[use : ends[0]]))
        use, delta = ends

    def branch(number: int) -> Callable[..., list[Any]]:
        return lambda given, parts: run(site.branches[number], list(given), *parts[number])

    branches = [branch(number) for number in range(len(site.branches))]
    return jax.lax.switch(operands[0], branches, operands[1:], parts)
