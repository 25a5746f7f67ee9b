"""A function, evaluated so that its backward pass tells what every use of a parameter saw.

A use is a function with a backward pass of its own. Beside the parameter and its operands it has
an argument that changes nothing, a *tap*, and sends into it what is wanted: of a use with a closed
form its operands and δ, of a generic one the gradient. So `jax.vjp` carries both through whatever
stands between, loops and checkpoints among it. The parameters themselves are constants here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Literal

from funcprop.layer import is_float
from funcprop.lifting.again import ASKED, is_cheap
from funcprop.lifting.branches import enter_branch
from funcprop.lifting.jaxprs import (
    REMAT,
    aval,
    calls,
    constants_of,
    equation,
    outputs,
    scan_parts,
    typed,
)
from funcprop.lifting.shards import enter_shards
from funcprop.lifting.tapped import closed_use, coded, generic_use, passed
from funcprop.lifting.uses import DATA, PARAMETER, Plan, Site, Use, constants
from funcprop.sharding import varying


class Taps(NamedTuple):
    """What the closed uses of a plan send their operands and their δ into."""

    deltas: list[Any]  # one for each of the plan's deltas
    operands: list[Any]  # one for each use that a checkpoint computes again, else None


def taps_of(plan: Plan) -> Taps:
    """The shapes of the taps. Operands that no checkpoint throws away are told on the way there."""

    def along(loops: Any, aval: Any) -> Any:
        return jax.ShapeDtypeStruct((*(loop.length for loop in loops), *aval.shape), aval.dtype)

    def operands(use: Use) -> Any:
        avals = [aval(use.eqn.invars[i]) for i in use.data]
        shapes = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals]
        return [along(use.loops, jax.eval_shape(coded, shape)) for shape in shapes]

    deltas = [along(delta.loops, delta.aval) for delta in plan.deltas]
    return Taps(deltas, [operands(use) if use.again else None for use in plan.uses])


def made(function: Callable[..., list[Any]], floats: list[int], given: list[Any], taps: Any) -> Any:
    """Taps of what a function makes of parameters: linear in their taps, which are zero.

    floats   the positions in `given` that have taps
    """

    def of(values: list[Any]) -> list[Any]:
        whole = list(given)
        for i, value in zip(floats, values, strict=True):
            whole[i] = value
        return function(*whole)

    tangents = jax.jvp(of, ([given[i] for i in floats],), (taps,))[1]
    return [None if t.dtype == jax.dtypes.float0 else t for t in tangents]


def run(
    plan: Plan,
    inputs: list[Any],
    taps: dict[Any, Any],
    sent: Taps | None,
    known: dict[Any, Any] | None = None,
    instead: list[Any] | None = None,
) -> tuple[list[Any], list[Any]]:
    """-> the outputs of a plan's jaxpr, and the operands of its closed uses, where no tap takes
    them.

    inputs   of the jaxpr
    taps     by variable, of the values that generic uses read
    sent     the taps of the closed uses
    known    values of parameters made outside, by variable
    instead  of taps: a function (weight, operands) for every closed use, or None for the equation
    """
    jaxpr = plan.jaxpr
    values = dict(zip(jaxpr.jaxpr.constvars, constants_of(jaxpr), strict=True))
    values |= zip(jaxpr.jaxpr.invars, inputs, strict=True)
    values |= known or {}
    taps = dict(taps)
    deltas = {}
    if sent is not None:
        deltas = {delta.var: tap for delta, tap in zip(plan.deltas, sent.deltas, strict=True)}
    kept: list[Any] = [None] * len(plan.uses)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        bound = outputs(eqn)
        if known is not None and all(plan.kind(var) == PARAMETER for var in bound):
            continue  # made outside
        operands = [read(atom) for atom in eqn.invars]
        site = plan.sites.get(number)
        if site is None:
            function = equation(jaxpr, eqn)
            found = function(*operands)
            if known is None and not plan.needs.isdisjoint(bound) and is_made(plan, bound):
                floats = [i for i, a in enumerate(eqn.invars) if in_taps(a, taps)]
                own = [taps[eqn.invars[i]] for i in floats]
                new = made(function, floats, operands, own)
                taps |= {v: t for v, t in zip(bound, new, strict=True) if t is not None}
        elif site.shards is not None and sent is not None:
            bound = eqn.outvars
            use, delta = site.first
            codes = sent.operands[use : use + len(site.uses)]
            found = enter_shards(site, eqn, operands, sent.deltas[delta:], codes, run_inside)
        elif site.inner is not None and site.shards is None:
            bound = eqn.outvars
            given = [read(atom) for atom in site.atoms]
            use, delta = site.first
            uses = slice(use, use + len(site.uses))
            if sent is None:
                own = None
            else:
                within = slice(delta, delta + len(site.inner.deltas))
                own = Taps(sent.deltas[within], sent.operands[uses])
            swapped = None if instead is None else instead[uses]
            found, seen = enter(site, eqn, given, taps, own, swapped)
            kept[use : use + len(site.uses)] = seen
        elif site.branches and sent is not None:
            bound = eqn.outvars
            found = enter_branch(site, operands, sent.deltas, sent.operands, run_inside)
        elif sent is None:
            function = equation(jaxpr, eqn)
            if site.uses and instead is not None and instead[site.first[0]] is not None:
                (use,), swap = site.uses, instead[site.first[0]]
                found = swap(operands[use.position], [operands[i] for i in use.data])
            else:
                found = function(*operands)
        elif site.uses:
            (use,), (at, _) = site.uses, site.first
            given = [operands[i] for i in use.data]
            weight = operands[use.position] if use.position >= 0 else ()
            found = closed_use(use, weight, given, sent.operands[at])
            if sent.operands[at] is None:
                kept[at] = given
        else:
            own = [taps[eqn.invars[i]] for i in site.generic]
            spread = calls(eqn) or len(eqn.outvars) > 1
            fixed = constants(plan.kinds, eqn)
            roles = [
                0 if i in site.generic else 2 if i in fixed else 1 for i in range(len(operands))
            ]
            found = generic_use(equation(jaxpr, eqn), roles, operands, own, spread)
        values |= zip(bound, found, strict=True)
        for var in bound:
            if var in deltas:
                values[var] = checkpoint_name(passed(values[var], deltas[var]), ASKED)

    def output(atom: Any) -> Any:
        value = read(atom)
        return value + taps[atom] if plan.is_weight(atom) and atom in taps else value

    return [output(atom) for atom in jaxpr.jaxpr.outvars], kept


def run_inside(plan: Plan, inputs: list[Any], deltas: Any, codes: Any) -> list[Any]:
    """The outputs of what is entered, with the taps of what stands in it."""
    return run(plan, inputs, {}, Taps(deltas, codes))[0]


def is_made(plan: Plan, bound: list[Any]) -> bool:
    """Whether what an equation binds is made of no data."""
    return all(plan.kind(var) < DATA for var in bound)


def in_taps(atom: Any, taps: dict[Any, Any]) -> bool:
    return not isinstance(atom, Literal) and atom in taps


def enter(
    site: Site,
    eqn: Any,
    operands: list[Any],
    taps: dict[Any, Any],
    sent: Taps | None,
    instead: list[Any] | None,
) -> tuple[list[Any], list[Any]]:
    """A loop or a checkpoint, evaluated by what stands in it."""
    inner = site.inner
    assert inner is not None
    inputs = inner.jaxpr.jaxpr.invars
    tapped = {} if sent is None else {i: taps[site.atoms[i]] for i in site.generic}
    # what is data inside, and a parameter outside, gets its tap on the way in
    for i in list(tapped):
        if not inner.is_weight(inputs[i]):
            operands[i] = operands[i] + tapped.pop(i)
    if eqn.primitive.name == REMAT:

        def call(operands: list[Any], tapped: dict[int, Any], sent: Taps | None) -> list[Any]:
            own = {inputs[i]: t for i, t in tapped.items()}
            return run(inner, operands, own, sent, instead=instead)[0]

        policy, cse = eqn.params["policy"], eqn.params["prevent_cse"]
        call = jax.checkpoint(call, policy=policy, prevent_cse=cse)
        return call(operands, tapped, sent), [None] * len(site.uses)
    consts, carry = scan_parts(eqn)
    consts += len(inner.extra)
    if not typed(inputs):
        operands = varying(operands, *operands)
    first = consts + carry
    fixed = {inputs[i]: t for i, t in tapped.items() if i < consts}
    sliced = {i: t for i, t in tapped.items() if i >= first}
    there = [rows_there(use, inputs, first) for use in site.uses]

    def step(state: list[Any], row: Any) -> tuple[list[Any], Any]:
        xs, slices, sent = row
        given = [*operands[:consts], *state, *xs]
        own = fixed | {inputs[i]: t for i, t in slices.items()}
        found, kept = run(inner, given, own, sent, instead=instead)
        types = [var.aval.dtype for var in inputs[consts:first]]
        new = [x.astype(t) if is_float(x) else x for x, t in zip(found[:carry], types, strict=True)]
        # what is looped over is not stacked once more
        kept = [k and [None if i in at else x for i, x in enumerate(k)]
                for k, at in zip(kept, there, strict=True)]  # fmt: skip
        return new, (found[carry:], kept)

    if sent is not None and is_cheap(inner):  # of all that JAX would keep, what its uses make
        policy = jax.checkpoint_policies.save_only_these_names(ASKED)
        step = jax.checkpoint(step, policy=policy, prevent_cse=False)
    state, (ys, kept) = lax.scan(
        step,
        operands[consts:first],
        (operands[first:], sliced, sent),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    for own, at in zip(kept, there, strict=True):
        for i, position in at.items() if own else ():
            x = operands[position]
            own[i] = x
    return [*state, *ys], kept


def rows_there(use: Use, inputs: list[Any], first: int) -> dict[int, int]:
    """Which operands of a use in a loop, by their number, are rows of what is looped over, and of
    which of its inputs."""
    if len(use.loops) > 1 or use.again:
        return {}
    given = [use.eqn.invars[i] for i in use.data]
    return {
        i: first + inputs[first:].index(atom)
        for i, atom in enumerate(given)
        if not isinstance(atom, Literal) and atom in inputs[first:]
    }
