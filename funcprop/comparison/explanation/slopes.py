"""A slope inside a layer that is left out, or another one: `the slope of tanh is left out`; and a
product whose derivative reads the output in the place of an input.

Of layers that do more than act element by element. Each activation and product in the forward keeps
its value and is given another derivative; what would have come out is compared with what did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal

from funcprop.comparison.explanation.arrays import places
from funcprop.comparison.explanation.problem import Guess, Problem, quickly
from funcprop.comparison.explanation.terms import told
from funcprop.comparison.programs import named_leaves
from funcprop.gradient import combine, partition
from funcprop.layer import is_float
from funcprop.lifting.jaxprs import equation, inlined, outputs

MOST = 32  # other slopes: a larger function has its activations found by looking into it
LEFT_OUT = "the slope of {} is left out"
Slope = Callable[[Any], Any]  # of the output a
Choice = tuple[int, str, Callable[..., Any]]  # equation, words, (operands, its output) -> output

OTHERS: dict[str, tuple[tuple[str, Slope], ...]] = {
    "tanh": (
        (LEFT_OUT, jnp.ones_like),
        ("1 − a in the place of 1 − a², the slope of {}", lambda a: 1 - a),
        ("1 + a² in the place of 1 − a², the slope of {}", lambda a: 1 + a * a),
        ("a² in the place of 1 − a², the slope of {}", lambda a: a * a),
    ),
    "logistic": (
        (LEFT_OUT, jnp.ones_like),
        ("a in the place of a (1 − a), the slope of {}", lambda a: a),
        ("1 − a in the place of a (1 − a), the slope of {}", lambda a: 1 - a),
        ("1 − a² in the place of a (1 − a), the slope of {}", lambda a: 1 - a * a),
    ),
    "max": ((LEFT_OUT, jnp.ones_like),),
    "erf": ((LEFT_OUT, jnp.ones_like),),
    "sin": ((LEFT_OUT, jnp.ones_like),),
}


def slopes(problem: Problem) -> Iterator[Guess]:
    """Words and the leaves that they predict."""
    floats, rest = partition((problem.params, problem.x))
    leaves, tree = jax.tree.flatten(floats)

    def function(*leaves: Any) -> list[Any]:
        params, x = combine(tree.unflatten(leaves), rest)
        y = problem.peer.forward(params, x, problem.context)[0]
        return [leaf for leaf in jax.tree.leaves(y) if is_float(leaf)]

    with jax.enable_x64(True):
        jaxpr = inlined(jax.make_jaxpr(function)(*leaves))
        names = [("", None)] * len(jax.tree.leaves(floats[0]))
        names += [(name, leaf) for name, leaf, _ in places(floats[1], "x")]
        found = quickly(function)(*leaves)
        choices = [*other_slopes(jaxpr), *other_factors(jaxpr, names, found)]
        if not 0 < len(choices) <= MOST:
            return

        def of(dys: Any) -> Any:
            def one(which: Any) -> Any:
                _, pullback = jax.vjp(lambda *x: evaluated(jaxpr, choices, which, x), *leaves)
                return jax.lax.map(lambda dy: list(pullback(dy)), dys)

            return jax.lax.map(one, jnp.arange(len(choices)))

        found = quickly(of)(jax.tree.leaves(problem.dys))
    for i, (number, words, _) in enumerate(choices):
        dparams, dx = tree.unflatten([np.asarray(leaf[i], np.float64) for leaf in found])
        name = jaxpr.eqns[number].primitive.name
        several = len({n for n, *_ in choices if jaxpr.eqns[n].primitive.name == name}) > 1
        yield (
            words.format(told(jaxpr.eqns[number]) if several else name),
            dict(named_leaves({"dx": dx, "dparams": dparams})),
        )


def other_slopes(jaxpr: ClosedJaxpr) -> Iterator[Choice]:
    """Activations, with other slopes."""
    for number, eqn in enumerate(jaxpr.eqns):
        if sum(not isinstance(atom, Literal) for atom in eqn.invars) != 1:
            continue
        place = next(i for i, atom in enumerate(eqn.invars) if not isinstance(atom, Literal))
        for words, slope in OTHERS.get(eqn.primitive.name, ()):

            def other(run: Any, operands: Any, a: Any, place: int = place, slope: Slope = slope):
                return still(a) + still(slope(a)) * moving(operands[place])

            yield number, words, other


def other_factors(jaxpr: ClosedJaxpr, names: list[tuple[str, Any]], ys: Any) -> Iterator[Choice]:
    """Products with an input, in whose place the derivative reads the output."""
    known = dict(zip(jaxpr.jaxpr.invars, names, strict=True))
    for number, eqn in enumerate(jaxpr.eqns):
        if eqn.primitive.name != "dot_general":
            continue
        for i, atom in enumerate(eqn.invars):
            name, leaf = ("", None) if isinstance(atom, Literal) else known.get(atom, ("", None))
            for y in (
                ys if name and len(ys) == 1 and getattr(leaf, "shape", None) == ys[0].shape else ()
            ):

                def other(run: Any, operands: Any, a: Any, i: int = i, y: Any = y):
                    read, own = list(operands), list(map(still, operands))
                    read[i], own[i] = y, moving(operands[i])
                    read[1 - i] = moving(operands[1 - i])
                    return still(a) + run(*read)[0] + run(*own)[0]

                yield number, f"the output in the place of {name}", other


def still(value: Any) -> Any:
    return jax.lax.stop_gradient(value)


def moving(value: Any) -> Any:
    """Zero, with the derivative of the value."""
    return value - still(value)


def evaluated(jaxpr: ClosedJaxpr, choices: list[Choice], which: Any, inputs: Any) -> list[Any]:
    """The outputs of the jaxpr, one of whose equations has the derivative of choice `which`."""
    values = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    values |= zip(jaxpr.jaxpr.invars, inputs, strict=True)

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for number, eqn in enumerate(jaxpr.eqns):
        run, operands = equation(jaxpr, eqn), list(map(read, eqn.invars))
        made = run(*operands)
        for i, (place, _, other) in enumerate(choices):
            if place == number:
                (a,) = made
                made = [jnp.where(which == i, other(run, operands, a), a)]
        values |= zip(outputs(eqn), made, strict=True)
    return [read(atom) for atom in jaxpr.jaxpr.outvars]
