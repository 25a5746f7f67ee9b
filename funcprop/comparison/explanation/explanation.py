"""The wrong rows with words: which leaf of which layer, and what is wrong with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from funcprop.comparison.evidence import Found
from funcprop.comparison.explanation.diagnosis import diagnose
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import measured
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.verdict import lenient, wide
from funcprop.comparison.witnesses.gradients import frozen_by, gradients
from funcprop.comparison.witnesses.points import Point, cotangents
from funcprop.comparison.witnesses.records import values_at
from funcprop.composites import Composite
from funcprop.gradient import autodiff
from funcprop.layer import Array, Context, Layer, Params

FROZEN = "backward returned None, which freezes it, and forward lets jax.vjp see it"


# --- what is wrong, in words ----------------------------------------------------------------------


def explained(rows: list[Leaf], subject: Subject, dys: Any, found: Found) -> list[Leaf]:
    """The rows of the first wrong place, with what `diagnose` says of its leaves."""
    place = next(row.place for row in rows if not row.ok)
    with jax.enable_x64(True):
        given = wide(*subject.given)
        words = diagnose(
            subject.layer, *given, dys=dys, given=found.given, truth=found.truth, peer=subject.peer
        )
    words |= dict.fromkeys(words.keys() & frozen_in(subject, dys), FROZEN)
    return [
        replace(row, words=words.get(row.path, "")) if row.place == place and not row.ok else row
        for row in rows
    ]


def frozen_in(subject: Subject, dys: Any) -> frozenset[str]:
    """The names of the leaves to which the layer gives no gradient but None."""
    with jax.enable_x64(True):
        given = wide(*subject.given)
        residuals = jax.eval_shape(lambda *given: subject.layer.forward(*given)[1], *given)
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        return frozen_by(subject.layer, given[0], residuals, dy)


def explained_inside(
    rows: list[Leaf], model: Layer, params: Params, x: Any, context: Context, dy: Any, key: Array
) -> list[Leaf]:
    """The same of a layer inside a `lenient` model, at the values it was given in this pass."""
    place = next(row.place for row in rows if not row.ok)
    record = values_at(place, model, params, x, context, dy)
    if record is None:
        return rows
    subject = Subject(record.layer, record.params, record.x, record.context, key, record.layer)
    with jax.enable_x64(True):
        return tried(rows, subject, cotangents(subject.layer, *subject.given, 3, key))


def shapes_explained(rows: list[Leaf], subject: Subject, dys: Any) -> list[Leaf]:
    """The rows of a broken contract, with words for leaves of another shape."""
    if isinstance(subject.layer, Composite) and rows[0].place != subject.name:
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        return explained_inside(rows, lenient(subject.layer), *subject.given, dy, subject.key)
    return tried(rows, subject, dys)


def tried(rows: list[Leaf], subject: Subject, dys: Any) -> list[Leaf]:
    """`explained`, where only the cotangents are known yet; the rows as they are if that fails."""
    try:
        with jax.enable_x64(True):
            given = wide(*subject.given, dys)
            by_hand = measured(lambda *given: gradients(subject.layer, *given), *given)
            truth = measured(lambda *given: gradients(autodiff(subject.peer), *given), *given)
            found = Found(Point("", subject.x, subject.context), by_hand, truth)
            return explained(rows, subject, given[-1], found)
    except Exception:  # a gradient that cannot be made cannot be explained: its row says why
        return rows
