"""A function, evaluated so that its backward pass tells what every use of a parameter saw.

A use is a function with a backward pass of its own. Beside the parameter and its operands it has
an argument that changes nothing, a *tap*, and sends into it what is wanted: of a use with a closed
form its operands and δ, of a generic one the gradient. So `jax.vjp` carries both through whatever
stands between, loops and checkpoints among it. The parameters themselves are constants here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from funcprop.layer import is_float
from funcprop.lifting.jaxprs import REMAT, equation, outputs, scan_parts
from funcprop.lifting.plan import DATA, PARAMETER, Plan, Site, Use


def coded(value: Any) -> Any:
    """A number as floats, since a cotangent has no integers: exact, in halves of 16 bits."""
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return value
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return jnp.zeros((), jnp.float32)
    wide = value.astype(jnp.int32)
    return jnp.stack([wide >> 16, wide & 0xFFFF], -1).astype(jnp.float32)


def decoded(code: Any, like: Any) -> Any:
    if jnp.issubdtype(like.dtype, jnp.inexact):
        return code
    high, low = (code[..., i].astype(jnp.int32) for i in range(2))
    return ((high << 16) | low).astype(like.dtype)


def taps_of(use: Use) -> Any:
    """The shapes of what a use sends: its operands, without the parameter, and δ."""
    loops = tuple(loop.length for loop in use.loops)
    operands = [use.eqn.invars[i].aval for i in use.data]
    given = [jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in operands]
    y = use.eqn.outvars[0].aval
    shapes = [jax.eval_shape(coded, aval) for aval in given]
    shapes.append(jax.ShapeDtypeStruct(y.shape, y.dtype))
    return tuple(jax.ShapeDtypeStruct((*loops, *s.shape), s.dtype) for s in shapes)


def closed_use(use: Use, weight: Any, operands: list[Any], tap: Any) -> list[Any]:
    """The equation, which sends its operands and δ."""

    def plain(weight: Any, operands: list[Any]) -> Any:
        given = iter(operands)
        places = range(len(use.eqn.invars))
        return use.function(*(weight if i == use.position else next(given) for i in places))[0]

    @jax.custom_vjp
    def function(weight: Any, operands: list[Any], tap: Any) -> Any:
        return plain(weight, operands)

    def forward(weight: Any, operands: list[Any], tap: Any) -> Any:
        y, pullback = jax.vjp(lambda operands: plain(weight, operands), operands)
        return y, (pullback, operands, weight)

    def backward(kept: Any, dy: Any) -> Any:
        pullback, operands, weight = kept
        return jnp.zeros_like(weight), pullback(dy)[0], (*map(coded, operands), dy)

    function.defvjp(forward, backward)
    return [function(weight, operands, tap)]


def generic_use(
    function: Callable[..., list[Any]], positions: tuple[int, ...], operands: list[Any], taps: Any
) -> list[Any]:
    """Any function, which sends the gradients of the operands at these positions into the taps."""

    def split(operands: list[Any]) -> tuple[list[Any], list[Any]]:
        rest = [x for i, x in enumerate(operands) if i not in positions]
        return [operands[i] for i in positions], rest

    def plain(weights: list[Any], rest: list[Any]) -> list[Any]:
        given, others = iter(weights), iter(rest)
        places = range(len(weights) + len(rest))
        return function(*(next(given if i in positions else others) for i in places))

    @jax.custom_vjp
    def use(weights: list[Any], rest: list[Any], taps: list[Any]) -> list[Any]:
        return plain(weights, rest)

    def forward(weights: list[Any], rest: list[Any], taps: list[Any]) -> Any:
        y, pullback = jax.vjp(plain, weights, rest)
        return y, (pullback, weights)

    def backward(kept: Any, dy: Any) -> Any:
        pullback, weights = kept
        gradients, drest = pullback(dy)
        return [jnp.zeros_like(w) for w in weights], drest, gradients

    use.defvjp(forward, backward)
    return use(*split(operands), taps)


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
    sent: Iterator[Any],
    known: dict[Any, Any] | None = None,
) -> list[Any]:
    """The outputs of a plan's jaxpr.

    inputs   of the jaxpr
    taps     by variable, of the values that generic uses read
    sent     the taps of the closed uses, in their order
    known    values of parameters made outside, by variable
    """
    jaxpr = plan.jaxpr
    values = dict(zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True))
    values |= zip(jaxpr.jaxpr.invars, inputs, strict=True)
    values |= known or {}
    taps = dict(taps)

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
            wanted = [var for var in bound if var in plan.needs]
            if known is None and wanted and all(plan.kind(var) < DATA for var in bound):
                floats = [
                    i
                    for i, atom in enumerate(eqn.invars)
                    if not isinstance(atom, Literal) and atom in taps
                ]
                own = [taps[eqn.invars[i]] for i in floats]
                new = made(function, floats, operands, own)
                taps |= {v: t for v, t in zip(bound, new, strict=True) if t is not None}
        elif site.inner is not None:
            found = enter(site, eqn, [read(atom) for atom in site.atoms], taps, sent)
            values |= zip(eqn.outvars, found, strict=True)
            continue
        elif site.uses:
            (use,) = site.uses
            given = [operands[i] for i in use.data]
            found = closed_use(use, operands[use.position], given, next(sent))
        else:
            own = [taps[eqn.invars[i]] for i in site.generic]
            found = generic_use(equation(jaxpr, eqn), site.generic, operands, own)
        values |= zip(bound, found, strict=True)

    def output(atom: Any) -> Any:
        value = read(atom)
        return value + taps[atom] if plan.is_weight(atom) and atom in taps else value

    return [output(atom) for atom in jaxpr.jaxpr.outvars]


def enter(site: Site, eqn: Any, operands: list[Any], taps: dict[Any, Any], sent: Any) -> list[Any]:
    """A loop or a checkpoint, evaluated by what stands in it."""
    inner = site.inner
    assert inner is not None
    inputs = inner.jaxpr.jaxpr.invars
    own = [next(sent) for _ in inner.uses]
    tapped = {i: taps[site.atoms[i]] for i in site.generic}
    # what is data inside, and a parameter outside, gets its tap on the way in
    for i in list(tapped):
        if not inner.is_weight(inputs[i]):
            operands[i] = operands[i] + tapped.pop(i)
    if eqn.primitive.name == REMAT:

        def call(operands: list[Any], tapped: dict[int, Any], own: list[Any]) -> list[Any]:
            return run(inner, operands, {inputs[i]: t for i, t in tapped.items()}, iter(own))

        policy, cse = eqn.params["policy"], eqn.params["prevent_cse"]
        return jax.checkpoint(call, policy=policy, prevent_cse=cse)(operands, tapped, own)
    consts, carry = scan_parts(eqn)
    consts += len(inner.extra)
    first = consts + carry
    fixed = {inputs[i]: t for i, t in tapped.items() if i < consts}
    sliced = {i: t for i, t in tapped.items() if i >= first}

    def step(state: list[Any], row: Any) -> tuple[list[Any], list[Any]]:
        xs, slices, own = row
        given = [*operands[:consts], *state, *xs]
        found = run(inner, given, fixed | {inputs[i]: t for i, t in slices.items()}, iter(own))
        types = [var.aval.dtype for var in inputs[consts:first]]
        new = [x.astype(t) if is_float(x) else x for x, t in zip(found[:carry], types, strict=True)]
        return new, found[carry:]

    state, ys = lax.scan(
        step,
        operands[consts:first],
        (operands[first:], sliced, own),
        length=eqn.params["length"],
        reverse=eqn.params["reverse"],
        unroll=eqn.params["unroll"],
    )
    return [*state, *ys]
