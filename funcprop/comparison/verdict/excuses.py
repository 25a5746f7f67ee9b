"""What differs from `jax.vjp` and is not wrong for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from funcprop.comparison.evidence import Found
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import Programs, computed
from funcprop.comparison.subject.subject import Inner, Subject
from funcprop.comparison.verdict.rules import judge_slopes
from funcprop.comparison.verdict.values import one_probe
from funcprop.comparison.witnesses.gradients import gradients
from funcprop.comparison.witnesses.records import values_at
from funcprop.comparison.witnesses.slopes import Slope, along
from funcprop.layer import Array

NOT_JUDGED = "not judged there"


def excuses(
    wrong: set[str], slopes: Sequence[Slope], at: str, by_reference: bool = False
) -> dict[str, str]:
    """Leaves that differ from `jax.vjp` and are not wrong for it, with the reason.

    On a kink conventions differ. And where finite differences are those of the hand-written
    gradient, it is automatic differentiation that errs: at 0, max(z, 0) + log(1 + e^−|z|) is smooth
    and its parts are not.
    """
    where = f" at {at}" if at else ""
    truth = "the reference" if by_reference else "jax.vjp"
    found = {}
    for path in sorted(wrong):
        along_it = [slope for slope in slopes if slope.leaf == path]
        kinks = [slope for slope in along_it if slope.kink]
        if kinks:
            if all(slope.plausible for slope in kinks):
                found[path] = f"{path} lies on a kink{where}: {NOT_JUDGED}"
            continue
        bare = [slope._replace(forward=None) for slope in along_it]
        known = bare and all(np.isfinite(slope.near) or np.isfinite(slope.far) for slope in bare)
        if known and not judge_slopes("", bare)[0]:
            told = f"finite differences agree, and {truth} does not"
            by_jax = [s._replace(by_hand=s.forward, forward=None) for s in along_it
                      if s.forward is not None]  # fmt: skip
            if by_jax and not judge_slopes("", by_jax)[0]:
                told = f"apart from {truth} by less than finite differences can tell"
            found[path] = f"{path}{where}: {told}"
    return found


def slopes_at(subject: Subject, found: Found, dys: Any, run: Programs) -> tuple[Slope, ...]:
    """The slopes at another input than the given one, where frozen leaves move too."""
    with jax.enable_x64(True):
        there = subject.at(found.point.x, found.point.context).in_float64()
        still = run.known.get("frozen") or subject.ignored
        return along(there, dys, found.given, run=None if still else run)[0]


def excused_inside(
    rows: list[Leaf], inner: Inner, dy: Any, key: Array
) -> tuple[list[Leaf], list[str]]:
    """-> rows of inner layers, without the wrong ones that have an excuse; and the excuses."""
    notes: list[str] = []
    for place in dict.fromkeys(row.place for row in rows if not row.ok):
        seen = values_at(place, inner, dy)
        if seen is None:
            continue
        there, dys = seen.subject(key), one_probe(seen.dy)
        with jax.enable_x64(True):
            by_hand = computed(functools.partial(gradients, there.layer), *there.given, dys)
            slopes = along(there, dys, by_hand)[0]
        wrong = {row.path for row in rows if row.place == place and not row.ok}
        excused = excuses(wrong, slopes, "")
        rows = [row for row in rows if row.place != place or row.path not in excused]
        notes += [f"{place}: {words}" for words in excused.values()]
    return rows, notes
