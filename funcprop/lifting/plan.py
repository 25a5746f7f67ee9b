"""Where in a function parameters meet data: found once, in its jaxpr.

Loops and checkpoints are entered: what is inside has a plan of its own, and what it makes of
parameters alone, the same at every step, is moved out of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from funcprop.lifting.branches import COND, branched
from funcprop.lifting.deltas import deltas_of, parts_of, readers_of
from funcprop.lifting.jaxprs import (
    REMAT,
    RULES,
    SCAN,
    closed,
    equation,
    holds,
    inlined,
    is_float_type,
    outputs,
    scan_parts,
    without_unread,
)
from funcprop.lifting.linear import sends_linearly
from funcprop.lifting.primitives import ANY, primitive_of
from funcprop.lifting.shards import SHARD_MAP, is_outermost, sharded
from funcprop.lifting.uses import (
    DATA,
    NEITHER,
    PARAMETER,
    Delta,
    Loop,
    Plan,
    Site,
    Use,
    constants,
)


def kinds_of(jaxpr: ClosedJaxpr, inputs: Sequence[int]) -> dict[Any, int]:
    """The kind of every variable of a jaxpr, by those of its inputs."""
    kinds = dict.fromkeys(jaxpr.jaxpr.constvars, NEITHER)
    kinds |= zip(jaxpr.jaxpr.invars, inputs, strict=True)
    for eqn in jaxpr.eqns:
        given = [kinds[atom] for atom in eqn.invars if not isinstance(atom, Literal)]
        kind = max(given, default=NEITHER)
        if kind == PARAMETER and not sends_linearly(jaxpr, eqn, constants(kinds, eqn)):
            kind = DATA  # its gradient has to be asked example by example
        kinds |= dict.fromkeys(eqn.outvars, kind)
    return kinds


def carried(
    jaxpr: ClosedJaxpr, inputs: list[int], consts: int, carry: int
) -> tuple[list[int], bool]:
    """-> the kinds of a loop's inputs, and whether it carries what is made of parameters alone.

    What is carried, and meets data at any step, is data, where it begins with a parameter too.
    """
    inputs = list(inputs)
    while True:
        kinds = kinds_of(jaxpr, inputs)
        outs = [NEITHER if isinstance(a, Literal) else kinds[a] for a in jaxpr.jaxpr.outvars]
        grown = [p for p in range(carry) if outs[p] > inputs[consts + p]]
        if not grown:
            return inputs, PARAMETER in inputs[consts : consts + carry]
        for p in grown:
            inputs[consts + p] = outs[p]


def plan_of(
    jaxpr: ClosedJaxpr,
    inputs: Sequence[int],
    fixed: Sequence[int] | None = None,
    asks: str = "forms",
) -> Plan:
    """The plan of a jaxpr whose inputs are of these kinds.

    fixed   of what is entered: the positions of the inputs that are the same at every step; None
            for the function itself
    asks    "forms" of the uses that have one; "uses": what each has seen, the generic ones too;
            "calls": what the calls of custom derivative rules have seen, parameters being data
    """
    top = fixed is None
    jaxpr = inlined(jaxpr, anew=not top)
    jaxpr, entered_at = with_plans(jaxpr, inputs, asks)
    moved, extra = ((), ()) if fixed is None else invariant(jaxpr, inputs, fixed, entered_at)
    if moved:
        gone = {id(eqn) for eqn in moved}
        entered_at = {k: v for k, v in entered_at.items() if k not in gone}
        rest = [eqn for eqn in jaxpr.eqns if id(eqn) not in gone]
        invars = [*extra, *jaxpr.jaxpr.invars]
        jaxpr = ClosedJaxpr(jaxpr.jaxpr.replace(invars=invars, eqns=rest), jaxpr.consts)
        inputs = [*([PARAMETER] * len(extra)), *inputs]
    plan = Plan(jaxpr, kinds_of(jaxpr, inputs), moved=moved, extra=extra)
    wanted: set[Any] = {atom for atom in jaxpr.jaxpr.outvars if plan.is_weight(atom)}
    uses: list[Use] = []
    deltas: list[Delta] = []
    made = {var: eqn for eqn in jaxpr.eqns for var in outputs(eqn)}
    readers = readers_of(jaxpr)
    for number, eqn in enumerate(jaxpr.eqns):
        weights = [i for i, atom in enumerate(eqn.invars) if plan.is_weight(atom)]
        if asks == "calls" and id(eqn) not in entered_at:
            if eqn.primitive.name in RULES:
                new = [Delta(v, v.aval) for v in outputs(eqn) if is_float_type(v.aval)]
                own = tuple(range(len(deltas), len(deltas) + len(new)))
                fixed = constants(plan.kinds, eqn)
                use = Use(ANY, eqn, equation(jaxpr, eqn), -1, None, (), own, fixed=fixed)
                plan.sites[number] = Site(uses=(use,), first=(len(uses), 0))
                uses.append(use)
                deltas += new
            elif found := calls_inside(plan, eqn, (len(uses), len(deltas))):
                plan.sites[number] = found[0]
                uses += found[0].uses
                deltas += found[1]
            continue
        if (asks != "calls" and not weights) or all(plan.kind(var) < DATA for var in eqn.outvars):
            continue
        if id(eqn) in entered_at:
            site = entered(plan, eqn, *entered_at[id(eqn)], made, top, (len(uses), len(deltas)))
            deltas += deltas_of(site, eqn)
        else:
            site = site_of(plan, jaxpr, eqn, weights, made, top, asks)
        if site.inner is None and site.uses:
            (out,) = eqn.outvars
            parts, axis = ((out,), None) if asks == "uses" else parts_of(out, readers)
            known = [delta.var for delta in deltas]
            deltas += [Delta(var, var.aval) for var in dict.fromkeys(parts) if var not in known]
            places = [delta.var for delta in deltas]
            use = replace(site.uses[0], deltas=tuple(map(places.index, parts)), axis=axis)
            site = replace(site, uses=(use,), first=(len(uses), 0))
        plan.sites[number] = site
        wanted |= {(site.atoms or eqn.invars)[i] for i in site.generic}
        uses += site.uses
    needs = set(wanted)
    for eqn in reversed(jaxpr.eqns):  # a gradient of what is made of a parameter is one of it
        if needs & set(outputs(eqn)) and all(plan.kind(var) < DATA for var in eqn.outvars):
            needs |= {atom for atom in eqn.invars if plan.is_weight(atom)}
    needed = frozenset(wanted if top else needs)
    return replace(plan, needs=needed, uses=tuple(uses), deltas=tuple(deltas))


def calls_inside(
    plan: Plan, eqn: JaxprEqn, first_of: tuple[int, int]
) -> tuple[Site, list[Delta]] | None:
    """The calls of derivative rules in the branches of a `cond` or the body of a `shard_map`."""
    kinds = [plan.kind(atom) for atom in eqn.invars]

    def inside(jaxpr: ClosedJaxpr) -> Plan:
        given = kinds[len(kinds) - len(jaxpr.jaxpr.invars) :]  # which branch is no input of one
        return plan_of(jaxpr, given, range(len(given)), "calls")

    if eqn.primitive.name == COND and holds(eqn, RULES):
        return branched(eqn, inside, first_of)
    if eqn.primitive.name == SHARD_MAP and holds(eqn, RULES) and is_outermost(eqn):
        return sharded(eqn, inside(closed(eqn.params["jaxpr"])), first_of)
    return None


def with_plans(
    jaxpr: ClosedJaxpr, inputs: Sequence[int], asks: str
) -> tuple[ClosedJaxpr, dict[int, Any]]:
    """The jaxpr, with what its loops and checkpoints make of parameters alone standing before
    them; and of each, by `id`, the plan of what is inside and the kinds of its inputs."""
    kinds = kinds_of(jaxpr, inputs)
    eqns: list[JaxprEqn] = []
    plans: dict[int, Any] = {}
    atoms = [*jaxpr.jaxpr.outvars, *(atom for eqn in jaxpr.eqns for atom in eqn.invars)]
    read = {atom for atom in atoms if not isinstance(atom, Literal)}

    def kind(atom: Any) -> int:
        return NEITHER if isinstance(atom, Literal) else kinds[atom]

    for eqn in jaxpr.eqns:
        weights = [a for a in eqn.invars if kind(a) == PARAMETER and is_float_type(a.aval)]
        wanted = bool(weights) or (asks == "calls" and holds(eqn, RULES))
        if (
            eqn.primitive.name in (SCAN, REMAT)
            and wanted
            and any(kind(var) == DATA for var in eqn.outvars)
        ):
            found = plan_inside(eqn, [kind(atom) for atom in eqn.invars], asks, read)
            if found is None:
                eqns.append(eqn)
                continue
            inner, given = found
            own = inner.jaxpr.jaxpr.invars[len(inner.extra) :]
            outside = dict(zip(own, eqn.invars, strict=True))
            for step in inner.moved:
                atoms = [a if isinstance(a, Literal) else outside.get(a, a) for a in step.invars]
                eqns.append(step.replace(invars=atoms))
            plans[id(eqn)] = inner, given
        eqns.append(eqn)
    return ClosedJaxpr(jaxpr.jaxpr.replace(eqns=eqns), jaxpr.consts), plans


def plan_inside(
    eqn: JaxprEqn, kinds: list[int], asks: str, read: set[Any]
) -> tuple[Plan, list[int]] | None:
    """-> the plan of what a loop or a checkpoint holds, and the kinds of its own inputs; None for a
    loop that carries what no example has a part in."""
    jaxpr = without_unread(closed(eqn.params["jaxpr"]), eqn, read)
    inputs = [
        DATA if kind == PARAMETER and not is_float_type(atom.aval) else kind
        for kind, atom in zip(kinds, eqn.invars, strict=True)
    ]
    fixed = range(len(inputs))
    if eqn.primitive.name == SCAN:
        consts, carry = scan_parts(eqn)
        inputs, pure = carried(inlined(jaxpr), inputs, consts, carry)
        if pure:
            return None
        fixed = range(consts)
    return plan_of(jaxpr, inputs, fixed, asks), inputs


def invariant(
    jaxpr: ClosedJaxpr, inputs: Sequence[int], fixed: Sequence[int], entered_at: dict[int, Any]
) -> tuple[tuple[JaxprEqn, ...], tuple[Any, ...]]:
    """-> the equations that read nothing but parameters that are the same at every step, and what
    is read of theirs by others, and inside of these."""
    kinds = kinds_of(jaxpr, inputs)
    same = {jaxpr.jaxpr.invars[i] for i in fixed if inputs[i] < DATA}
    moved, rest = [], []
    for eqn in jaxpr.eqns:
        given = [atom for atom in eqn.invars if not isinstance(atom, Literal)]
        weights = [kinds[var] == PARAMETER for var in eqn.outvars]
        if given and all(weights) and weights and same.issuperset(given):
            moved.append(eqn)
            same |= set(outputs(eqn))
        else:
            rest.append(eqn)
    made = {var: None for eqn in moved for var in outputs(eqn)}
    read = {a for eqn in rest for a in eqn.invars if not isinstance(a, Literal)}
    read |= {a for a in jaxpr.jaxpr.outvars if not isinstance(a, Literal)}
    read |= {var for inner, _ in entered_at.values() for var in inner.extra}
    return tuple(moved), tuple(var for var in made if var in read)


def site_of(
    plan: Plan,
    jaxpr: ClosedJaxpr,
    eqn: JaxprEqn,
    weights: list[int],
    made: Any,
    top: bool,
    asks: str,
) -> Site:
    """What is to be done at an equation that reads parameters beside data."""
    row = primitive_of(eqn, weights)
    if row is None and asks == "uses" and len(outputs(eqn)) == len(eqn.outvars) == 1:
        row = ANY
    if row is None or len(weights) > 1:
        return Site(generic=tuple(weights))
    (position,) = weights
    root, chain = traced_back(plan, eqn.invars[position], made, top)
    if root is None:
        return Site(generic=(position,))
    fixed = constants(plan.kinds, eqn)
    use = Use(row, eqn, equation(jaxpr, eqn), position, root, chain, (), fixed=fixed)
    return Site(uses=(use,))


def entered(
    plan: Plan,
    eqn: JaxprEqn,
    inner: Plan,
    inputs: list[int],
    made: Any,
    top: bool,
    first_of: tuple[int, int],
) -> Site:
    """A loop or a checkpoint: the uses inside told from outside."""
    atoms = (*inner.extra, *eqn.invars)
    more = len(inner.extra)
    weights = [i for i, atom in enumerate(atoms) if plan.is_weight(atom)]
    looped = eqn.primitive.name == SCAN
    first = more + sum(scan_parts(eqn)) if looped else len(atoms)
    positions = {var: i for i, var in enumerate(inner.jaxpr.jaxpr.invars)}
    generic = {positions[var] for var in inner.needs if var in positions}
    generic |= {i for i in weights if i >= more and inputs[i - more] == DATA}
    uses = []
    for use in inner.uses:
        root, chain, stacked = None, (), False
        if use.var is not None:
            position = positions[use.var]
            stacked = position >= first
            root, chain = traced_back(plan, atoms[position], made, top)
            if root is None or (stacked and not use.primitive.stacks):
                # then JAX goes through all of it
                own = [i for i, atom in enumerate(eqn.invars) if plan.is_weight(atom)]
                return Site(generic=tuple(own))
        loops = (Loop(eqn.params["length"], stacked), *use.loops) if looped else use.loops
        chain = (*chain, ("stacked" if stacked else "same", use.chain))
        again, deltas = use.again or not looped, tuple(first_of[1] + i for i in use.deltas)
        use = replace(use, var=root, chain=chain, loops=loops, again=again, deltas=deltas)
        uses.append(use)
    return Site(tuple(uses), tuple(sorted(generic)), inner, atoms, first_of)


def traced_back(plan: Plan, var: Any, made: Any, top: bool) -> tuple[Any, tuple[Any, ...]]:
    """-> the value that a use is told of, and what is done with it up to the use.

    At the top that is the operand itself; inside a loop or checkpoint it is the one input that the
    operand is made of, or None where it is made of several.
    """
    if top:
        return var, ()
    roots: set[Any] = set()
    steps: list[JaxprEqn] = []
    seen: set[Any] = set()

    def back(atom: Any) -> None:
        if isinstance(atom, Literal) or atom in seen:
            return
        seen.add(atom)
        eqn = made.get(atom)
        if eqn is None:
            roots.add(atom)
            return
        for given in eqn.invars:
            back(given)
        if eqn not in steps:
            steps.append(eqn)

    back(var)
    inputs = set(plan.jaxpr.jaxpr.invars)
    if len(roots) != 1 or not roots <= inputs or not plan.is_weight(next(iter(roots))):
        return None, ()
    (root,) = roots
    if not steps:
        return root, ()
    alone = plan.jaxpr.jaxpr.replace(constvars=[], invars=[root], outvars=[var], eqns=steps)
    return root, (("equations", ClosedJaxpr(alone, [])),)
