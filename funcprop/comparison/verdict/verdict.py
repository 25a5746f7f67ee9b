"""What the evidence proves: a row for every leaf, and what cannot be held against it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.evidence import Evidence, Found
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import Programs, cast, measured
from funcprop.comparison.subject.subject import Subject, Surrogate
from funcprop.comparison.subject.without_rules import count_rules, narrowest
from funcprop.comparison.verdict.rounding import looked_at_again
from funcprop.comparison.verdict.rules import (
    UNKNOWN,
    judge_exact,
    judge_rounded,
    judge_slopes,
    worst,
)
from funcprop.comparison.witnesses.gradients import gradients
from funcprop.comparison.witnesses.points import SCALES, times
from funcprop.comparison.witnesses.records import recording, values_at
from funcprop.comparison.witnesses.slopes import Slope, along
from funcprop.gradient import combine, partition
from funcprop.layer import Context, Layer, Params


def judged(
    subject: Subject,
    evidence: Evidence,
    floor: float,
    run: Programs,
    quick: bool = False,
    narrow: Any = None,
) -> tuple[list[Leaf], list[str]]:
    """-> a row for every leaf and dtype, and what the witnesses say, in words.

    `run` has the programs of the evidence; `narrow` is the dtype that the layer rounds to inside,
    in float64 too.
    """
    rows, notes = [], []
    excused_here: dict[str, Leaf] = {}
    for found in (*evidence.exact, *evidence.scaled):
        at = found.point.name
        changed = at and found in evidence.exact
        usual = evidence.exact[0].truth if changed else None
        every = judge_exact(
            subject.name, found.given, found.truth, evidence.numerical, at, narrow, usual
        )
        if at:  # a changed input may have no finite gradient
            every = [row for row in every if row.rule != UNKNOWN]
        wrong = {row.path for row in every if not row.ok}
        if wrong and found in evidence.exact and narrow is None:
            if not at and (rounds := rounded_to(subject, evidence.dys)):
                return judged(subject, evidence, floor, run, quick, rounds)
            slopes = slopes_at(subject, found, evidence.dys, run) if at else evidence.slopes
            excused = excuses(wrong, slopes, at)
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
            again = judge_exact(subject.name, found.given, own, evidence.numerical, at)
            every = [row for row in every if row.path not in excused_here]
            every += [row for row in again if row.path in excused_here]
        rows += every
    rows = worst(rows)
    if evidence.rounded is not None:
        working = judged_in_working_dtype(subject, evidence, floor, run, quick)
        rows += [row for row in working if row.path not in excused_here]
        count = len(jax.tree.leaves(evidence.rounded)[0])
        own = jax.tree.map(lambda leaf: leaf[:count], evidence.exact[0].given)
        alone = judge_rounded(subject.name, evidence.rounded, None, own, floor)
        rows += [row for row in alone if row.path in excused_here]
    rows = [*excused_here.values(), *rows]
    if narrow is not None:  # whose steps finite differences would take for slopes
        return rows, notes
    slopes = evidence.slopes
    if excused_here:  # where jax.vjp errs, so does jax.jvp
        slopes = [slope._replace(forward=None) for slope in slopes]
    disagreeing, said = judge_slopes(subject.name, slopes, evidence.numerical)
    if evidence.numerical:
        said.append("jax.vjp cannot differentiate the forward: finite differences are the truth")
    if all(row.ok for row in rows):  # else those rows say more
        by_steps = all(row.rule.startswith("finite differences along") for row in disagreeing)
        if disagreeing and by_steps and not evidence.numerical and stops(subject):
            said = ["finite differences go through what the forward hides from a gradient "
                    "(lax.stop_gradient); jax.vjp and jax.jvp agree"]  # fmt: skip
        else:
            rows += disagreeing
    return rows, notes + said


def other_values(subject: Subject, narrow: Any = None) -> list[Leaf]:
    """A wrong row for every output that is not the peer's, or another one under differentiation.

    A derivative rule replaces the function's own values by those of its forward, and nothing in JAX
    holds the two together.
    """
    if subject.peer is subject.layer or isinstance(subject.peer, Surrogate):
        return []

    def values(layer: Layer, params: Params, x: Any, context: Context) -> Any:
        return partition(layer.forward(params, x, context)[0])[0]

    def differentiated(params: Params, x: Any, context: Context) -> Any:
        floats, rest = partition(x)
        return jax.vjp(lambda f: values(subject.layer, params, combine(f, rest), context), floats)[
            0
        ]

    with jax.enable_x64(True):
        given = wide(*subject.given)
        ours, wanted = (
            measured(functools.partial(values, layer), *given, quick=True)
            for layer in (subject.layer, subject.peer)
        )
        passed = measured(differentiated, *given, quick=True) if subject.by_rule else ours
    rows = []
    for told, found, truth in (
        ("is not that of the function it is compared with", ours, wanted),
        ("is another one where it is differentiated: its rule's forward differs", passed, ours),
    ):
        for row in judge_exact(subject.name, *_one(({"y": found}, {"y": truth})), narrow=narrow):
            if not row.ok:
                rows.append(replace(row, words=f"the value {told}"))
    return rows


def judged_in_working_dtype(
    subject: Subject, evidence: Evidence, floor: float, run: Programs, quick: bool
) -> list[Leaf]:
    """A row for every leaf in the working dtype."""
    count = len(jax.tree.leaves(evidence.rounded)[0])
    truth = jax.tree.map(lambda leaf: leaf[:count], evidence.exact[0].truth)
    rows = judge_rounded(subject.name, evidence.rounded or {}, evidence.automatic, truth, floor)
    return looked_at_again(
        rows, subject.layer, subject.peer, subject.given, evidence, subject.key, run, quick
    )


def stops(subject: Subject) -> bool:
    """Whether `lax.stop_gradient` stands in the forward, and no rule that may be wrong instead."""
    stopped = "stop_gradient" in str(jax.make_jaxpr(subject.peer.forward)(*subject.given))
    return stopped and not count_rules(subject.peer.forward, *subject.given)


def excuses(wrong: set[str], slopes: Sequence[Slope], at: str) -> dict[str, str]:
    """Leaves that differ from `jax.vjp` and are not wrong for it, with the reason.

    On a kink conventions differ. And where finite differences are those of the hand-written
    gradient, it is automatic differentiation that errs: at 0, max(z, 0) + log(1 + e^−|z|) is smooth
    and its parts are not.
    """
    where = f" at {at}" if at else ""
    found = {}
    for path in sorted(wrong):
        along_it = [slope for slope in slopes if slope.leaf == path]
        kinks = [slope for slope in along_it if slope.kink]
        if kinks:
            if all(slope.plausible for slope in kinks):
                found[path] = f"{path} lies on a kink{where}: not judged there"
            continue
        bare = [slope._replace(forward=None) for slope in along_it]
        known = bare and all(np.isfinite(slope.near) or np.isfinite(slope.far) for slope in bare)
        if known and not judge_slopes("", bare)[0]:
            found[path] = f"{path}{where}: finite differences agree, and jax.vjp does not"
    return found


def rounded_to(subject: Subject, dys: Any) -> Any:
    """The narrowest dtype that forward and backward round to in float64, or None."""
    with jax.enable_x64(True):
        given = wide(*subject.given)
        return narrowest(lambda *given: gradients(subject.layer, *given), *given, dys)


def slopes_at(subject: Subject, found: Found, dys: Any, run: Programs) -> tuple[Slope, ...]:
    """The slopes at another input than the given one, where frozen leaves move too."""
    with jax.enable_x64(True):
        given = wide(subject.params, found.point.x, found.point.context)
        return along(
            subject.layer, subject.peer, *given, dys=dys, by_hand=found.given, key=subject.key,
            run=None if run.known.get("frozen") else run,
        )[0]  # fmt: skip


def excused_inside(rows: list[Leaf], subject: Subject, dy: Any) -> tuple[list[Leaf], list[str]]:
    """-> rows of inner layers, without the wrong ones that have an excuse; and the excuses."""
    notes: list[str] = []
    for place in dict.fromkeys(row.place for row in rows if not row.ok):
        record = values_at(place, lenient(subject.layer), *subject.given, dy)
        if record is None:
            continue
        with jax.enable_x64(True):
            given, dys = (record.params, record.x, record.context), _one(record.dy)
            by_hand = measured(functools.partial(gradients, record.layer), *given, dys, quick=True)
            slopes = along(record.layer, record.layer, *given, dys, by_hand, subject.key)[0]
        wrong = {row.path for row in rows if row.place == place and not row.ok}
        excused = excuses(wrong, slopes, "")
        rows = [row for row in rows if row.place != place or row.path not in excused]
        notes += [f"{place}: {words}" for words in excused.values()]
    return rows, notes


def _one(tree: Any) -> Any:
    """The leaves with an axis of one probe."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def lenient(model: Layer) -> Layer:
    """The model with every layer recording, composites too, even what breaks the contract."""
    return recording(model, composites=True, strict=False)


def wide(*trees: Any) -> list[Any]:
    """The trees in float64."""
    return [cast(tree, jnp.float64) for tree in trees]
