"""The second derivative along directions, in every mode, beside finite differences of the first.

For g(p) = Jᵀ dy, the target's own first derivative, and a direction v: d/dε g(p + ε v) is a product
of a Hessian and a vector. `jax.jvp` of the pullback makes it (forward-over-reverse), `jax.vjp` of
it too, since Hessians are symmetric (reverse-over-reverse), and where there is a forward mode
`jax.vjp` and `jax.jvp` of that as well. Finite differences of g need none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import Programs, Raised, generator, named_leaves
from funcprop.comparison.subject.rule import (
    Rule,
    arguments,
    float_units,
    forward_mode,
    plain,
    promoting,
    with_rules,
)
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.slopes import FAR, NEAR, OFFSETS, stops
from funcprop.gradient import combine, partition

FORWARD_OVER_REVERSE = "forward-over-reverse"
ALONG_COTANGENT = "forward-over-reverse along the cotangent"
REVERSE_OVER_REVERSE = "reverse-over-reverse"
REVERSE_OVER_FORWARD = "reverse-over-forward"
FORWARD_OVER_FORWARD = "forward-over-forward"
FORWARD = "jax.jvp"

ALONE = 6  # arguments that move alone too: of more, only all together

# The offsets of the smaller step, and of the larger one, as weights of near, far, left and right.
_FOURTH = (8 / 12, -8 / 12, -1 / 12, 1 / 12)
_LEFT, _RIGHT = (0.0, -2.0, 0.0, 0.5), (2.0, 0.0, -0.5, 0.0)
WEIGHTS = np.zeros((1 + 2 * len(OFFSETS), 4))
WEIGHTS[1:5, 0] = np.asarray(_FOURTH) / NEAR
WEIGHTS[5:9, 1] = np.asarray(_FOURTH) / FAR
WEIGHTS[1:5, 2] = np.asarray(_LEFT) / NEAR
WEIGHTS[1:5, 3] = np.asarray(_RIGHT) / NEAR
PLACES = np.asarray([0.0, *(step * offset for step in (NEAR, FAR) for offset in OFFSETS)])


class Steps(NamedTuple):
    """Finite differences along every direction, trees of leaves [directions, ...]: of fourth order
    with the smaller step and with the larger one, and one-sided ones, which differ at a kink."""

    near: Any
    far: Any
    left: Any
    right: Any


class Second(NamedTuple):
    """What was measured, in float64 at the given input, under one cotangent.

    first       g = Jᵀ dy {"dx": ..., "dparams": ...}, and "y": by the target's own rule
    other       g under another cotangent
    modes       by name: what the target gives, or `Raised`. Leaves [directions, ...]
    truth       {"dx", "dparams"}: H v of the peer; "ddy": J v; "y": the second derivative of y
                along v. Or `Raised`
    steps       finite differences of the target's own g, and of its y ("ddy"); or `Raised`
    stopped     whether `lax.stop_gradient` stands in the peer: finite differences see through it
    plain_too   the modes that raise without the rules as well
    forward     what `jax.jvp` of the target raises, or None
    moves       the directions v, leaves [directions, ...]
    frozen      names of leaves that do not move: of those a reverse pass over the first one sees
                more than the forward shows
    """

    first: Any
    other: Any
    modes: dict[str, Any]
    truth: Any
    steps: Any
    stopped: bool
    plain_too: frozenset[str]
    forward: Raised | None
    moves: Any
    frozen: frozenset[str]


def second_order(subject: Subject, dys: Any, frozen: frozenset[str], run: Programs) -> Second:
    """The second derivatives of a subject in float64; only inside `jax.enable_x64`.

    dys      [probes, ...], at least two
    frozen   names of leaves that do not move, since forward hides them from a gradient
    """
    rule, context = with_rules(subject), subject.context
    floats, rest = partition(arguments(subject))
    moves = few_directions(subject, floats, frozen)
    dy, other = (jax.tree.map(lambda leaf, i=i: leaf[i], dys) for i in (0, 1))
    given = floats, rest, context, dy, other, moves
    forward = forward_mode(subject)
    parts = {"own": own, "steps": steps_of, **modes(forward is None)}

    def of_target(part: Callable[..., Any]) -> Callable[..., Any]:
        def run_part(*given: Any) -> Any:
            with promoting(subject):
                return part(rule, *given)

        return run_part

    def truth(*given: Any) -> Any:
        return true(plain(subject), *given)

    every = {name: of_target(part) for name, part in parts.items()} | {"truth": truth}
    found = run.each("second order", every, *given)
    for name in ("own", "steps"):
        if isinstance(found[name], Raised):
            raise RuntimeError(f"the first derivative of {subject.words}: {found[name].words}")
    first, along_other = found["own"]
    return Second(
        first,
        along_other,
        {name: found[name] for name in modes(forward is None)},
        found["truth"],
        Steps(*(jax.tree.map(lambda leaf, i=i: leaf[:, i], found["steps"]) for i in range(4))),
        stops(subject.peer, *subject.given),
        without_rules_too(subject, given, found),
        forward,
        moves,
        frozen,
    )


def pulling(rule: Rule, rest: Any, context: Any) -> Callable[[Any, Any], Any]:
    """(floats, dy) -> Jᵀ dy."""

    def pulled(floats: Any, dy: Any) -> Any:
        _, pullback = jax.vjp(lambda f: rule(combine(f, rest), context), floats)
        return pullback(dy)[0]

    return pulled


def own(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, other: Any, moves: Any) -> Any:
    """The first derivative under both cotangents, the output with the one of the first."""
    y, pullback = jax.vjp(lambda f: rule(combine(f, rest), context), floats)
    return {**pullback(dy)[0], "y": y}, pullback(other)[0]


def steps_of(
    rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, other: Any, moves: Any
) -> Any:
    """Finite differences of g and of y, leaves [directions, 4, ...].

    In one loop, so that the pass stands in the program once.
    """

    def quantities(floats: Any) -> Any:
        y, pullback = jax.vjp(lambda f: rule(combine(f, rest), context), floats)
        return {**pullback(dy)[0], "ddy": y}

    nothing = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(quantities, floats)
    )
    sums = jax.tree.map(lambda leaf: jnp.zeros((4, *leaf.shape), leaf.dtype), nothing)

    def along(v: Any) -> Any:
        def at(carry: tuple[Any, Any], place: Any) -> tuple[Any, None]:
            start, sums = carry
            step, weights = place
            moved = jax.tree.map(lambda leaf, each: leaf + step * each, floats, v)
            here = quantities(moved)
            start = jax.tree.map(lambda old, new: jnp.where(step == 0, new, old), start, here)

            def added(total: Any, new: Any, old: Any) -> Any:
                each = weights.reshape(4, *(1 for _ in new.shape))
                return total + jnp.where(each == 0, 0, each * (new - old)[None])

            return (start, jax.tree.map(added, sums, here, start)), None

        places = jnp.asarray(PLACES), jnp.asarray(WEIGHTS)
        return jax.lax.scan(at, (nothing, sums), places)[0][1]

    return jax.lax.map(along, moves)


def modes(forward: bool) -> dict[str, Callable[..., Any]]:
    """By name, (rule, floats, rest, context, dy, other, moves) -> {"dx", "dparams", "ddy", "y"},
    of them what the mode gives."""

    def over_reverse(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, *more: Any) -> Any:
        pulled = pulling(rule, rest, context)

        def of(v: Any) -> Any:
            return jax.jvp(lambda f: pulled(f, dy), (floats,), (v,))[1]

        return jax.lax.map(of, more[1])

    def cotangent(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, *more: Any) -> Any:
        pulled = pulling(rule, rest, context)
        return jax.jvp(lambda c: pulled(floats, c), (dy,), (more[0],))[1]

    def reverse_twice(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, *more: Any) -> Any:
        _, again = jax.vjp(pulling(rule, rest, context), floats, dy)

        def of(v: Any) -> Any:
            hessian, tangent = again(v)
            return {**hessian, "ddy": tangent}

        return jax.lax.map(of, more[1])

    def pushing(rule: Rule, rest: Any, context: Any) -> Callable[[Any, Any], Any]:
        return lambda floats, v: jax.jvp(lambda f: rule(combine(f, rest), context), (floats,), (v,))

    def over_forward(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, *more: Any) -> Any:
        push = pushing(rule, rest, context)

        def of(v: Any) -> Any:
            return jax.vjp(lambda f: push(f, v)[1], floats)[1](dy)[0]

        return jax.lax.map(of, more[1])

    def forward_twice(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, *more: Any) -> Any:
        push = pushing(rule, rest, context)

        def of(v: Any) -> Any:
            return {"y": jax.jvp(lambda f: push(f, v)[1], (floats,), (v,))[1]}

        return jax.lax.map(of, more[1])

    def once(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, *more: Any) -> Any:
        push = pushing(rule, rest, context)

        def of(v: Any) -> Any:
            y, tangent = push(floats, v)
            return {"ddy": tangent, "value": y}

        return jax.lax.map(of, more[1])

    found: dict[str, Callable[..., Any]] = {}
    if forward:
        found[FORWARD] = once
    found |= {
        FORWARD_OVER_REVERSE: over_reverse,
        ALONG_COTANGENT: cotangent,
        REVERSE_OVER_REVERSE: reverse_twice,
    }
    if forward:
        found |= {REVERSE_OVER_FORWARD: over_forward, FORWARD_OVER_FORWARD: forward_twice}
    return found


def true(rule: Rule, floats: Any, rest: Any, context: Any, dy: Any, other: Any, moves: Any) -> Any:
    """The same of the peer, whose rules were taken out."""
    pulled = pulling(rule, rest, context)

    def of(v: Any) -> Any:
        hessian = jax.jvp(lambda f: pulled(f, dy), (floats,), (v,))[1]

        def push(f: Any) -> Any:
            return jax.jvp(lambda f: rule(combine(f, rest), context), (f,), (v,))[1]

        tangent, twice = jax.jvp(push, (floats,), (v,))
        return {**hessian, "ddy": tangent, "y": twice}

    return jax.lax.map(of, moves)


def without_rules_too(subject: Subject, given: Any, found: dict[str, Any]) -> frozenset[str]:
    """Of the modes that raised, those in which the peer raises as well; by lowering."""
    names = []
    for name, mode in modes(True).items():
        if not isinstance(found.get(name), Raised):
            continue
        try:
            jax.jit(lambda *given, mode=mode: mode(plain(subject), *given)).lower(*given)
        except Exception:  # of whatever kind: that it raises is what is asked
            names.append(name)
    return frozenset(names)


def few_directions(subject: Subject, floats: Any, frozen: frozenset[str]) -> Any:
    """Leaves [directions, ...] of the size of each leaf's own numbers: two of all arguments, and
    one of each alone where they are few."""
    random = generator(subject.key)
    leaves, tree = jax.tree.flatten(floats)
    names = [name for name, _ in named_leaves(floats)]
    alone = float_units(subject)
    sets: list[tuple[int, ...]] = [tuple(range(len(leaves)))] * 2
    if 1 < len(alone) <= ALONE:
        sets += [unit.leaves for unit in alone]

    def noise(i: int, kept: tuple[int, ...]) -> np.ndarray:
        leaf = np.asarray(leaves[i], np.float64)
        if i not in kept or names[i] in frozen or not leaf.size:
            return np.zeros(leaf.shape)
        size = float(np.sqrt(np.mean(np.square(leaf)))) or 1.0
        return size * random.normal(size=leaf.shape)

    rows = [[noise(i, kept) for i in range(len(leaves))] for kept in sets]
    return jax.tree.unflatten(tree, [np.stack(column) for column in zip(*rows, strict=True)])
