"""What differs from `jax.vjp` and is not wrong for it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from funcprop.comparison.evidence import Found
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import Programs, cast, computed, generator, named_leaves
from funcprop.comparison.subject.subject import Inner, Subject
from funcprop.comparison.verdict.rules import judge_slopes
from funcprop.comparison.verdict.values import one_probe
from funcprop.comparison.witnesses.gradients import gradients
from funcprop.comparison.witnesses.records import Pass, values_at
from funcprop.comparison.witnesses.slopes import Slope, along
from funcprop.gradient import autodiff, combine, partition
from funcprop.layer import Array

NOT_JUDGED = "not judged there"
CANCELLING = (
    "no derivative by itself, and right here: however the arguments move, the errors of operands "
    "that hang together cancel"
)
STILL = "no derivative, and has no effect here: no argument moves that operand"
AWAY = 1e-4  # of every number of the arguments, to see how the operands of a call move
CANCELS = 1e-4  # of the sum of all: what is left of it


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


def without_effect(
    place: str, wrong: set[str], inner: Inner, seen: Pass, dy: Any, key: Array
) -> dict[str, str]:
    """Those wrong leaves of a call's gradient whose errors have no effect, however the arguments
    move.

    A rule for a matrix and its factors, or for a symmetric one, may put all of the derivative into
    one of them, or one half: it is right wherever the operands hang together as they do here. And
    an operand that no argument moves is not differentiated here.
    """
    there, dys = seen.subject(key), one_probe(seen.dy)
    floats, rest = partition(inner.x)
    draw, found = generator(key).normal, dict[str, str]()
    with jax.enable_x64(True):
        by_hand, truth = (
            computed(functools.partial(gradients, layer), *there.given, dys)["dx"]
            for layer in (there.layer, autodiff(there.peer))
        )
        off = [a[0] - b[0] for a, b in zip(*map(jax.tree.leaves, (by_hand, truth)), strict=True)]
        for _ in range(2):
            wide = cast(floats, np.float64)
            move = jax.tree.map(lambda leaf: AWAY * draw(size=leaf.shape) * np.abs(leaf), wide)
            ends = [
                values_at(place, inner._replace(x=combine(jax.tree.map(end, wide, move), rest)), dy)
                for end in (np.add, np.subtract)
            ]
            if ends[0] is None or ends[1] is None:
                return {}
            sides = [list(named_leaves({"dx": partition(end.x)[0]})) for end in ends if end]
            each = zip(*sides, off, strict=True)
            told = [(name, (a - b) * e) for (name, a), (_, b), e in each if name in wrong]
            found = {name: CANCELLING if np.any(each) else STILL for name, each in told} | found
            total, size = (sum(float(f(each).sum()) for _, each in told) for f in (np.copy, np.abs))
            if not abs(total) <= CANCELS * size:
                return {}
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
        if inner.words is not None and wrong - excused.keys():
            excused |= {
                path: f"{path} is {told}"
                for path, told in without_effect(place, wrong, inner, seen, dy, key).items()
            }
        rows = [row for row in rows if row.place != place or row.path not in excused]
        notes += [f"{place}: {words}" for words in excused.values()]
    return rows, notes
