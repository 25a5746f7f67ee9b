"""What the uses have sent, as what rules ask for: forms of single examples, and what was seen."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.collectors.form import Form
from funcprop.collectors.forms import Full
from funcprop.gradient import combine, partition
from funcprop.layer import Array
from funcprop.lifting.evaluating import Taps
from funcprop.lifting.forms import stacked
from funcprop.lifting.tapped import decoded
from funcprop.lifting.uses import DATA, PARAMETER, Plan, Use


def plan_needs(plan: Plan) -> list[Any]:
    """The values whose gradients JAX makes, in the order of the jaxpr."""
    order = [*plan.jaxpr.jaxpr.invars, *(v for eqn in plan.jaxpr.eqns for v in eqn.outvars)]
    return [var for var in order if var in plan.needs]


def frontier(plan: Plan) -> list[Any]:
    """The values that are made of parameters alone, and are read beside data, or returned."""
    found: dict[Any, None] = {}
    for number, eqn in enumerate(plan.jaxpr.eqns):
        if any(plan.kind(var) == DATA for var in eqn.outvars):
            site = plan.sites.get(number)
            atoms = (*eqn.invars, *(site.atoms if site else ()))
            found |= dict.fromkeys(a for a in atoms if plan.kind(a) == PARAMETER)
    return list(
        found | dict.fromkeys(a for a in plan.jaxpr.jaxpr.outvars if plan.kind(a) == PARAMETER)
    )


def seen_by(plan: Plan, kept: list[Any], sent: Taps) -> Iterator[tuple[Use, Any, Any]]:
    """(use, operands, δ of each output), of what was kept on the way there and sent on the way
    back."""
    for use, given, codes in zip(plan.uses, kept, sent.operands, strict=True):
        if codes is not None:
            likes = [use.eqn.invars[i].aval for i in use.data]
            given = [decoded(code, like) for code, like in zip(codes, likes, strict=True)]
        parts = [sent.deltas[i] for i in use.deltas]
        d = parts if use.axis is None else [jnp.concatenate(parts, use.axis)]
        yield use, tuple(given), d


def form_of(use: Use, operands: tuple[Any, ...], d: Array) -> Form:
    """The gradients of single examples by one use, those of all steps of its loops together."""

    def one(operands: tuple[Any, ...], d: Array) -> Form:
        return use.primitive.form(use.eqn, use.position, operands, d)

    for loop in reversed(use.loops):

        def around(operands: Any, d: Array, inner: Any = one, loop: Any = loop) -> Form:
            steps = jax.vmap(inner, in_axes=1, out_axes=0)(operands, d)
            return stacked(steps) if loop.stacked else steps.folded()

        one = around
    return one(operands, d)


def together(forms: list[Form]) -> tuple[Form, ...]:
    """Forms of one parameter; those that may be are one."""
    full: list[Any] = [form for form in forms if isinstance(form, Full)]
    rest = [form for form in forms if not isinstance(form, Full)]
    if len(full) > 1:
        full = [Full(functools.reduce(jnp.add, [form.g for form in full]))]  # type: ignore
    return (*full, *rest)


def replayed(use: Use, weight: Any, operands: list[Any], d: Any) -> tuple[Any, Any]:
    """-> y and the cotangents of the operands of a use, along its loops."""

    def one(weight: Any, operands: list[Any], d: Any) -> Any:
        fixed = [x if i in use.fixed else None for i, x in zip(use.data, operands, strict=True)]
        given = [x if c is None else None for c, x in zip(fixed, operands, strict=True)]
        floats, rest = partition(given)
        rest = combine(rest, fixed)

        def function(floats: Any) -> Any:
            given = iter(combine(floats, rest))
            places = range(len(use.eqn.invars))
            return use.function(*(weight if i == use.position else next(given) for i in places))[0]

        y, pullback = jax.vjp(function, floats)
        return y, pullback(d)[0]

    for loop in reversed(use.loops):
        one = jax.vmap(one, in_axes=(0 if loop.stacked else None, 0, 0))
    return one(weight, operands, d)
