"""A comparison, stage by stage: contract, witnesses, verdict, what stands inside, words."""

from __future__ import annotations

from typing import Any

import jax

from funcprop.comparison.evidence import Evidence, bytes_of, observe
from funcprop.comparison.explanation.explanation import (
    explained,
    explained_inside,
    shapes_explained,
)
from funcprop.comparison.leaf import Broken, Leaf
from funcprop.comparison.programs import Programs
from funcprop.comparison.report.comparison import Comparison
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.contract import check_contract
from funcprop.comparison.verdict.excuses import excused_inside
from funcprop.comparison.verdict.inside import judged_inside
from funcprop.comparison.verdict.rules import FLOOR
from funcprop.comparison.verdict.second_order import judged_twice
from funcprop.comparison.verdict.transformations import judged_under
from funcprop.comparison.verdict.values import other_values
from funcprop.comparison.verdict.verdict import held_in, judged, rounded_to
from funcprop.comparison.witnesses.overflow import overflows
from funcprop.comparison.witnesses.points import cotangents
from funcprop.comparison.witnesses.second_order import second_order
from funcprop.comparison.witnesses.transformations import transformations
from funcprop.gradient import partition

NOTHING = "no float goes in, or none comes out: only the gradients' trees were checked"


def compare_subject(
    subject: Subject,
    probes: int = 5,
    floor: float = FLOOR,
    programs: Programs | None = None,
    order: int = 1,
) -> Comparison:
    """What the witnesses say of a subject under `probes` random cotangents, and more in float64.

    `order=2` looks at second derivatives, forward mode and transformations too, where the first
    ones are right.
    """
    run = Programs() if programs is None else programs
    try:
        dys = cotangents(subject, probes)
    except Broken as error:  # a gradient function raises where it is called
        return Comparison(subject.words, tuple(error.rows))
    rows, notes = check_contract(subject, first(dys), run)
    if rows:
        return Comparison(subject.words, tuple(shapes_explained(rows, subject, dys)), tuple(notes))
    if not jax.tree.leaves(partition((subject.params, subject.x))[0]) or not jax.tree.leaves(dys):
        return Comparison(subject.words, (), (*notes, NOTHING))
    try:
        evidence = observe(subject, dys, run)
    except Broken as error:
        return Comparison(subject.words, tuple(error.rows), tuple(notes))
    others, rows, said = verdict(subject, evidence, floor, run)
    kept = bytes_of(evidence.residuals)
    if others:
        return Comparison(subject.words, (*others, *rows), (), kept)
    if evidence.rounded is not None:
        said += overflows(subject, not evidence.numerical, dys, evidence.dys, run)
    # a surrogate speaks of the whole: what inside it is no derivative on purpose is not known
    if subject.inner is not None and not subject.surrogate and not notes:
        right = all(row.ok for row in rows)
        inner, notes = judged_inside(subject.inner, right, first(dys), run)
        inner, excused = excused_inside(inner, subject.inner, first(dys), subject.key)
        rows = [row for row in inner if row.place != subject.name] + rows
        said += excused
    rows = in_words(rows, subject, evidence, dys)
    if order > 1 and all(row.ok for row in rows):
        further, told = beyond_first_order(subject, evidence, run)
        rows, said = rows + further, said + told
    return Comparison(subject.words, tuple(rows), (*notes, *said), kept)


def beyond_first_order(
    subject: Subject, evidence: Evidence, run: Programs
) -> tuple[list[Leaf], list[str]]:
    """-> rows of second derivatives and of transformations that change numbers; and notes."""
    with jax.enable_x64(True):
        wide = subject.in_float64()
        frozen = run.known.get("frozen", frozenset())
        second = second_order(wide, evidence.dys, frozen, run)
        trials = transformations(wide, evidence.dys, second, run)

    def judged_by(narrow: Any) -> tuple[list[Leaf], list[str]]:
        with jax.enable_x64(True):
            twice, said = judged_twice(wide, second, narrow)
        under, told = judged_under(wide, trials, narrow)
        rows = [*twice, *under]  # wrong numbers first, which say more than what raises
        rows.sort(key=lambda row: not row.ok and row.rule.startswith("contract"))
        return rows, said + told

    rows, notes = judged_by(None)
    if all(row.ok for row in rows):
        return rows, notes
    narrow = rounded_to(subject, evidence.dys) or held_in(wide, evidence.dys)
    return (rows, notes) if narrow is None else judged_by(narrow)


def verdict(
    subject: Subject, evidence: Evidence, floor: float, run: Programs
) -> tuple[list[Leaf], list[Leaf], list[str]]:
    """-> rows of values that are others, rows of gradients, and notes.

    Where something is wrong in a target that rounds inside, all is judged by that dtype.
    """
    others = other_values(subject)
    rows, said = judged(subject, evidence, floor, run)
    right = all(row.ok for row in (*others, *rows))
    if not right and (narrow := rounded_to(subject, evidence.dys)):
        others = other_values(subject, narrow)
        rows, said = judged(subject, evidence, floor, run, narrow)
    return others, rows, said


def in_words(rows: list[Leaf], subject: Subject, evidence: Evidence, dys: Any) -> list[Leaf]:
    """The rows, those of the first wrong place with what is wrong."""
    wrong = [row for row in rows if not row.ok]
    if not wrong:
        return rows
    if subject.inner is not None and wrong[0].place != subject.name:
        return explained_inside(rows, subject.inner, first(dys), subject.key)
    return explained(rows, subject, evidence.dys, evidence.exact[0])


def first(dys: Any) -> Any:
    """One of the cotangents."""
    return jax.tree.map(lambda leaf: leaf[0], dys)
