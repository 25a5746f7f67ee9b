"""A layer on trial: the contract, the witnesses, the layers inside it, and what is wrong."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.contract import check_contract
from funcprop.comparison.diagnosis import diagnose
from funcprop.comparison.localization import inside, values_at
from funcprop.comparison.overflow import overflows
from funcprop.comparison.programs import Programs, cast, measured
from funcprop.comparison.records import Broken, name_of, recording
from funcprop.comparison.report import Comparison
from funcprop.comparison.rounding import looked_at_again
from funcprop.comparison.slopes import Slope, Surrogate, along
from funcprop.comparison.targets import Function
from funcprop.comparison.truth import (
    SCALES,
    Evidence,
    Found,
    Point,
    cotangents,
    frozen_by,
    gradients,
    observe,
    times,
)
from funcprop.comparison.verdict import (
    UNKNOWN,
    Leaf,
    judge_exact,
    judge_rounded,
    judge_slopes,
    worst,
)
from funcprop.comparison.without_rules import count_rules, narrowest
from funcprop.composites import Composite
from funcprop.gradient import autodiff, combine, partition
from funcprop.layer import Array, Context, Layer, Params, describe

FROZEN = "backward returned None, which freezes it, and forward lets jax.vjp see it"


@dataclass(frozen=True)
class Case:
    """A layer, what it is tried on, and a peer: the layer whose forward JAX differentiates.

    A peer that is a `Surrogate` has other values than the layer.
    """

    layer: Layer
    params: Params
    x: Any
    context: Context
    key: Array
    peer: Layer

    @property
    def by_rule(self) -> bool:
        """Whether JAX differentiates the target, by rules that stand in it."""
        return isinstance(self.layer, Function)

    @property
    def given(self) -> tuple[Params, Any, Context]:
        return self.params, self.x, self.context

    @property
    def name(self) -> str:
        """How rows call it: a target that is no layer of ours has one gradient and no name."""
        own = self.peer is self.layer or isinstance(self.peer, Surrogate)
        return name_of(self.layer, ()) if own else ""


def compare_case(
    case: Case, probes: int, floor: float, quick: bool = False, programs: Programs | None = None
) -> Comparison:
    """What the witnesses say of a layer under `probes` random cotangents, and more in float64."""
    layer = case.layer
    run = Programs() if programs is None else programs
    dys = cotangents(layer, *case.given, probes, case.key)
    dy = jax.tree.map(lambda leaf: leaf[0], dys)

    def report(rows: list[Leaf], notes: list[str], kept: int | None = None) -> Comparison:
        return Comparison(describe(layer), tuple(rows), tuple(notes), kept)

    rows, notes = check_contract(layer, *case.given, dy, run)
    if rows:
        return report(shapes_explained(rows, case, dys), notes)
    if not jax.tree.leaves(partition((case.params, case.x))[0]) or not jax.tree.leaves(dys):
        notes.append("no float goes in, or none comes out: only the gradients' trees were checked")
        return report(rows, notes)
    try:
        evidence = observe(
            layer, case.peer, *case.given, dys=dys, key=case.key, quick=quick, programs=run
        )
    except Broken as error:
        return report(error.rows, notes)
    others = other_values(case)
    rows, said = judged(case, evidence, floor, run, quick)
    if not all(row.ok for row in (*others, *rows)) and (narrow := rounded_to(case, evidence.dys)):
        others = other_values(case, narrow)
        rows, said = judged(case, evidence, floor, run, quick, narrow)
    if others:  # excuses speak of the target's own forward
        return report([*others, *rows], [], bytes_of(evidence.residuals))
    if evidence.rounded is not None:
        by_jax = not evidence.numerical
        said += overflows(layer, case.peer, by_jax, (*case.given, dys), evidence.dys, run, quick)
    # a surrogate speaks of the whole: what inside it is no derivative on purpose is not known
    if isinstance(layer, Composite) and not isinstance(case.peer, Surrogate) and not notes:
        inner, notes = inside(
            layer, all(row.ok for row in rows), *case.given, dy=dy, programs=programs
        )
        inner, excused = excused_inside(inner, case, dy)
        rows = [row for row in inner if row.place != case.name] + rows
        said += excused
    if wrong := [row for row in rows if not row.ok]:
        if isinstance(layer, Composite) and wrong[0].place != case.name:
            rows = explained_inside(rows, lenient(layer), *case.given, dy, case.key)
        else:
            rows = explained(rows, case, evidence.dys, evidence.exact[0])
    return report(rows, notes + said, bytes_of(evidence.residuals))


def judged(
    case: Case,
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
            case.name, found.given, found.truth, evidence.numerical, at, narrow, usual
        )
        if at:  # a changed input may have no finite gradient
            every = [row for row in every if row.rule != UNKNOWN]
        wrong = {row.path for row in every if not row.ok}
        if wrong and found in evidence.exact and narrow is None:
            if not at and (rounds := rounded_to(case, evidence.dys)):
                return judged(case, evidence, floor, run, quick, rounds)
            slopes = slopes_at(case, found, evidence.dys, run) if at else evidence.slopes
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
            again = judge_exact(case.name, found.given, own, evidence.numerical, at)
            every = [row for row in every if row.path not in excused_here]
            every += [row for row in again if row.path in excused_here]
        rows += every
    rows = worst(rows)
    if evidence.rounded is not None:
        working = judged_in_working_dtype(case, evidence, floor, run, quick)
        rows += [row for row in working if row.path not in excused_here]
        count = len(jax.tree.leaves(evidence.rounded)[0])
        own = jax.tree.map(lambda leaf: leaf[:count], evidence.exact[0].given)
        alone = judge_rounded(case.name, evidence.rounded, None, own, floor)
        rows += [row for row in alone if row.path in excused_here]
    rows = [*excused_here.values(), *rows]
    if narrow is not None:  # whose steps finite differences would take for slopes
        return rows, notes
    slopes = evidence.slopes
    if excused_here:  # where jax.vjp errs, so does jax.jvp
        slopes = [slope._replace(forward=None) for slope in slopes]
    disagreeing, said = judge_slopes(case.name, slopes, evidence.numerical)
    if evidence.numerical:
        said.append("jax.vjp cannot differentiate the forward: finite differences are the truth")
    if all(row.ok for row in rows):  # else those rows say more
        by_steps = all(row.rule.startswith("finite differences along") for row in disagreeing)
        if disagreeing and by_steps and not evidence.numerical and stops(case):
            said = ["finite differences go through what the forward hides from a gradient "
                    "(lax.stop_gradient); jax.vjp and jax.jvp agree"]  # fmt: skip
        else:
            rows += disagreeing
    return rows, notes + said


def other_values(case: Case, narrow: Any = None) -> list[Leaf]:
    """A wrong row for every output that is not the peer's, or another one under differentiation.

    A derivative rule replaces the function's own values by those of its forward, and nothing in JAX
    holds the two together.
    """
    if case.peer is case.layer or isinstance(case.peer, Surrogate):
        return []

    def values(layer: Layer, params: Params, x: Any, context: Context) -> Any:
        return partition(layer.forward(params, x, context)[0])[0]

    def differentiated(params: Params, x: Any, context: Context) -> Any:
        floats, rest = partition(x)
        return jax.vjp(lambda f: values(case.layer, params, combine(f, rest), context), floats)[0]

    with jax.enable_x64(True):
        given = wide(*case.given)
        ours, wanted = (
            measured(functools.partial(values, layer), *given, quick=True)
            for layer in (case.layer, case.peer)
        )
        passed = measured(differentiated, *given, quick=True) if case.by_rule else ours
    rows = []
    for told, found, truth in (
        ("is not that of the function it is compared with", ours, wanted),
        ("is another one where it is differentiated: its rule's forward differs", passed, ours),
    ):
        for row in judge_exact(case.name, *_one(({"y": found}, {"y": truth})), narrow=narrow):
            if not row.ok:
                rows.append(replace(row, words=f"the value {told}"))
    return rows


def judged_in_working_dtype(
    case: Case, evidence: Evidence, floor: float, run: Programs, quick: bool
) -> list[Leaf]:
    """A row for every leaf in the working dtype."""
    count = len(jax.tree.leaves(evidence.rounded)[0])
    truth = jax.tree.map(lambda leaf: leaf[:count], evidence.exact[0].truth)
    rows = judge_rounded(case.name, evidence.rounded or {}, evidence.automatic, truth, floor)
    return looked_at_again(rows, case.layer, case.peer, case.given, evidence, case.key, run, quick)


def stops(case: Case) -> bool:
    """Whether `lax.stop_gradient` stands in the forward, and no rule that may be wrong instead."""
    stopped = "stop_gradient" in str(jax.make_jaxpr(case.peer.forward)(*case.given))
    return stopped and not count_rules(case.peer.forward, *case.given)


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


def rounded_to(case: Case, dys: Any) -> Any:
    """The narrowest dtype that forward and backward round to in float64, or None."""
    with jax.enable_x64(True):
        given = wide(*case.given)
        return narrowest(lambda *given: gradients(case.layer, *given), *given, dys)


def slopes_at(case: Case, found: Found, dys: Any, run: Programs) -> tuple[Slope, ...]:
    """The slopes at another input than the given one, where frozen leaves move too."""
    with jax.enable_x64(True):
        given = wide(case.params, found.point.x, found.point.context)
        return along(
            case.layer, case.peer, *given, dys=dys, by_hand=found.given, key=case.key,
            run=None if run.known.get("frozen") else run,
        )[0]  # fmt: skip


def excused_inside(rows: list[Leaf], case: Case, dy: Any) -> tuple[list[Leaf], list[str]]:
    """-> rows of inner layers, without the wrong ones that have an excuse; and the excuses."""
    notes: list[str] = []
    for place in dict.fromkeys(row.place for row in rows if not row.ok):
        record = values_at(place, lenient(case.layer), *case.given, dy)
        if record is None:
            continue
        with jax.enable_x64(True):
            given, dys = (record.params, record.x, record.context), _one(record.dy)
            by_hand = measured(functools.partial(gradients, record.layer), *given, dys, quick=True)
            slopes = along(record.layer, record.layer, *given, dys, by_hand, case.key)[0]
        wrong = {row.path for row in rows if row.place == place and not row.ok}
        excused = excuses(wrong, slopes, "")
        rows = [row for row in rows if row.place != place or row.path not in excused]
        notes += [f"{place}: {words}" for words in excused.values()]
    return rows, notes


def _one(tree: Any) -> Any:
    """The leaves with an axis of one probe."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


