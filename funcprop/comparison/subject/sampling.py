"""Samplers: functions in which chance and an argument decide together.

Rejection sampling accepts a proposal where a random number is below something of an argument. At a
fixed key its sample jumps where another proposal is accepted, so no difference of samples is the
derivative that implicit reparametrization defines (Figurnov, Mohamed, Mnih 2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from funcprop.comparison.subject.without_rules import jaxprs_in, traced
from funcprop.layer import is_float
from funcprop.lifting.jaxprs import closed

BITS = {"random_bits", "threefry2x32", "rng_bit_generator"}
SAMPLERS = {"random_gamma"}
DECIDING = {"lt", "le", "gt", "ge", "eq", "ne", "argmax", "argmin", "sort", "top_k"}

Mark = tuple[bool, bool]  # whether a value depends on chance, and on a float argument


def draws(function: Any, given: Sequence[Any]) -> bool:
    """Whether function(*given) draws random numbers anywhere; by tracing."""

    def inside(jaxpr: Any) -> bool:
        return any(
            eqn.primitive.name in BITS | SAMPLERS
            or any(inside(closed(inner)) for inner in jaxprs_in(eqn))
            for eqn in jaxpr.eqns
        )

    return inside(jax.make_jaxpr(function)(*given))


def is_sampler(function: Any, x: tuple[Any, ...]) -> bool:
    """Whether chance and a float among the arguments decide something together in function(*x)."""
    jaxpr = traced(function, x)[0]
    return decides(jaxpr, [(False, is_float(var.aval)) for var in jaxpr.jaxpr.invars])[0]


def decides(jaxpr: Any, given: Sequence[Mark]) -> tuple[bool, list[Mark]]:
    """-> whether a comparison reads both, and the marks of the outputs."""
    marks: dict[Any, Mark] = dict(zip(jaxpr.jaxpr.invars, given, strict=True))
    found = False
    for eqn in jaxpr.eqns:
        operands = [marks.get(a, (False, False)) if not hasattr(a, "val") else (False, False)
                    for a in eqn.invars]  # fmt: skip
        both = (any(chance for chance, _ in operands), any(data for _, data in operands))
        name = eqn.primitive.name
        if name in BITS:
            both = (True, both[1])
        found |= (name in DECIDING and all(both)) or (name in SAMPLERS and both[1])
        outs = [both] * len(eqn.outvars)
        for inner in jaxprs_in(eqn):
            inner = closed(inner)
            count = len(inner.jaxpr.invars)
            own = operands[-count:] if count <= len(operands) else [both] * count
            if name == "while":  # what the body makes is carried into both
                own = [both] * count
            inside, results = decides(inner, own)
            if name in ("while", "scan"):
                any_of = tuple(any(mark[i] for mark in [*results, both]) for i in (0, 1))
                inside |= decides(inner, [(any_of[0], any_of[1])] * count)[0]
                results = [(any_of[0], any_of[1])] * len(results)
            found |= inside
            if len(results) == len(outs):
                outs = results
        marks |= zip(eqn.outvars, outs, strict=True)
    results = [marks.get(a, (False, False)) if not hasattr(a, "val") else (False, False)
               for a in jaxpr.jaxpr.outvars]  # fmt: skip
    return found, results
