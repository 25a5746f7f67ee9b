"""The ways into forward mode: all of them must give the tangents that `jax.jvp` gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.comparison.subject.rule import Rule, float_units
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.second_order import ALONE
from funcprop.gradient import combine, partition


class Way(NamedTuple):
    """(rule, given, others, context, dys, moves) -> {"tangent": leaves [directions, ...]}, and what
    of the tangents of `jax.jvp` [directions, ...] that should be."""

    part: Callable[..., Any]
    wanted: Callable[[Any], Any]


def forward_parts(subject: Subject, moves: Any) -> dict[str, Way]:
    """By name. The transposed one gives a gradient."""
    ways = {
        "under jax.linearize": linearized,
        "under jax.jacfwd": by_jacfwd,
        "under vmap of jax.jvp": batched,
        "under jax.linear_transpose of jax.linearize": transposed,
    }
    found = {name: Way(part, lambda tangents: tangents) for name, part in ways.items()}
    alone = float_units(subject)
    if len(jax.tree.leaves(moves)[0]) == 2 + len(alone) and 1 < len(alone) <= ALONE:
        for i, unit in enumerate(alone):

            def own(tangents: Any, place: int = 2 + i) -> Any:
                return jax.tree.map(lambda leaf: leaf[place : place + 1], tangents)

            found[f"under jax.jvp of {unit.name} alone"] = Way(_only(unit.leaves, 2 + i), own)
    return found


def of_floats(rule: Rule, given: Any, context: Any) -> tuple[Callable[[Any], Any], Any]:
    """The function of the floats, and they."""
    floats, rest = partition(given)
    return lambda f: rule(combine(f, rest), context), floats


def linearized(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    function, floats = of_floats(rule, given, context)
    push = jax.linearize(function, floats)[1]
    return {"tangent": jax.lax.map(push, moves)}


def by_jacfwd(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    """The Jacobian of f(p + Σ tᵢ vᵢ) at t = 0."""
    function, floats = of_floats(rule, given, context)

    def along(t: Any) -> Any:
        return function(jax.tree.map(lambda leaf, v: leaf + jnp.tensordot(t, v, 1), floats, moves))

    zeros = jnp.zeros(len(jax.tree.leaves(moves)[0]))
    columns = jax.jacfwd(along)(zeros)
    return {"tangent": jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 0), columns)}


def batched(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    function, floats = of_floats(rule, given, context)
    return {"tangent": jax.vmap(lambda v: jax.jvp(function, (floats,), (v,))[1])(moves)}


def transposed(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    function, floats = of_floats(rule, given, context)
    push = jax.linearize(function, floats)[1]
    (grads,) = jax.linear_transpose(push, floats)(jax.tree.map(lambda leaf: leaf[0], dys))
    return jax.tree.map(lambda leaf: leaf[None], grads)


def _only(leaves: tuple[int, ...], place: int) -> Callable[..., Any]:
    """By these floats alone: the tangents of the others are symbolic zeros."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        function, floats = of_floats(rule, given, context)
        flat, tree = jax.tree.flatten(floats)

        def of(moved: list[Any]) -> Any:
            every = list(flat)
            for i, leaf in zip(leaves, moved, strict=True):
                every[i] = leaf
            return function(jax.tree.unflatten(tree, every))

        along = jax.tree.leaves(moves)
        tangents = [along[i][place] for i in leaves]
        tangent = jax.jvp(of, ([flat[i] for i in leaves],), (tangents,))[1]
        return {"tangent": jax.tree.map(lambda leaf: leaf[None], tangent)}

    return part
