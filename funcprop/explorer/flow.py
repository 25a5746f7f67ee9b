"""Which use of a parameter reads what another one gave: the graph of a lifted function."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from funcprop.layer import Context, Params, is_float
from funcprop.lifting.jaxprs import SCAN, closed, scan_parts
from funcprop.lifting.lifted import Lifted

INPUT = -1  # the data, as what a parameter reads
NOTHING: frozenset[int] = frozenset()


class Value(NamedTuple):
    """What a value is made of.

    weights  the parameters it is made of, where no data is in it
    sources  the parameters that gave the data in it last, INPUT where none did
    """

    weights: frozenset[int] = NOTHING
    sources: frozenset[int] = NOTHING


def flow(lifted: Lifted, params: Params, x: Any, context: Context = Context()) -> list[list[int]]:
    """For every parameter of `lifted.layers` the numbers of those whose output it reads, INPUT of
    the data itself; last, those that the function's value is made of.

    A loop is gone through until nothing new is read in it, so that a recurrent weight reads itself.
    """
    function = jax.make_jaxpr(lambda p, v: lifted.forward(p, v, context)[0])(params, x)
    own = iter(range(len(lifted.layers)))
    values = [
        Value(frozenset([next(own)])) if is_float(leaf) else Value()
        for leaf in jax.tree.leaves(params)
    ]
    values += [Value(sources=frozenset([INPUT])) for _ in jax.tree.leaves(x)]
    read: dict[int, set[int]] = {i: set() for i in range(len(lifted.layers))}
    outs = walked(function, values, read)
    found = frozenset().union(*(value.sources for value in outs)) if outs else NOTHING
    return [sorted(read[i]) for i in range(len(lifted.layers))] + [sorted(found)]


def walked(jaxpr: ClosedJaxpr, values: list[Value], read: dict[int, set[int]]) -> list[Value]:
    """The values of a jaxpr's outputs; `read` is told what every parameter reads."""
    known: dict[Any, Value] = dict(zip(jaxpr.jaxpr.invars, values, strict=True))
    known.update((var, Value()) for var in jaxpr.jaxpr.constvars)

    def of(atom: Any) -> Value:
        return Value() if isinstance(atom, Literal) else known[atom]

    for eqn in jaxpr.jaxpr.eqns:
        given = [of(atom) for atom in eqn.invars]
        known.update(zip(eqn.outvars, entered(eqn, given, read), strict=True))
    return [of(atom) for atom in jaxpr.jaxpr.outvars]


def entered(eqn: JaxprEqn, given: list[Value], read: dict[int, set[int]]) -> list[Value]:
    """The values of an equation's outputs: of the jaxprs in it, where they read what it reads."""
    parts = [part for v in eqn.params.values() for part in (v if isinstance(v, tuple) else (v,))]
    inner = [closed(part) for part in parts if isinstance(part, (Jaxpr, ClosedJaxpr))]
    for count in (len(given), len(given) - 1):  # a branch is chosen by the first operand
        fitting = [j for j in inner if len(j.jaxpr.invars) == count]
        fitting = [j for j in fitting if len(j.jaxpr.outvars) == len(eqn.outvars)]
        if fitting and (count == len(given) or len(fitting) == len(inner)):
            values = given[len(given) - count :]
            if eqn.primitive.name == SCAN:
                return looped(eqn, fitting[0], values, read)
            every = [walked(jaxpr, values, read) for jaxpr in fitting]
            return [joined(together) for together in zip(*every, strict=True)]
    return [met(given, read)] * len(eqn.outvars)


def looped(
    eqn: JaxprEqn, body: ClosedJaxpr, values: list[Value], read: dict[int, set[int]]
) -> list[Value]:
    """A scan: what one step leaves is what the next one reads."""
    fixed, carried = scan_parts(eqn)
    while True:
        outs = walked(body, values, read)
        pairs = zip(values[fixed : fixed + carried], outs[:carried], strict=True)
        after = [*values[:fixed], *map(joined, pairs), *values[fixed + carried :]]
        if after == values:
            return outs
        values = after


def met(given: list[Value], read: dict[int, set[int]]) -> Value:
    """What a plain equation makes of its operands: a parameter that meets data is used."""
    found = joined(given)
    if not found.sources:
        return found
    for weight in found.weights:
        read[weight] |= found.sources
    return Value(sources=found.weights or found.sources)


def joined(values: Any) -> Value:
    """What either is made of."""
    rows = list(values)
    return Value(
        frozenset().union(*(value.weights for value in rows)),
        frozenset().union(*(value.sources for value in rows)),
    )
