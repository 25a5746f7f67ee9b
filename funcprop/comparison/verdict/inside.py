"""Which layer inside a model is wrong: every one is checked at the values of the actual pass."""

from __future__ import annotations

from typing import Any

import jax

from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import Programs
from funcprop.comparison.subject.subject import Inner
from funcprop.comparison.verdict.rules import judge_exact
from funcprop.comparison.witnesses.gradients import Grads
from funcprop.comparison.witnesses.records import FAILURES, Name, Pass, checked, model_of, recorded
from funcprop.layer import Layer


def localize(
    model: Layer, inner: Inner, dy: Any, programs: Programs | None = None
) -> tuple[list[Leaf], list[str]]:
    """Rows for every layer that records in the model, in float64; notes where that fails."""

    def run(records: list[Pass]) -> list[tuple[Name, Grads, Grads, Any]]:
        return [checked(record) for record in records]

    try:
        found = recorded(run, model, inner, dy, programs)
    except FAILURES as error:
        return [], [f"could not look inside: {type(error).__name__}: {error}"]
    rows = []
    for name, given, wanted, reached in found:
        if not reached:
            continue
        probe = jax.tree.map(lambda leaf: leaf[None], (given, wanted))
        rows += judge_exact(name.place, *probe, rtol=inner.rtol)
    return rows, []


def judged_inside(
    inner: Inner, good: bool, dy: Any, programs: Programs | None = None
) -> tuple[list[Leaf], list[str]]:
    """Rows for the leaves of a model; and, where they are right and the whole is not, for the
    composite that is wrong, the deepest one.
    """
    rows, notes = localize(model_of(inner), inner, dy, programs)
    if not good and all(row.ok for row in rows) and not notes:
        every, notes = localize(model_of(inner, composites=True), inner, dy)
        wrong = [row for row in every if not row.ok]
        rows += [row for row in wrong if row.place == wrong[0].place]
    return rows, notes
