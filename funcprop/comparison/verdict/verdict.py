"""What the evidence proves: a row for every leaf, and what cannot be held against it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.comparison.evidence import Evidence
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import Programs, named_leaves
from funcprop.comparison.subject.sampling import draws
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.subject.without_rules import count_rules, narrowest
from funcprop.comparison.verdict.excuses import NOT_JUDGED, excuses, slopes_at
from funcprop.comparison.verdict.rounding import judged_again, poor_yardsticks
from funcprop.comparison.verdict.rules import (
    UNKNOWN,
    judge_exact,
    judge_rounded,
    judge_slopes,
    worst,
)
from funcprop.comparison.witnesses.gradients import gradients
from funcprop.comparison.witnesses.points import SCALES, times
from funcprop.comparison.witnesses.slopes import stops


def judged(
    subject: Subject,
    evidence: Evidence,
    floor: float,
    run: Programs,
    narrow: Any = None,
) -> tuple[list[Leaf], list[str]]:
    """-> a row for every leaf and dtype, and what the witnesses say, in words.

    `run` has the programs of the evidence; `narrow` is the dtype that the layer rounds to inside,
    in float64 too.
    """
    rows, notes = [], []
    excused_here: dict[str, Leaf] = {}
    elsewhere: set[str] = set()  # leaves that are judged at another input
    # in float16 a million is no number
    scaled = (
        () if narrow is not None and float(jnp.finfo(narrow).max) < max(SCALES) else evidence.scaled
    )
    for found in (*evidence.exact, *scaled):
        at = found.point.name
        changed = at and found in evidence.exact
        usual = evidence.exact[0].truth if changed else None
        every = judge_exact(
            subject.name, found.given, found.truth, evidence.numerical, at, narrow, usual,
            rtol=subject.rtol,
        )  # fmt: skip
        every = [row for row in every if row.path not in subject.ignored]
        if at:  # a changed input may have no finite gradient
            every = [row for row in every if row.rule != UNKNOWN]
        wrong = {row.path for row in every if not row.ok}
        if wrong and found in evidence.exact and narrow is None:
            if not at and (rounds := rounded_to(subject, evidence.dys)):
                return judged(subject, evidence, floor, run, rounds)
            slopes = slopes_at(subject, found, evidence.dys, run) if at else evidence.slopes
            excused = excuses(wrong, slopes, at, subject.by_reference)
            if not at:
                excused_here = {
                    row.path: replace(row, ok=True, rule=excused[row.path])
                    for row in every
                    if row.path in excused
                }
            every = [row for row in every if row.path not in excused]
            notes += excused.values()
        elif excused_here and found in evidence.scaled:  # judged against what was excused
            scale = SCALES[evidence.scaled.index(found)]
            own = times(scale, evidence.exact[0].given)
            again = judge_exact(
                subject.name, found.given, own, evidence.numerical, at, rtol=subject.rtol
            )
            every = [row for row in every if row.path not in excused_here]
            every += [row for row in again if row.path in excused_here]
        if changed:
            elsewhere |= {row.path for row in every}
        rows += every
    on_kink = {path for path, row in excused_here.items() if row.rule.endswith(NOT_JUDGED)}
    stairs = on_kink & flat(evidence)  # where it is no stair, it may stand on one
    elsewhere -= stairs
    rows = worst([row for row in rows if row.path not in stairs])
    excused_here = {
        path: replace(row, judged=path in elsewhere or path not in on_kink)
        for path, row in excused_here.items()
    }
    if evidence.rounded is not None:
        working = judged_in_working_dtype(subject, evidence, floor, run)
        working = [row for row in working if row.path not in excused_here]
        drawn = run.once("draws", draws, subject.peer.forward, subject.given)
        notes += poor_yardsticks(working, evidence, drawn)
        rows += working
        count = len(jax.tree.leaves(evidence.rounded)[0])
        own = jax.tree.map(lambda leaf: leaf[:count], evidence.exact[0].given)
        alone = judge_rounded(subject.name, evidence.rounded, None, own, floor, rtol=subject.rtol)
        rows += [row for row in alone if row.path in excused_here]
    rows = [*excused_here.values(), *rows]
    if narrow is not None:  # whose steps finite differences would take for slopes
        return rows, notes
    slopes = [slope for slope in evidence.slopes if not stairs or slope.leaf not in {*stairs, ""}]
    if excused_here:  # where jax.vjp errs, so does jax.jvp
        slopes = [slope._replace(forward=None) for slope in slopes]
    disagreeing, said = judge_slopes(subject.name, slopes, evidence.numerical, subject.rtol)
    if evidence.left_out:
        places = ", ".join(evidence.left_out)
        said.append(f"left out, since the forward raises or is not finite there: {places}")
    if evidence.numerical:
        said.append("jax.vjp cannot differentiate the forward: finite differences are the truth")
    if not all(row.ok for row in rows):  # those say more; and it is the truth that is agreed with
        if not evidence.numerical:
            truth = "the reference" if subject.by_reference else "automatic differentiation"
            told = "finite differences agree"
            said = [line.replace(f"{told} along", f"{told} with {truth} along") for line in said]
    else:
        by_steps = all(row.rule.startswith("finite differences along") for row in disagreeing)
        if disagreeing and by_steps and not evidence.numerical and is_stopped(subject):
            said = ["finite differences go through what the forward hides from a gradient "
                    "(lax.stop_gradient); jax.vjp and jax.jvp agree"]  # fmt: skip
        else:
            rows += disagreeing
    return rows, notes + said


def judged_in_working_dtype(
    subject: Subject, evidence: Evidence, floor: float, run: Programs
) -> list[Leaf]:
    """A row for every leaf in the working dtype."""
    count = len(jax.tree.leaves(evidence.rounded)[0])
    truth = jax.tree.map(lambda leaf: leaf[:count], evidence.exact[0].truth)
    drawn = run.once("draws", draws, subject.peer.forward, subject.given)
    rows = judge_rounded(
        subject.name, evidence.rounded or {}, evidence.automatic, truth, floor,
        rtol=subject.rtol, drawn=drawn,
    )  # fmt: skip
    rows = [row for row in rows if row.path not in subject.ignored]
    return judged_again(rows, subject, evidence, run, drawn)


def flat(evidence: Evidence) -> set[str]:
    """The leaves whose gradient `jax.vjp` finds zero at every input, as that of a bisection."""
    found = [dict(named_leaves(each.truth)) for each in evidence.exact]
    return {path for path in found[0] if not any(each[path].any() for each in found)}


def is_stopped(subject: Subject) -> bool:
    """Whether `lax.stop_gradient` stands in the forward, and no rule that may be wrong instead."""
    peer = subject.peer
    return stops(peer, *subject.given) and not count_rules(peer.forward, *subject.given)


def rounded_to(subject: Subject, dys: Any) -> Any:
    """The narrowest dtype that forward and backward round to in float64, or None."""
    with jax.enable_x64(True):
        given = subject.in_float64().given
        return narrowest(lambda *given: gradients(subject.layer, *given), *given, dys)


def held_in(subject: Subject, dys: Any) -> Any:
    """The narrowest dtype of floats that appears at all in a pass in float64, or None: noise is
    drawn in float32 there, and another program may round it otherwise."""
    with jax.enable_x64(True):
        text = str(jax.make_jaxpr(lambda *given: gradients(subject.layer, *given))(
            *subject.in_float64().given, dys
        ))  # fmt: skip
    for short, dtype in (("bf16[", "bfloat16"), (":f16[", "float16"), (":f32[", "float32")):
        if short in text:
            return jnp.dtype(dtype)
    return None
