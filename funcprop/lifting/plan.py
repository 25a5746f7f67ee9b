"""Where in a function parameters meet data: found once, in its jaxpr.

Every value of a jaxpr is of one of three kinds: it depends on data (DATA), on parameters and on no
data (PARAMETER), or on neither. An equation that reads a PARAMETER beside DATA is a *use*. What a
use does with its parameter has a closed form (see `primitives`), or it is of the generic kind,
whose gradient of one example JAX makes. Loops and checkpoints are entered, other calls are one
use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

from funcprop.lifting.jaxprs import (
    REMAT,
    SCAN,
    closed,
    equation,
    inlined,
    is_float_type,
    outputs,
    scan_parts,
    source_of,
)
from funcprop.lifting.primitives import ANY, Primitive, primitive_of

NEITHER, PARAMETER, DATA = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Loop:
    """A scan around a use."""

    length: int
    stacked: bool  # whether the parameter is sliced by it, and not the same at every step


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a parameter meets data, in a way that has a closed form.

    var      the value at the top of the function that holds parameters only
    chain    of that value, the operand of the equation, stacked along the loops that slice it
    """

    primitive: Primitive
    eqn: JaxprEqn
    function: Callable[..., list[Any]]
    position: int
    var: Any
    chain: tuple[Any, ...]  # what is done with the value on the way: see `placing`
    loops: tuple[Loop, ...] = ()

    @property
    def data(self) -> list[int]:
        """Which operands are no parameter."""
        return [i for i in range(len(self.eqn.invars)) if i != self.position]

    @property
    def source(self) -> str:
        return source_of(self.eqn)[0]

    @property
    def module(self) -> str:
        return source_of(self.eqn)[1]


@dataclass(frozen=True, eq=False)
class Site:
    """An equation of a plan that is no plain one.

    uses    of this equation, by the position of the operand: with a closed form
    generic the positions of operands whose gradients JAX makes
    inner   the plan of the jaxpr that it enters, or None
    """

    uses: tuple[Use, ...] = ()
    generic: tuple[int, ...] = ()
    inner: Plan | None = None


@dataclass(frozen=True, eq=False)
class Plan:
    """What there is to do on the way through a jaxpr.

    kinds   of every variable
    sites   by the number of the equation
    needs   the variables of which the generic uses want a gradient, with all they are made of
    uses    all closed uses inside, in the order in which they are met
    """

    jaxpr: ClosedJaxpr
    kinds: dict[Any, int]
    sites: dict[int, Site] = field(default_factory=dict)
    needs: frozenset[Any] = frozenset()
    uses: tuple[Use, ...] = ()

    def kind(self, atom: Any) -> int:
        return NEITHER if isinstance(atom, Literal) else self.kinds[atom]

    def is_weight(self, atom: Any) -> bool:
        """Whether it is made of parameters alone, and has a gradient."""
        return self.kind(atom) == PARAMETER and is_float_type(atom.aval)


def kinds_of(jaxpr: ClosedJaxpr, inputs: Sequence[int]) -> dict[Any, int]:
    """The kind of every variable of a jaxpr, by those of its inputs."""
    kinds = dict.fromkeys(jaxpr.jaxpr.constvars, NEITHER)
    kinds |= zip(jaxpr.jaxpr.invars, inputs, strict=True)
    for eqn in jaxpr.eqns:
        given = [kinds[atom] for atom in eqn.invars if not isinstance(atom, Literal)]
        kinds |= dict.fromkeys(eqn.outvars, max(given, default=NEITHER))
    return kinds


def carried(jaxpr: ClosedJaxpr, inputs: list[int], consts: int, carry: int) -> list[int]:
    """The kinds of a loop's inputs. What is carried, and meets data at any step, is data; it is so
    too where it begins with a parameter."""
    inputs = list(inputs)
    for position in range(consts, consts + carry):
        inputs[position] = DATA if inputs[position] == PARAMETER else inputs[position]
    while True:
        kinds = kinds_of(jaxpr, inputs)
        outs = [NEITHER if isinstance(a, Literal) else kinds[a] for a in jaxpr.jaxpr.outvars]
        grown = [p for p in range(carry) if outs[p] > NEITHER and inputs[consts + p] < DATA]
        if not grown:
            return inputs
        for p in grown:
            inputs[consts + p] = DATA


