"""A term of the derivative that is missing, subtracted or counted twice: which, by its line.

The chain rule adds a term for every place where a value is read. Here each place has a gate that
scales what comes back through it and changes no value: a gate of 0 is a forgotten term, −1 a wrong
sign, 2 a term that is counted twice. A gradient is linear in a gate, so which one it would have to
be shows where it is closed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from funcprop.comparison.explanation.problem import Guess, Problem, quickly
from funcprop.comparison.programs import named_leaves
from funcprop.gradient import combine, partition
from funcprop.layer import is_float
from funcprop.lifting.jaxprs import equation, inlined, is_float_type, outputs, source_of

MOST = 64  # gates: a larger function has its terms found by looking into it
SCALES = ((0.0, "is missing"), (-1.0, "has the wrong sign"), (2.0, "is counted twice"))


class Gate(NamedTuple):
    """Places, as (number of the equation, position of the operand), that are scaled together."""

    words: str
    places: tuple[tuple[int, int], ...]


def terms(problem: Problem) -> Iterator[Guess]:
    """Words and the leaves that they predict."""
    peer = problem.peer
    floats, rest = partition((problem.params, problem.x))
    leaves, tree = jax.tree.flatten(floats)

    def function(*leaves: Any) -> list[Any]:
        params, x = combine(tree.unflatten(leaves), rest)
        y = peer.forward(params, x, problem.context)[0]
        return [leaf for leaf in jax.tree.leaves(y) if is_float(leaf)]

    with jax.enable_x64(True):
        jaxpr = inlined(jax.make_jaxpr(function)(*leaves))
        gates = gates_of(jaxpr)
        every = {
            place: i for i, place in enumerate(dict.fromkeys(p for g in gates for p in g.places))
        }
        if not every or len(every) > MOST:
            return
        rows = np.ones((len(gates), len(every)))
        for row, gate in zip(rows, gates, strict=True):
            row[[every[place] for place in gate.places]] = 0
        dys = jax.tree.leaves(problem.dys)
        found = quickly(gradients_by(jaxpr, every, leaves))(rows, dys)
    for i, gate in enumerate(gates):
        dparams, dx = tree.unflatten([np.asarray(leaf[i], np.float64) for leaf in found])
        for name, closed in named_leaves({"dx": dx, "dparams": dparams}):
            yield from scaled(gate, name, closed, problem.given[name], problem.truth[name])


def scaled(
    gate: Gate, name: str, closed: np.ndarray, given: np.ndarray, truth: np.ndarray
) -> Iterator[Guess]:
    """The leaf with the term of a gate as often as fits it best."""
    term = truth - closed
    below = float(np.sum(np.square(term)))
    if given.shape != truth.shape or not np.isfinite(below) or not below:
        return
    size = 1 + float(np.sum((given - truth) * term)) / below
    words = next((told for value, told in SCALES if abs(size - value) < 1e-6), "")
    yield f"{gate.words} {words or f'is scaled by {size:.4g}'}", {name: closed + size * term}


def gradients_by(
    jaxpr: ClosedJaxpr, places: dict[tuple[int, int], int], leaves: list[Any]
) -> Callable[[Any, list[Any]], list[Any]]:
    """(rows of gates, cotangents [probes, ...]) -> gradients [rows, probes, ...]: one program."""

    def of(rows: Any, dys: list[Any]) -> list[Any]:
        def one(gates: Any) -> list[Any]:
            _, pullback = jax.vjp(lambda *x: evaluated(jaxpr, places, gates, x), *leaves)
            return jax.lax.map(lambda dy: list(pullback(dy)), dys)

        return jax.lax.map(one, rows)

    return of


@jax.custom_vjp
def gated(value: Any, gate: Any) -> Any:
    """The value, whose cotangent is scaled."""
    return value


gated.defvjp(
    lambda value, gate: (value, gate),
    lambda gate, d: ((gate * d).astype(d.dtype), jax.numpy.zeros_like(gate)),
)


def evaluated(
    jaxpr: ClosedJaxpr, places: dict[tuple[int, int], int], gates: Any, inputs: Any
) -> list[Any]:
    """The outputs of the jaxpr."""
    values = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    values |= zip(jaxpr.jaxpr.invars, inputs, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        operands = [
            gated(read(atom), gates[places[number, i]]) if (number, i) in places else read(atom)
            for i, atom in enumerate(eqn.invars)
        ]
        values |= zip(outputs(eqn), equation(jaxpr, eqn)(*operands), strict=True)
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def gates_of(jaxpr: ClosedJaxpr) -> list[Gate]:
    """A gate for every place that is one of several: where a value is read more than once, and
    where an equation reads several; and for all places of a value that is made inside."""
    moving = {var for var in jaxpr.jaxpr.invars if is_float_type(var.aval)}
    made: dict[Any, Any] = {}
    readers: dict[Any, list[tuple[int, int]]] = {}
    several: set[tuple[int, int]] = set()
    for number, eqn in enumerate(jaxpr.eqns):
        own = [i for i, a in enumerate(eqn.invars) if not isinstance(a, Literal) and a in moving]
        for i in own:
            readers.setdefault(eqn.invars[i], []).append((number, i))
        several |= {(number, i) for i in own if len(own) > 1}
        if own:
            made |= {var: eqn for var in outputs(eqn)}
            moving |= {var for var in outputs(eqn) if is_float_type(var.aval)}
    found = []
    for var, places in readers.items():
        shared = len(places) > 1
        if shared and var in made:
            words = f"the derivative of {told(made[var])}"
            found.append(Gate(words, tuple(places)))
        for number, i in places:
            if shared or (number, i) in several:
                eqn = jaxpr.eqns[number]
                words = f"the term through operand {i} of {told(eqn)}"
                found.append(Gate(words, ((number, i),)))
    return found


def told(eqn: Any) -> str:
    """`mul (model.py:31 (loss))`."""
    line = source_of(eqn)[0]
    return f"{eqn.primitive.name} ({line})" if line else eqn.primitive.name
