"""A comparison, stage by stage: contract, witnesses, verdict, what stands inside, words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax

from funcprop.comparison.evidence import Evidence, bytes_of, observe
from funcprop.comparison.explanation.explanation import (
    Explained,
    explained,
    explained_inside,
    shapes_explained,
)
from funcprop.comparison.explanation.narrow import told_in_narrow
from funcprop.comparison.explanation.worst import with_origin
from funcprop.comparison.leaf import Broken, Leaf
from funcprop.comparison.programs import Programs
from funcprop.comparison.report.comparison import TRANSFORMED, Comparison
from funcprop.comparison.subject.functions import Function, traced_anew
from funcprop.comparison.subject.gradients import Gradient
from funcprop.comparison.subject.rules import JAX
from funcprop.comparison.subject.sampling import is_sampler
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.contract import check_contract, check_inside
from funcprop.comparison.verdict.eager import judged_eagerly
from funcprop.comparison.verdict.excuses import excused_inside
from funcprop.comparison.verdict.inside import judged_inside
from funcprop.comparison.verdict.rules import FLOOR, differences_of
from funcprop.comparison.verdict.second_order import judged_twice
from funcprop.comparison.verdict.transformations import judged_under
from funcprop.comparison.verdict.values import judge_values
from funcprop.comparison.verdict.verdict import held_in, judged, rounded_to
from funcprop.comparison.witnesses.eager import measured
from funcprop.comparison.witnesses.overflow import overflows
from funcprop.comparison.witnesses.points import cotangents
from funcprop.comparison.witnesses.records import calls_inside
from funcprop.comparison.witnesses.second_order import second_order
from funcprop.comparison.witnesses.transformations import transformations
from funcprop.gradient import partition

SAMPLE = (
    "a sample that is accepted or rejected by an argument jumps at a fixed key: no witness can "
    "judge the derivative of its distribution"
)
CALLS = 8  # of rules, that are compared as targets of their own
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
    if subject.eager:
        return compare_eagerly(subject, probes, floor, order)
    if subject.inner is not None and subject.inner.whole:
        nested = subject.inner.nested
        nested = None if nested is None else nested._replace(rtol=subject.rtol)
        found = compare_subject(replace(subject, inner=nested), probes, floor, programs, order)
        own = {subject.name: next(iter((subject.inner.words or {}).values()))}
        return replace(found, rows=tuple(by_name(row, own) for row in found.rows))
    run = Programs() if programs is None else programs
    try:
        dys = cotangents(subject, probes)
    except Broken as error:  # a gradient function raises where it is called
        return Comparison(subject.words, tuple(error.rows))
    rows, notes = check_contract(subject, first(dys), run)
    if rows:
        return breaking(subject, rows, dys, notes)
    if not jax.tree.leaves(partition((subject.params, subject.x))[0]) or not jax.tree.leaves(dys):
        return Comparison(subject.words, (), (*notes, NOTHING))
    try:
        evidence = observe(subject, dys, run)
    except Broken as error:
        return Comparison(subject.words, tuple(error.rows), tuple(notes))
    values, rows, said = verdict(subject, evidence, floor, run)
    others = [row for row in values if not row.ok]
    kept = bytes_of(evidence.residuals)
    if others:
        return Comparison(subject.words, (*others, *rows), (), kept)
    if isinstance(subject.layer, Gradient):
        rows = [*values[:1], *rows]
    if evidence.rounded is not None and subject.changed:
        said += overflows(subject, dys, evidence.dys, run)
    # a surrogate speaks of the whole: what inside it is no derivative on purpose is not known
    right = all(row.ok for row in rows)
    if not right and drawn_by_chance(subject):
        rows = [row if row.ok else replace(row, ok=True, judged=False, rule=SAMPLE) for row in rows]
        return Comparison(subject.words, tuple(rows), (*notes, *said, *subject.notes), kept)
    if not right and subject.inner is not None and not subject.inner.always:
        broken, told = check_inside(subject, first(dys), run)
        if broken:
            return breaking(subject, broken, dys, notes)
        notes = [*notes, *told]
    inside = subject.inner if not subject.surrogate and not notes else None
    if inside is not None and (inside.always or not right):
        inner, notes = judged_inside(inside, right, first(dys), run)
        inner, excused = excused_inside(inner, inside, first(dys), subject.key)
        if inside.words is not None:
            reached = {row.place for row in inner}
            inner = [row for row in inner if not row.ok and row.place in inside.words]
            further = [] if right else alone(subject, rows, inner, evidence, floor)
            said.append(told_inside(inside.words, reached, [*inner, *further]))
            inner = [*further, *inner]
        rows = [row for row in inner if row.place != subject.name] + rows
        said += excused
    rows, curve = in_words(rows, subject, evidence, dys)
    rows = called_by_name(rows, subject)
    if order > 1 and all(row.ok for row in rows):
        further, told = beyond_first_order(subject, evidence, run)
        if inside is not None and inside.words is not None:
            further = [*alone(subject, further, [], evidence, floor, order), *further]
        rows, said = rows + further, said + told
    return Comparison(subject.words, tuple(rows), (*notes, *said, *subject.notes), kept, curve)


def breaking(subject: Subject, rows: list[Leaf], dys: Any, notes: list[str]) -> Comparison:
    """The comparison of a target that breaks the contract."""
    rows = called_by_name(shapes_explained(rows, subject, dys), subject)
    return Comparison(subject.words, tuple(rows), tuple(notes))


def compare_eagerly(subject: Subject, probes: int, floor: float, order: int) -> Comparison:
    """The same of a target that JAX cannot trace: run as Python runs it."""
    try:
        rows, notes = judged_eagerly(subject, measured(subject, probes), floor)
    except Broken as error:
        return Comparison(subject.words, tuple(error.rows), subject.notes)
    if order > 1:
        notes.append("order=2 was left out: JAX cannot trace it")
    return Comparison(subject.words, tuple(rows), (*notes, *subject.notes))


def alone(
    subject: Subject,
    rows: list[Leaf],
    inner: list[Leaf],
    evidence: Evidence,
    floor: float,
    order: int = 1,
) -> list[Leaf]:
    """Rows of the calls of rules inside that are wrong as targets of their own, where the whole is.

    For what does not show in one pass in float64: a rule that is wrong in the working dtype, under
    several cotangents at a time, in its second derivative, or for a rule that it calls.

    rows, inner   wrong ones of the whole, and of the calls in that pass
    """
    inside, wrong = subject.inner, [row for row in rows if not row.ok]
    if inside is None or not wrong:
        return []
    at = next((found.point for found in evidence.exact if found.point.name == wrong[0].at), None)
    if at is not None:
        inside = inside._replace(x=at.x)
    try:
        calls = calls_inside(inside, first(evidence.dys), subject.key)
    except Exception:  # what cannot be run again cannot be looked into
        return []
    words, known = inside.words or {}, {row.place for row in inner}
    found: list[Leaf] = []
    calls.sort(key=lambda each: each[1].defined.startswith(JAX))  # JAX's own last
    for place, call, target in calls[:CALLS]:
        if known and not (place in known and call.calls):
            continue
        if found and call.defined.startswith(JAX):
            break
        try:
            if place in known and not wrong_inside(target):
                continue
            compared = compare_subject(target, 3, floor, order=order)
        except Exception:  # it is no target of its own: nothing is learnt
            continue
        for row in compared.wrong:
            own = not row.place or row.place.startswith(TRANSFORMED)
            if own and (place in known or row.dtype not in {each.dtype for each in wrong}):
                continue
            told = f"{words[place]} {row.place}".strip() if own else f"{row.place}, in {call.name}"
            found.append(replace(row, place=told))
    return found


def wrong_inside(target: Subject) -> bool:
    """Whether a rule that a call calls in turn is wrong by itself: the call itself is known to be,
    and one pass costs much less than to compare it."""
    if target.inner is None:
        return False
    rows, _ = judged_inside(target.inner, True, first(cotangents(target, 1)))
    return not all(row.ok for row in rows)


def beyond_first_order(
    subject: Subject, evidence: Evidence, run: Programs
) -> tuple[list[Leaf], list[str]]:
    """-> rows of second derivatives and of transformations that change numbers; and notes."""
    layer, peer = map(traced_anew, (subject.layer, subject.peer))
    subject = replace(subject, layer=layer, peer=layer if subject.peer is subject.layer else peer)
    with jax.enable_x64(True):
        wide = subject.in_float64()
        frozen = run.known.get("frozen", frozenset()) | subject.ignored
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
    narrow = rounded_to(subject, evidence.dys, run) or held_in(wide, evidence.dys)
    return (rows, notes) if narrow is None else judged_by(narrow)


def verdict(
    subject: Subject, evidence: Evidence, floor: float, run: Programs
) -> tuple[list[Leaf], list[Leaf], list[str]]:
    """-> rows of values, rows of gradients, and notes.

    Where something is wrong in a target that rounds inside, all is judged by that dtype.
    """
    values = judge_values(subject, evidence.value, run)
    rows, said = judged(subject, evidence, floor, run)
    right = all(row.ok for row in (*values, *rows))
    if not right and (narrow := rounded_to(subject, evidence.dys, run)):
        if evidence.numerical:  # differences of what is rounded
            subject = replace(subject, rtol=max(subject.rtol, differences_of(narrow)))
        values = judge_values(subject, evidence.value, run, narrow)
        rows, said = judged(subject, evidence, floor, run, narrow)
    return values, rows, said


def in_words(rows: list[Leaf], subject: Subject, evidence: Evidence, dys: Any) -> Explained:
    """The rows, those of the first wrong place with what is wrong, and its curve."""
    wrong = [row for row in rows if not row.ok]
    if not wrong or wrong[0].words:  # a call that was a target of its own has them
        return Explained(rows)
    rows = with_origin(rows, subject, evidence)
    if subject.inner is not None and wrong[0].place != subject.name:
        return explained_inside(rows, subject.inner, first(dys), subject.key)
    found = explained(rows, subject, evidence.dys, evidence.exact[0], evidence.numerical)
    return found._replace(rows=told_in_narrow(found.rows, evidence))


def drawn_by_chance(subject: Subject) -> bool:
    """Whether a function accepts or rejects at random what depends on its arguments."""
    if not isinstance(subject.layer, Function) or subject.by_reference:
        return False
    return is_sampler(subject.layer.values, subject.x)


def called_by_name(rows: list[Leaf], subject: Subject) -> list[Leaf]:
    """The rows of rules inside a function, by their names and lines."""
    words = (subject.inner.words if subject.inner else None) or {}
    return [replace(row, place=words.get(row.place, row.place)) for row in rows]


def by_name(row: Leaf, words: dict[str, str]) -> Leaf:
    """A wrong row by the name and the line of the rule."""
    return row if row.ok else replace(row, place=words.get(row.place, row.place))


def told_inside(words: dict[str, str], reached: set[str], wrong: list[Leaf]) -> str:
    """Which calls of rules inside are right by themselves, at the values of the pass; of those that
    a cotangent reaches."""
    off = {words.get(row.place, row.place) for row in wrong}
    told = {words[place] for place in words.keys() & reached}
    right = sorted(each for each in told if not any(place.startswith(each) for place in off))
    if not told:
        return "no cotangent reaches a rule inside"
    if not right:
        return "every rule inside is wrong by itself"
    return f"right by themselves, at the values of this pass: {'; '.join(right)}"


def first(dys: Any) -> Any:
    """One of the cotangents."""
    return jax.tree.map(lambda leaf: leaf[0], dys)
