"""x and dy at the worst element of a wrong gradient, with which it can be redone on paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.comparison.evidence import Evidence
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import named_leaves
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.points import SCALES, times
from funcprop.comparison.witnesses.records import Pass


class Seen(NamedTuple):
    """Gradients by hand [probes, ...], and what they were made of."""

    dtype: str  # "": any
    at: str
    x: Any
    dys: Any
    given: Any


def with_origin(rows: Sequence[Leaf], subject: Subject, evidence: Evidence) -> list[Leaf]:
    """The rows of the subject itself, the wrong ones with x and dy where they tell something."""
    seen = [
        Seen("float64", found.point.name, found.point.x, evidence.dys, found.given)
        for found in evidence.exact
    ]
    seen += [
        Seen("float64", found.point.name, subject.x, times(scale, evidence.dys), found.given)
        for scale, found in zip(SCALES, evidence.scaled, strict=True)
    ]
    if evidence.rounded is not None:
        seen.append(Seen("", "", subject.x, evidence.dys, evidence.rounded))
    return [row if row.ok or row.place != subject.name else origin(row, seen) for row in rows]


def with_origin_inside(rows: Sequence[Leaf], seen: Pass) -> list[Leaf]:
    """The rows of one place inside a model, at what it was given in this pass."""
    one = Seen("float64", "", seen.x, *jax.tree.map(lambda v: v[None], (seen.dy, {"dx": seen.dx})))
    return [row if row.ok or row.place != seen.place else origin(row, [one]) for row in rows]


def origin(row: Leaf, seen: Sequence[Seen]) -> Leaf:
    """The row with the x and dy that stand at the index of its largest error.

    Only of an x to whose elements those of the output correspond: of one shape.
    """
    for each in seen:
        if each.at != row.at or (each.dtype or row.dtype) != row.dtype:
            continue
        xs, given = dict(named_leaves({"dx": each.x})), dict(named_leaves(each.given))
        dys = jax.tree.leaves(each.dys)
        if row.path not in xs or row.path not in given or len(dys) != 1:
            continue
        x, dx, dy = np.asarray(xs[row.path]), given[row.path], dys[0]
        if not dx.shape[1:] == x.shape == dy.shape[1:] == row.shape or len(row.index) != x.ndim:
            continue
        for probe in range(len(dx)):
            place = (probe, *row.index)
            if np.array_equal(float(dx[place]), row.by_hand, equal_nan=True):
                return replace(row, x=float(x[row.index]), dy=float(dy[place]))
    return row