# --- what is wrong, in words ----------------------------------------------------------------------


def explained(rows: list[Leaf], case: Case, dys: Any, found: Found) -> list[Leaf]:
    """The rows of the first wrong place, with what `diagnose` says of its leaves."""
    place = next(row.place for row in rows if not row.ok)
    with jax.enable_x64(True):
        given = wide(*case.given)
        words = diagnose(
            case.layer, *given, dys=dys, given=found.given, truth=found.truth, peer=case.peer
        )
    words |= dict.fromkeys(words.keys() & frozen_in(case, dys), FROZEN)
    return [
        replace(row, words=words.get(row.path, "")) if row.place == place and not row.ok else row
        for row in rows
    ]


def frozen_in(case: Case, dys: Any) -> frozenset[str]:
    """The names of the leaves to which the layer gives no gradient but None."""
    with jax.enable_x64(True):
        given = wide(*case.given)
        residuals = jax.eval_shape(lambda *given: case.layer.forward(*given)[1], *given)
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        return frozen_by(case.layer, given[0], residuals, dy)


def explained_inside(
    rows: list[Leaf], model: Layer, params: Params, x: Any, context: Context, dy: Any, key: Array
) -> list[Leaf]:
    """The same of a layer inside a `lenient` model, at the values it was given in this pass."""
    place = next(row.place for row in rows if not row.ok)
    record = values_at(place, model, params, x, context, dy)
    if record is None:
        return rows
    case = Case(record.layer, record.params, record.x, record.context, key, record.layer)
    with jax.enable_x64(True):
        return tried(rows, case, cotangents(case.layer, *case.given, 3, key))


