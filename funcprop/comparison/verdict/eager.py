"""The verdict on a target that JAX cannot trace."""

from __future__ import annotations

from dataclasses import replace

from funcprop.comparison.leaf import Leaf
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.rules import UNKNOWN, judge_exact, judge_rounded
from funcprop.comparison.verdict.values import one_probe
from funcprop.comparison.witnesses.eager import Eager

UNTRACED = (
    "JAX cannot trace it: run eagerly, at the given input alone, with finite differences for the "
    "truth"
)
NO_STEP = "finite differences of several steps disagree: no slope is known"


def judged_eagerly(subject: Subject, found: Eager, floor: float) -> tuple[list[Leaf], list[str]]:
    """-> rows and notes."""
    name, rows, notes = subject.name, [], [UNTRACED]
    if subject.by_reference:
        values = one_probe(tuple({"y": each} for each in found.values))
        for row in judge_exact(name, *values, rtol=subject.rtol):
            words = "the value is not that of the function it is compared with"
            rows.append(row if row.ok else replace(row, words=words))
    rows += judge_exact(name, found.given, found.truth, numerical=True, rtol=subject.rtol)
    if found.rounded is not None:
        rows += judge_rounded(name, found.rounded, None, found.truth, floor, rtol=subject.rtol)
    rows = [
        replace(row, ok=True, judged=False, rule=NO_STEP) if row.rule == UNKNOWN else row
        for row in rows
    ]
    rows = [row for row in rows if row.path not in subject.ignored]
    some, every, known = found.steps
    if some < every:
        notes.append(f"finite differences at {some} of {every} numbers, drawn at random")
    if known < some:
        notes.append(f"at {some - known} of {some} numbers their steps disagree: not judged there")
    return rows, notes