def plan_of(
    jaxpr: ClosedJaxpr, inputs: Sequence[int], top: bool = True, every: bool = False
) -> Plan:
    """The plan of a jaxpr whose inputs are of these kinds.

    every   whether each use is told of by what it saw, the generic ones too
    """
    jaxpr = inlined(jaxpr)
    kinds = kinds_of(jaxpr, inputs)
    plan = Plan(jaxpr, kinds)
    wanted: set[Any] = {atom for atom in jaxpr.jaxpr.outvars if plan.is_weight(atom)}
    uses: list[Use] = []
    made = {var: eqn for eqn in jaxpr.eqns for var in outputs(eqn)}
    for number, eqn in enumerate(jaxpr.eqns):
        weights = [i for i, atom in enumerate(eqn.invars) if plan.is_weight(atom)]
        if not weights or all(plan.kind(var) < DATA for var in eqn.outvars):
            continue
        site = site_of(plan, jaxpr, eqn, weights, made, top, every)
        plan.sites[number] = site
        wanted |= {eqn.invars[i] for i in site.generic}
        uses += site.uses
    needs = set(wanted)
    for eqn in reversed(jaxpr.eqns):  # a gradient of what is made of a parameter is one of it
        if needs & set(outputs(eqn)) and all(plan.kind(var) < DATA for var in eqn.outvars):
            needs |= {atom for atom in eqn.invars if plan.is_weight(atom)}
    return Plan(jaxpr, kinds, plan.sites, frozenset(wanted if top else needs), tuple(uses))


def site_of(
    plan: Plan,
    jaxpr: ClosedJaxpr,
    eqn: JaxprEqn,
    weights: list[int],
    made: Any,
    top: bool,
    every: bool,
) -> Site:
    """What is to be done at an equation that reads parameters beside data."""
    name = eqn.primitive.name
    if name in (SCAN, REMAT):
        return entered(plan, eqn, weights, made, top, every)
    row = primitive_of(eqn, weights)
    if row is None and every and len(outputs(eqn)) == len(eqn.outvars) == 1:
        row = ANY
    if row is None or len(weights) > 1:
        return Site(generic=tuple(weights))
    (position,) = weights
    root, chain = traced_back(plan, eqn.invars[position], made, top)
    if root is None:
        return Site(generic=(position,))
    return Site(uses=(Use(row, eqn, equation(jaxpr, eqn), position, root, chain),))


def entered(
    plan: Plan, eqn: JaxprEqn, weights: list[int], made: Any, top: bool, every: bool
) -> Site:
    """A loop or a checkpoint: the plan of what is inside, its uses told from outside."""
    inner_jaxpr = closed(eqn.params["jaxpr"])
    inputs = [plan.kind(atom) for atom in eqn.invars]
    inputs = [
        DATA if kind == PARAMETER and not is_float_type(atom.aval) else kind
        for kind, atom in zip(inputs, eqn.invars, strict=True)
    ]
    consts = carry = 0
    if eqn.primitive.name == SCAN:
        consts, carry = scan_parts(eqn)
        inputs = carried(inlined(inner_jaxpr), inputs, consts, carry)
    inner = plan_of(inner_jaxpr, inputs, top=False, every=every)
    positions = {var: i for i, var in enumerate(inner.jaxpr.jaxpr.invars)}
    loop_free = eqn.primitive.name != SCAN
    uses = []
    generic = {positions[var] for var in inner.needs if var in positions}
    generic |= {i for i in weights if inputs[i] == DATA}
    for use in inner.uses:
        position = positions[use.var]
        stacked = not loop_free and position >= consts + carry
        root, chain = traced_back(plan, eqn.invars[position], made, top)
        loops = () if loop_free else (Loop(eqn.params["length"], stacked),)
        if root is None or (stacked and not use.primitive.stacks):
            return Site(generic=tuple(weights))  # then JAX goes through all of it
        chain = (*chain, ("stacked" if stacked else "same", use.chain))
        uses.append(
            Use(use.primitive, use.eqn, use.function, use.position, root, chain, loops + use.loops)
        )
    return Site(tuple(uses), tuple(sorted(generic)), inner)


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
