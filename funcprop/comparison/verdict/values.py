"""The values beside the peer's: a gradient of another function proves nothing."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import jax

from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import Programs
from funcprop.comparison.subject.functions import Function, Pair
from funcprop.comparison.subject.gradients import Gradient
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.rules import judge_exact
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, Params


def judge_values(subject: Subject, passed: Any, run: Programs, narrow: Any = None) -> list[Leaf]:
    """A row for every output beside the peer's, and where it is differentiated beside its own.

    A derivative rule replaces the function's own values by those of its forward, and nothing in JAX
    holds the two together. A function without its rules has the values that it has with them.

    passed  the value of a function where it is differentiated
    run     has the program of the forward
    """
    if subject.peer is subject.layer or (subject.surrogate and not subject.by_rule):
        return []

    def values(layer: Layer, params: Params, x: Any, context: Context) -> Any:
        return partition(layer.forward(params, x, context)[0])[0]

    with jax.enable_x64(True):
        given = subject.in_float64().given
        ours = wanted = partition(run("forward", subject.layer.forward, *given)[0])[0]
        if subject.by_reference or not isinstance(subject.layer, (Function, Pair)):
            wanted = run("values of the peer", functools.partial(values, subject.peer), *given)
    rows = []
    name = "value" if isinstance(subject.layer, Gradient) else "y"
    pairs = [
        ("is not that of the function it is compared with", ours, wanted),
    ]
    if subject.by_rule:
        told = "is another one where it is differentiated: its rule's forward differs"
        pairs.append((told, passed, ours))
    for told, found, truth in pairs[1:] if subject.surrogate else pairs:
        given = one_probe(({name: found}, {name: truth}))
        for row in judge_exact(subject.name, *given, narrow=narrow, rtol=subject.rtol):
            rows.append(row if row.ok else replace(row, words=f"the value {told}"))
    return rows


def one_probe(tree: Any) -> Any:
    """The leaves with an axis of one probe."""
    return jax.tree.map(lambda leaf: leaf[None], tree)
