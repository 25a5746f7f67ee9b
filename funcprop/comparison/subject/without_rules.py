"""A function without its custom derivative rules: JAX differentiates what it computes instead.

`jax.vjp` of a function that holds a `jax.custom_vjp` or `jax.custom_jvp` follows the hand-written
rule. The truth to hold against it is the derivative of what the function computes, and that stands
in its jaxpr: every call of a rule carries the jaxpr of the plain function.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, JaxprEqn, Literal, jaxpr_as_fun
from jax.extend.core import primitives as p

from funcprop.layer import is_float
from funcprop.lifting.jaxprs import closed
from funcprop.lifting.shards import SHARD_MAP, on_shards

# By name: not every primitive stands in jax.extend. linear_call has a hand-written transpose.
RULES = {p.custom_jvp_call_p.name, p.custom_vjp_call_p.name, "linear_call"}
# Where an equation that only calls a jaxpr keeps it. custom_vmap_call is left out with the rules it
# calls, since its batching rule could bring them back.
CALLS = {
    p.custom_jvp_call_p.name: "call_jaxpr",
    p.custom_vjp_call_p.name: "call_jaxpr",
    "linear_call": "callee",
    "custom_vmap_call": "call",
    p.jit_p.name: "jaxpr",
    p.call_p.name: "call_jaxpr",
    p.closed_call_p.name: "call_jaxpr",
}
REMAT = p.remat_p.name  # a call that is to stay a checkpoint
# Equations that do more with their jaxprs than call them, and take others of the same types.
REBUILT = {p.scan_p.name, p.while_p.name, p.cond_p.name}
KERNELS = {"pallas_call"}  # not looked into: a kernel is compared with a reference
HIDDEN = {"call_hi_primitive"}  # a derivative rule around a function that the jaxpr does not show


def without_rules(f: Callable[..., Any]) -> Callable[..., Any]:
    """g(*args): the values of f(*args), differentiated through what f computes.

    f is traced anew in every call, in the dtypes given. Its arguments are pytrees; leaves that
    are not arrays reach f as they are. Calls of `jax.custom_jvp` and `jax.custom_vjp` functions
    and of `linear_call` are replaced by what they call, under `jit`, `checkpoint`, `scan`,
    `while_loop`, `cond` and `shard_map` too. Left alone are `lax.stop_gradient`, the rules that
    JAX's primitives have, the insides of Pallas kernels, and derivatives that f takes itself: for
    those the rules were followed before there was a jaxpr.

    Raises NotImplementedError where a rule stands and cannot be taken out (`custom_linear_solve`,
    higher-order types).
    """

    def g(*args: Any) -> Any:
        jaxpr, arrays, tree = traced(f, args)
        return jax.tree.unflatten(tree, evaluate(jaxpr, *arrays))

    g.__name__ = g.__qualname__ = f"without_rules({getattr(f, '__name__', type(f).__name__)})"
    return g


def count_rules(f: Callable[..., Any], *args: Any) -> int:
    """How many custom rules `without_rules(f)` takes out at these arguments, nested ones too.

    A rule in a loop counts once, one that is called twice counts twice.
    """
    with jax.numpy_dtype_promotion("standard"):
        return rules_in(traced(f, args)[0])


def narrowest(f: Callable[..., Any], *args: Any) -> Any:
    """The narrowest dtype that f rounds wider floats to on its way, or None where it never does.

    A function that calls `x.astype(jnp.float32)` computes no more exactly in float64: two ways
    to compute its gradient agree to that precision only.
    """
    with jax.numpy_dtype_promotion("standard"):
        return min(roundings_in(traced(f, args)[0]), key=lambda dtype: dtype.itemsize, default=None)


def traced(f: Callable[..., Any], args: Sequence[Any]) -> tuple[ClosedJaxpr, list[Any], Any]:
    """-> the jaxpr of f(*args), the arrays in args that it reads, and the tree of the output."""
    leaves, tree = jax.tree.flatten(tuple(args))
    is_array = [hasattr(leaf, "shape") and hasattr(leaf, "dtype") for leaf in leaves]
    arrays = [leaf for leaf, known in zip(leaves, is_array, strict=True) if known]

    def flat(*arrays: Any) -> Any:
        rest = iter(arrays)
        pairs = zip(leaves, is_array, strict=True)
        return f(
            *jax.tree.unflatten(tree, [next(rest) if known else leaf for leaf, known in pairs])
        )

    jaxpr, shapes = jax.make_jaxpr(flat, return_shape=True)(*arrays)
    return jaxpr, arrays, jax.tree.structure(shapes)


def evaluate(jaxpr: ClosedJaxpr, *args: Any) -> list[Any]:
    """The outputs of a jaxpr, its rules left out."""
    if not rules_in(jaxpr):
        return jaxpr_as_fun(jaxpr)(*args)
    inputs = (*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars)
    values = dict(zip(inputs, (*jaxpr.consts, *args), strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else values[atom]

    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if not any(map(rules_in, jaxprs_in(eqn))) and name not in RULES:
            values |= follow(jaxpr, eqn, values)
        elif name in CALLS or name in (REMAT, SHARD_MAP):
            outputs = called(eqn)(*map(read, eqn.invars))
            values |= zip(eqn.outvars, outputs, strict=True)
        else:
            values |= follow(jaxpr, rebuilt(eqn), values)
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def follow(jaxpr: ClosedJaxpr, eqn: JaxprEqn, values: dict[Any, Any]) -> dict[Any, Any]:
    """What one equation adds to the values: a jaxpr of this equation alone, evaluated by JAX."""
    inputs = list(dict.fromkeys(atom for atom in eqn.invars if not isinstance(atom, Literal)))
    outputs = [var for var in eqn.outvars if not isinstance(var, DropVar)]
    alone = jaxpr.jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=[eqn])
    results = jaxpr_as_fun(ClosedJaxpr(alone, []))(*(values[var] for var in inputs))
    return dict(zip(outputs, results, strict=True))


def called(eqn: JaxprEqn) -> Callable[..., list[Any]]:
    """What the equation calls, without rules."""
    if eqn.primitive.name == SHARD_MAP:
        return on_shards(eqn, functools.partial(evaluate, closed(eqn.params["jaxpr"])))
    if eqn.primitive.name != REMAT:
        return functools.partial(evaluate, closed(eqn.params[CALLS[eqn.primitive.name]]))
    plain = functools.partial(evaluate, closed(eqn.params["jaxpr"]))
    policy, prevent_cse = eqn.params["policy"], eqn.params["prevent_cse"]
    return jax.checkpoint(plain, policy=policy, prevent_cse=prevent_cse)


def rebuilt(eqn: JaxprEqn) -> JaxprEqn:
    """The equation with the rules taken out of the jaxprs it holds."""
    if eqn.primitive.name not in REBUILT:
        raise NotImplementedError(
            f"a custom rule stands inside {eqn.primitive.name}, and cannot be taken out there: "
            "compare the function inside on its own, or give the reference: against=plain"
        )

    def plain(value: Any) -> Any:
        if isinstance(value, (Jaxpr, ClosedJaxpr)):
            types = [var.aval for var in closed(value).jaxpr.invars]  # weak ones stay weak
            return jax.make_jaxpr(functools.partial(evaluate, closed(value)))(*types)
        return tuple(map(plain, value)) if type(value) is tuple else value

    return eqn.replace(params={name: plain(value) for name, value in eqn.params.items()})


def rules_in(jaxpr: ClosedJaxpr) -> int:
    """The number of rules in a jaxpr and in the jaxprs it holds."""
    count = 0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name in HIDDEN:
            raise NotImplementedError(
                f"{eqn.primitive.name} holds a derivative rule, and the jaxpr does not show what "
                "it computes: give the reference, against=plain"
            )
        count += (eqn.primitive.name in RULES) + sum(map(rules_in, jaxprs_in(eqn)))
    return count


def roundings_in(jaxpr: ClosedJaxpr) -> Iterator[Any]:
    """The dtypes of floats that equations make of wider ones."""

    def floats(atoms: Sequence[Any]) -> list[Any]:
        return [atom.aval.dtype for atom in atoms if is_float(atom.aval)]

    for eqn in jaxpr.eqns:
        inner = list(jaxprs_in(eqn))
        for held in inner:
            yield from roundings_in(held)
        widest = max((dtype.itemsize for dtype in floats(eqn.invars)), default=0)
        if not inner:
            yield from (dtype for dtype in floats(eqn.outvars) if dtype.itemsize < widest)


def jaxprs_in(eqn: JaxprEqn) -> Iterator[ClosedJaxpr]:
    """The jaxprs among an equation's parameters."""

    def search(value: Any) -> Iterator[ClosedJaxpr]:
        if isinstance(value, (Jaxpr, ClosedJaxpr)):
            yield closed(value)
        elif isinstance(value, (tuple, list)):
            for part in value:
                yield from search(part)

    if eqn.primitive.name not in KERNELS:
        for value in eqn.params.values():
            yield from search(value)
