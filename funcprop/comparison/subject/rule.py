"""The target as JAX differentiates it: with its rules, and without them.

`jax.vjp` of a layer's `as_function` is its backward, and that of a function follows the rules that
stand in it. What JAX makes of such a function more than once, or inside of a transformation, is
asked of these.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from funcprop.comparison.programs import Raised, raised
from funcprop.comparison.subject.functions import PROMOTION, Function, Pair
from funcprop.comparison.subject.gradients import Given
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.subject.without_rules import without_rules
from funcprop.gradient import as_function, combine, partition
from funcprop.layer import Context, Params, is_float

Rule = Callable[[Any, Context], Any]  # ({"dx": x, "dparams": params}, context) -> floats of y


class Unit(NamedTuple):
    """An argument in words, and the positions of its leaves among those of all arguments."""

    name: str
    leaves: tuple[int, ...]


def arguments(subject: Subject) -> dict[str, Any]:
    """What is differentiated, and the integers beside it, by the names of the gradients."""
    return {"dx": subject.x, "dparams": subject.params}


def with_rules(subject: Subject) -> Rule:
    """The target as its users differentiate it."""
    layer = subject.layer
    if not subject.by_rule:
        return _rule(as_function(layer))
    return _rule(lambda *given: layer.forward(*given)[0])


def plain(subject: Subject) -> Rule:
    """The peer, whose derivatives are the truth, with the rules taken out where that is possible.

    A reference that is a gradient function keeps them: nothing says that JAX can differentiate what
    it computes.
    """
    peer = subject.peer

    def call(params: Params, x: Any, context: Context) -> Any:
        return peer.forward(params, x, context)[0]

    if isinstance(peer, Given):
        return _rule(call)
    bare = without_rules(call)
    try:
        jax.eval_shape(bare, *subject.given)
    except NotImplementedError:  # a rule that cannot be taken out
        return _rule(call)
    return _rule(bare)


def ruled(subject: Subject) -> Rule:
    """JAX's own derivative of the peer as the rule of a `jax.custom_vjp` function."""
    rule = plain(subject)

    @jax.custom_vjp
    def call(given: Any, context: Context) -> Any:
        return rule(given, context)

    def forward(given: Any, context: Context) -> Any:
        floats, rest = partition(given)
        return jax.vjp(lambda f: rule(combine(f, rest), context), floats)

    call.defvjp(forward, lambda pullback, dy: (pullback(dy)[0], None))
    return call


def promoting(subject: Subject) -> contextlib.AbstractContextManager[Any]:
    """The promotion of dtypes under which a function of others is differentiated."""
    return PROMOTION() if subject.by_rule else contextlib.nullcontext()


def forward_mode(subject: Subject) -> Raised | None:
    """What `jax.jvp` of the target raises, or None: that it has none shows where it is lowered."""
    if not subject.by_rule:
        return Raised("jax.custom_vjp functions have no forward mode")
    rule, context = with_rules(subject), subject.context
    floats, rest = partition(arguments(subject))

    def pushed(floats: Any, rest: Any, context: Context) -> Any:
        with promoting(subject):
            return jax.jvp(lambda f: rule(combine(f, rest), context), (floats,), (floats,))

    try:
        jax.jit(pushed).lower(floats, rest, context)
    except Exception as error:  # of whatever kind: a rule raises what it likes
        return raised(error)
    return None


def units(subject: Subject) -> list[Unit]:
    """The arguments: those of a function one by one, x and the parameters of a layer."""
    counted, found = 0, []
    by_place = isinstance(subject.layer, (Pair, Function))
    given = arguments(subject)
    for name in sorted(given):  # the order of the leaves of a dictionary
        if name == "dx" and by_place:
            trees = [(f"argument {i}", tree) for i, tree in enumerate(given[name])]
        else:
            trees = [(name[1:], given[name])]
        for words, tree in trees:
            count = len(jax.tree.leaves(tree))
            if count:
                found.append(Unit(words, tuple(range(counted, counted + count))))
            counted += count
    return found


def float_units(subject: Subject) -> list[Unit]:
    """The arguments with floats, by their positions among the floats of all arguments."""
    leaves = jax.tree.leaves(arguments(subject))
    places = {old: new for new, old in enumerate(i for i, a in enumerate(leaves) if is_float(a))}
    found = []
    for name, own in units(subject):
        kept = tuple(places[i] for i in own if i in places)
        found += [Unit(name, kept)] if kept else []
    return found


def _rule(call: Callable[..., Any]) -> Rule:
    def rule(given: Any, context: Context) -> Any:
        return partition(call(given["dparams"], given["dx"], context))[0]

    return rule
