"""Whether second derivatives are right, and forward mode where there is one: leaf by leaf."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.comparison.leaf import Leaf, broke
from funcprop.comparison.programs import Raised, named_leaves
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.rules import DIFFERENCES, EXACT, ZERO, judge_exact
from funcprop.comparison.witnesses.second_order import (
    ALONG_COTANGENT,
    FAR,
    FORWARD,
    FORWARD_OVER_REVERSE,
    REVERSE_OVER_REVERSE,
    Second,
)

NO_FORWARD = "no forward mode: a jax.custom_vjp function has none, so jax.jvp was not asked"
LIES = "lies on a kink"
NOISE = 1e-8  # of the largest first derivative: rounding of it that finite differences divide
BEND = 1e-7  # the same of one-sided ones, where they are compared with each other


class Quantity(NamedTuple):
    """One leaf [directions, ...] beside what it should be, where that is known."""

    path: str
    given: np.ndarray
    truth: np.ndarray | None
    steps: tuple[np.ndarray, ...] | None  # near, far, left, right
    scale: float  # by which rounding is measured


def judged_twice(
    subject: Subject, second: Second, narrow: Any = None
) -> tuple[list[Leaf], list[str]]:
    """-> a row for every leaf of the second derivatives, the worst of all modes; and notes.

    narrow   the dtype that the target rounds to inside: finite differences would take its steps
             for slopes
    """
    rows, notes = raised_rows(subject, second)
    found: dict[str, list[tuple[str, Leaf]]] = {}
    for mode, tree in second.modes.items():
        if isinstance(tree, Raised):
            continue
        if subject.surrogate and mode == REVERSE_OVER_REVERSE:
            continue  # what is no derivative on purpose has no Hessian that is symmetric
        for quantity in quantities(subject, second, mode, narrow):
            if quantity.path in map(second_name, second.frozen):
                continue
            row, said = judged_leaf(subject.name, quantity, second.stopped, narrow, subject.rtol)
            found.setdefault(row.path, []).append((mode, row))
            notes += said
    if any(LIES in note for note in notes):  # so does what is made of it along a direction
        for path in [path for path in found if path.startswith("d²y")]:
            if any(not row.ok for _, row in found[path]):
                notes.append(f"{path} {LIES}: not judged")
                del found[path]
    rows += [worst_mode(each) for each in found.values()]
    if all(row.ok for row in rows):
        notes = agreement(second, narrow) + notes
    return rows, list(dict.fromkeys(notes))


def quantities(subject: Subject, second: Second, mode: str, narrow: Any) -> list[Quantity]:
    """What a mode gave, leaf by leaf."""
    tree, first = second.modes[mode], second.first
    largest = _largest({name: first[name] for name in ("dx", "dparams")})
    if mode == ALONG_COTANGENT:  # backward is linear in dy: its slope is itself
        return [
            Quantity(second_name(path), leaf[None], wanted[None], None, largest)
            for (path, leaf), wanted in zip(
                named_leaves(tree), jax.tree.leaves(second.other), strict=True
            )
        ]
    found = []
    for key in sorted(tree):
        size = largest if key in ("dx", "dparams") else _largest(first["y"])
        truth = None if isinstance(second.truth, Raised) else second.truth.get(key)
        steps = None
        if key in second.steps.near and narrow is None and (key != "ddy" or not subject.surrogate):
            steps = [jax.tree.leaves(each[key]) for each in second.steps]
        if key == "value":  # the output that comes with a tangent, and the function's own
            truth = jax.tree.map(lambda y, like: np.broadcast_to(y, like.shape), first["y"],
                                 tree[key])  # fmt: skip
        names = {"ddy": "tangent" if mode == FORWARD else "ddy", "y": "d²y", "value": "y"}
        wanted = [None] * len(jax.tree.leaves(tree[key]))
        wanted = wanted if truth is None else jax.tree.leaves(truth)
        for i, (path, leaf) in enumerate(named_leaves({key: tree[key]})):
            path = names[key] + path[len(key) :] if key in names else second_name(path)
            of_steps = None if steps is None else tuple(each[i] for each in steps)
            if wanted[i] is not None or of_steps is not None:
                found.append(Quantity(path, leaf, wanted[i], of_steps, size))
    return found


def judged_leaf(
    place: str, quantity: Quantity, stopped: bool, narrow: Any, rtol: float = 0.0
) -> tuple[Leaf, list[str]]:
    """-> a row, and what was not held against it, in words.

    Element by element, since a single one may lie on a kink: what is not the peer's there, or is
    not and finite differences agree with it, is taken out; and so is what nobody knows. Against the
    rest both the peer and finite differences may speak.
    """
    path, given, truth, steps, scale = quantity
    wanted = np.full_like(given, np.nan) if truth is None else np.asarray(truth)
    known = np.isfinite(wanted)
    top = max(_largest(given), _largest(wanted))
    rounding = ZERO * float(np.finfo(np.float64).eps) * scale
    with np.errstate(invalid="ignore", over="ignore"):
        off = known & ~(np.abs(given - wanted) <= max(EXACT, rtol) * top + rounding)
        kink, agrees, against, slope = by_steps(given, steps, top, scale, rtol)
    if narrow is not None:
        off = np.zeros_like(off)
    excused = off & np.isfinite(given) & (kink | agrees)
    notes = []
    if (excused & kink).any():
        notes.append(f"{path} {LIES}: not judged there")
    if (excused & ~kink).any():
        notes.append(
            f"{path}: finite differences of the first derivative agree, and the second derivative "
            "that JAX makes of the plain function does not"
        )
    judged = known & ~excused
    mine, right = (np.where(judged, each, 0) for each in (given, wanted))
    row = _row(place, path, mine, right, scale, narrow, rtol=rtol)
    more = against & ~(known & stopped)
    if row.ok and more.any():
        mine, right = (np.where(more, each, 0) for each in (given, slope))
        row = _row(place, path, mine, right, scale, numerical=True)
        rule = f"finite differences of its own first derivative: {row.rule}"
        row = replace(row, ok=False, rule=rule)
    elif not (known | agrees).any() and given.size:
        notes.append(f"{path}: neither JAX nor finite differences know it: not judged")
    return row, notes


def by_steps(
    given: np.ndarray,
    steps: tuple[np.ndarray, ...] | None,
    top: float,
    scale: float,
    rtol: float = 0.0,
) -> tuple[np.ndarray, ...]:
    """-> elements that lie on a kink; those with which finite differences agree; those that they
    contradict, both steps alike; and the slope that they give."""
    nowhere = np.zeros(given.shape, bool)
    if steps is None:
        return nowhere, nowhere, nowhere, given
    near, far, left, right = steps
    size = np.maximum(np.abs(left), np.abs(right))
    kink = np.isfinite(size) & (np.abs(left - right) > DIFFERENCES * size + BEND * scale)
    errors = [np.abs(step - given) for step in (near, far)]
    least = np.fmin(*errors)
    slope = np.where(errors[0] <= errors[1], near, far)
    allowed = max(DIFFERENCES, rtol) * top + (NOISE + rtol / FAR) * scale
    agrees = np.isfinite(given) & (least <= allowed)
    sure = np.isfinite(near) & np.isfinite(far) & ~kink
    alike = np.abs(near - far) <= 0.1 * least
    lost = ~np.isfinite(given) & (np.abs(near - far) <= 1e-3 * np.maximum(abs(near), abs(far)))
    return kink, agrees, sure & ((alike & (least > allowed)) | lost), np.where(sure, slope, 0)


def raised_rows(subject: Subject, second: Second) -> tuple[list[Leaf], list[str]]:
    """-> one row for the modes that raise and would not without the rules; notes for the others."""
    notes: list[str] = []
    told: dict[str, str] = {}
    for mode, result in second.modes.items():
        if not isinstance(result, Raised):
            continue
        if mode in second.plain_too:
            notes.append(f"{mode} raised {result.words}: without the rules as well")
        else:
            told[mode] = result.words
    rows = []
    if told:
        both = {FORWARD_OVER_REVERSE, REVERSE_OVER_REVERSE} <= told.keys()
        mode, words = next(iter(told.items()))
        rule = f"{mode} raised {words}"
        what = "not twice differentiable" if both else f"no {' and no '.join(told)}"
        rows.append(replace(broke(subject.name, "d²", rule), words=what))
    if second.forward is not None:
        if "custom_vjp" in second.forward.words:
            notes.append(NO_FORWARD)
        elif isinstance(second.truth, Raised):
            notes.append(f"jax.jvp raised {second.forward.words}: no forward mode")
        else:
            row = broke(subject.name, "tangent", f"jax.jvp raised {second.forward.words}")
            rows.append(replace(row, words="no forward mode"))
    if isinstance(second.truth, Raised):
        notes.append(
            f"JAX cannot differentiate the plain function twice ({second.truth.words}): finite "
            "differences of the first derivative are the truth"
        )
    return rows, notes


def worst_mode(found: list[tuple[str, Leaf]]) -> Leaf:
    """The row of a leaf: with all modes that are wrong, or the largest error of the right ones."""
    wrong = [(mode, row) for mode, row in found if not row.ok]
    if not wrong:
        mode, row = max(found, key=lambda each: each[1].relative)
        return replace(row, rule=f"{mode}: {row.rule}")
    words = " and ".join(mode for mode, _ in wrong)
    row = wrong[0][1]
    if row.by_hand == 0 and row.cosine == 0:
        words += ": zero"
    return replace(row, words=words)


def agreement(second: Second, narrow: Any) -> list[str]:
    """How far all agree, in words."""
    done = [mode for mode, tree in second.modes.items() if not isinstance(tree, Raised)]
    twice = [mode for mode in done if mode not in (ALONG_COTANGENT, FORWARD)]
    if not twice:
        return []
    count = len(jax.tree.leaves(second.moves)[0])
    told = f"second derivatives agree along {count} directions ({', '.join(twice)})"
    differences = "" if narrow is not None else "; finite differences of the first derivative too"
    return [told + differences] + (["jax.jvp agrees"] if FORWARD in done else [])


def second_name(path: str) -> str:
    """`d²x[0]` for `dx[0]`."""
    return "d²" + path[1:]


def _row(
    place: str,
    path: str,
    given: np.ndarray,
    wanted: np.ndarray,
    scale: float,
    narrow: Any = None,
    numerical: bool = False,
    rtol: float = 0.0,
) -> Leaf:
    """The row of one leaf; the first derivative stands beside it, by which rounding is measured."""
    beside = np.full((len(given), 1), scale)
    ours, theirs = ({path: each, "": beside} for each in (given, wanted))
    return judge_exact(place, ours, theirs, numerical=numerical, narrow=narrow, rtol=rtol)[0]


def _largest(tree: Any) -> float:
    """The largest finite number."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return max((float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in leaves), default=0.0)
