"""The wrong rows with words: which leaf of which layer, and what is wrong with it."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.comparison.evidence import Found
from funcprop.comparison.explanation.curve import Curve, curve_of
from funcprop.comparison.explanation.diagnosis import diagnosed, problem_of
from funcprop.comparison.explanation.samples import elementwise_rule
from funcprop.comparison.explanation.worst import with_origin_inside
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import cast, computed
from funcprop.comparison.subject.subject import Inner, Subject
from funcprop.comparison.witnesses.gradients import frozen_by, gradients
from funcprop.comparison.witnesses.points import Point, cotangents
from funcprop.comparison.witnesses.records import values_at
from funcprop.gradient import autodiff
from funcprop.layer import Array

ONLY_DTYPE = re.compile(r"returned \w+(\[.*?\]), wanted \w+\1$")
FROZEN = "backward returned None, which freezes it, and forward lets jax.vjp see it"


class Explained(NamedTuple):
    """Rows with words, and the curve of a rule that acts element by element."""

    rows: list[Leaf]
    curve: Curve | None = None


def explained(
    rows: list[Leaf], subject: Subject, dys: Any, found: Found, numerical: bool = False
) -> Explained:
    """The rows of the first wrong place, with what `diagnose` says of its leaves.

    numerical   whether `jax.vjp` cannot differentiate the peer: then no curve is known
    """
    place = next(row.place for row in rows if not row.ok)
    with jax.enable_x64(True):
        problem = problem_of(
            subject.layer,
            *subject.in_float64().given,
            dys=dys,
            given=found.given,
            truth=found.truth,
            peer=subject.peer,
        )
        rule_of = functools.cache(lambda: None if numerical else elementwise_rule(problem))
        words = diagnosed(problem, rule_of)
        rule = rule_of() if words else None
        curve = None if rule is None else curve_of(rule, place)
    words |= dict.fromkeys(words.keys() & frozen_in(subject, dys), FROZEN)
    told = [
        replace(row, words=words.get(row.path, "")) if row.place == place and not row.ok else row
        for row in rows
    ]
    return Explained(told, curve)


def frozen_in(subject: Subject, dys: Any) -> frozenset[str]:
    """The names of the leaves to which the layer gives no gradient but None."""
    with jax.enable_x64(True):
        wide = subject.in_float64()
        residuals = jax.eval_shape(lambda *given: wide.layer.forward(*given)[1], *wide.given)
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        return frozen_by(wide.layer, wide.params, residuals, dy)


def explained_inside(rows: list[Leaf], inner: Inner, dy: Any, key: Array) -> Explained:
    """The same of a layer inside a model, at the values it was given in this pass."""
    place = next(row.place for row in rows if not row.ok)
    seen = values_at(place, inner, dy)
    if seen is None:
        return Explained(rows)
    subject = seen.subject(key)
    with jax.enable_x64(True):
        return tried(with_origin_inside(rows, seen), subject, cotangents(subject, 3))


def shapes_explained(rows: list[Leaf], subject: Subject, dys: Any) -> list[Leaf]:
    """The rows of a broken contract, with words for leaves of another shape."""
    if subject.inner is not None and rows[0].place != subject.name:
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        found = explained_inside(rows, subject.inner, dy, subject.key).rows
    else:
        found = tried(rows, subject, dys).rows
    # of another dtype alone: what its rounding looks like is no explanation
    return [replace(row, words="") if ONLY_DTYPE.search(row.rule) else row for row in found]


def tried(rows: list[Leaf], subject: Subject, dys: Any) -> Explained:
    """`explained`, where only the cotangents are known yet; the rows as they are if that fails."""
    try:
        with jax.enable_x64(True):
            given = *subject.in_float64().given, cast(dys, jnp.float64)
            by_hand = computed(lambda *given: gradients(subject.layer, *given), *given)
            truth = computed(lambda *given: gradients(autodiff(subject.peer), *given), *given)
            found = Found(Point("", subject.x, subject.context), by_hand, truth)
            return explained(rows, subject, given[-1], found)
    except Exception:  # a gradient that cannot be made cannot be explained: its row says why
        return Explained(rows)
