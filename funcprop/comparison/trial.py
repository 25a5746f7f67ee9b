"""A comparison, stage by stage."""

from __future__ import annotations

import jax

from funcprop.comparison.evidence import bytes_of, observe
from funcprop.comparison.explanation.explanation import (
    explained,
    explained_inside,
    shapes_explained,
)
from funcprop.comparison.leaf import Broken, Leaf
from funcprop.comparison.programs import Programs
from funcprop.comparison.report.comparison import Comparison
from funcprop.comparison.subject.subject import Subject, Surrogate
from funcprop.comparison.verdict.contract import check_contract
from funcprop.comparison.verdict.inside import inside
from funcprop.comparison.verdict.verdict import (
    excused_inside,
    judged,
    lenient,
    other_values,
    rounded_to,
)
from funcprop.comparison.witnesses.overflow import overflows
from funcprop.comparison.witnesses.points import cotangents
from funcprop.composites import Composite
from funcprop.gradient import partition
from funcprop.layer import describe


def compare_subject(
    subject: Subject,
    probes: int,
    floor: float,
    quick: bool = False,
    programs: Programs | None = None,
) -> Comparison:
    """What the witnesses say of a layer under `probes` random cotangents, and more in float64."""
    layer = subject.layer
    run = Programs() if programs is None else programs
    dys = cotangents(layer, *subject.given, probes, subject.key)
    dy = jax.tree.map(lambda leaf: leaf[0], dys)

    def report(rows: list[Leaf], notes: list[str], kept: int | None = None) -> Comparison:
        return Comparison(describe(layer), tuple(rows), tuple(notes), kept)

    rows, notes = check_contract(layer, *subject.given, dy, run)
    if rows:
        return report(shapes_explained(rows, subject, dys), notes)
    if not jax.tree.leaves(partition((subject.params, subject.x))[0]) or not jax.tree.leaves(dys):
        notes.append("no float goes in, or none comes out: only the gradients' trees were checked")
        return report(rows, notes)
    try:
        evidence = observe(
            layer, subject.peer, *subject.given, dys=dys, key=subject.key, quick=quick, programs=run
        )
    except Broken as error:
        return report(error.rows, notes)
    others = other_values(subject)
    rows, said = judged(subject, evidence, floor, run, quick)
    if not all(row.ok for row in (*others, *rows)) and (
        narrow := rounded_to(subject, evidence.dys)
    ):
        others = other_values(subject, narrow)
        rows, said = judged(subject, evidence, floor, run, quick, narrow)
    if others:  # excuses speak of the target's own forward
        return report([*others, *rows], [], bytes_of(evidence.residuals))
    if evidence.rounded is not None:
        by_jax = not evidence.numerical
        said += overflows(
            layer, subject.peer, by_jax, (*subject.given, dys), evidence.dys, run, quick
        )
    # a surrogate speaks of the whole: what inside it is no derivative on purpose is not known
    if isinstance(layer, Composite) and not isinstance(subject.peer, Surrogate) and not notes:
        inner, notes = inside(
            layer, all(row.ok for row in rows), *subject.given, dy=dy, programs=programs
        )
        inner, excused = excused_inside(inner, subject, dy)
        rows = [row for row in inner if row.place != subject.name] + rows
        said += excused
    if wrong := [row for row in rows if not row.ok]:
        if isinstance(layer, Composite) and wrong[0].place != subject.name:
            rows = explained_inside(rows, lenient(layer), *subject.given, dy, subject.key)
        else:
            rows = explained(rows, subject, evidence.dys, evidence.exact[0])
    return report(rows, notes + said, bytes_of(evidence.residuals))