def lenient(model: Layer) -> Layer:
    """The model with every layer recording, composites too, even what breaks the contract."""
    return recording(model, composites=True, strict=False)


def shapes_explained(rows: list[Leaf], case: Case, dys: Any) -> list[Leaf]:
    """The rows of a broken contract, with words for leaves of another shape."""
    if isinstance(case.layer, Composite) and rows[0].place != case.name:
        dy = jax.tree.map(lambda leaf: leaf[0], dys)
        return explained_inside(rows, lenient(case.layer), *case.given, dy, case.key)
    return tried(rows, case, dys)


def tried(rows: list[Leaf], case: Case, dys: Any) -> list[Leaf]:
    """`explained`, where only the cotangents are known yet; the rows as they are if that fails."""
    try:
        with jax.enable_x64(True):
            given = wide(*case.given, dys)
            by_hand = measured(lambda *given: gradients(case.layer, *given), *given)
            truth = measured(lambda *given: gradients(autodiff(case.peer), *given), *given)
            found = Found(Point("", case.x, case.context), by_hand, truth)
            return explained(rows, case, given[-1], found)
    except Exception:  # a gradient that cannot be made cannot be explained: its row says why
        return rows


def wide(*trees: Any) -> list[Any]:
    """The trees in float64."""
    return [cast(tree, jnp.float64) for tree in trees]


def bytes_of(tree: Any) -> int:
    """What arrays of these shapes and dtypes hold."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
