"""One leaf of a gradient against its truth: how far off, and which rule decides.

An error is judged against truth computed in float64 and against the error that automatic
differentiation itself makes in the working dtype. No tolerance grows with the size of an array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import named_leaves
from funcprop.comparison.witnesses.slopes import FAR, Slope

EXACT = 1e-10  # relative norm in float64: forty times the square root of eps would be 6e-7
NUMERICAL = 1e-6  # the same where finite differences are the only witness
FACTOR = 2.0  # times the error that automatic differentiation makes in the working dtype
FLOOR = 8.0  # eps of the leaf's largest gradient: rounding of the last operations
SPREAD = 0.25  # of the floor: what the relative norm may be, since roundings are of either sign
ALONE = 1000.0  # eps, where there is no automatic differentiation to compare with
COARSE = 0.25  # the most that those may come to: in bfloat16 they are eight times the gradient
LOST = 0.5  # relative norm of an automatic gradient in the working dtype that has no right digit
APART = 0.1  # of the largest gradient: so far apart are elements of different draws, not roundings
AUTOMATIC = "automatic's"  # stands in the rules of what is judged by its error
BY_AUTOMATIC = f"of {AUTOMATIC}, which differs from float64"
ROUNDED = 64.0  # times that, where the forward itself rounds to a narrow dtype
DIFFERENCES = 1e-6  # of Σ |g v|: how far finite differences may be off, in float64
FORWARD = 1e-9  # the same of jax.jvp
VALUE = 1e-9  # of Σ |dy y|, whose rounding finite differences divide by their step
CHANGED = 1e-7  # where the input was changed: a gradient that saturation made small is a difference
# of large numbers
UNKNOWN = "no element of the truth is finite: nothing can be judged here"
ZERO = 64.0  # eps of the target's largest gradient: a leaf below it is zero but for rounding


def differences_of(narrow: Any) -> float:
    """How exact finite differences are of a forward that rounds to this dtype inside: an eps over a
    step of its fourth root, of a value that may be larger than its gradient."""
    return min(ROUNDED * float(jnp.finfo(narrow).eps) ** 0.75, COARSE)


def judge_exact(
    place: str,
    manual: dict[str, Any],
    truth: dict[str, Any],
    numerical: bool = False,
    at: str = "",
    narrow: Any = None,
    usual: dict[str, Any] | None = None,
    right: dict[str, Any] | None = None,
    rtol: float = 0.0,
) -> list[Leaf]:
    """Rows in float64, leaves [probes, ...]: the relative norm decides.

    `usual` is the truth at the given input, where this one is another. `narrow` is the dtype that
    the target rounds to inside, whatever it is given. There are no rows for leaves that are those
    of `right`, gradients that were judged before. `rtol` is granted where it is more.
    """
    largest, rows = _largest(truth), []
    limit = NUMERICAL if numerical else EXACT
    witness = ", finite differences" if numerical else ""
    if narrow is not None:
        limit = max(limit, FLOOR * float(jnp.finfo(narrow).eps))
        witness += f": {FLOOR:g} eps of {narrow}, to which the target rounds inside"
    zero = ZERO * float(jnp.finfo(jnp.float64).eps) * largest
    told = f"error <= {ZERO:g} eps of the largest gradient of the target"
    tops = [0.0] * len(jax.tree.leaves(truth))
    if usual is not None:
        limit, told = (
            max(limit, CHANGED),
            f"error <= {CHANGED:g} of the gradient at the given input",
        )
        tops = [np.abs(_finite(leaf)).max(initial=0.0) for leaf in jax.tree.leaves(usual)]
    if rtol > limit:
        limit, witness = rtol, f"{witness} (rtol)"
    known = [None] * len(tops) if right is None else jax.tree.leaves(right)
    places = zip(named_leaves(manual), named_leaves(truth), tops, known, strict=True)
    for (path, given), (_, wanted), top, before in places:
        if given is before:
            continue
        row = _measure(place, path, given, wanted)
        small = row.error <= max(zero, CHANGED * top)
        rule = f"relative norm <= {limit:g}{witness}"
        if small and not row.relative <= limit:
            rule = told
        rows.append(_decide(row, bool(row.relative <= limit or small), rule, wanted, at))
    return rows


def judge_rounded(
    place: str,
    manual: dict[str, Any],
    automatic: Callable[[], dict[str, Any]] | None,
    truth: dict[str, Any],
    floor: float = FLOOR,
    at: str = "",
    rtol: float = 0.0,
    drawn: bool = False,
) -> list[Leaf]:
    """Rows in the working dtype, leaves [probes, ...]: the error may be that of a few roundings, or
    FACTOR times that of automatic differentiation.

    Its largest error limits the largest here, its relative norm the norm here: a bias of all
    elements is small in each. `automatic` makes its gradients, and is called where roundings do not
    account for an error; None says that the forward cannot be differentiated automatically. `drawn`
    says that the forward draws random numbers: in float64 they are others, so that the difference
    of two draws would pass for an error of automatic differentiation.
    """
    largest, rows = _largest(truth), []

    def judged(path: str, given: np.ndarray, wanted: np.ndarray, peer: Any = None) -> Leaf:
        row = _measure(place, path, given, wanted)
        eps = float(jnp.finfo(given.dtype).eps)
        scale = float(np.max(np.abs(_finite(wanted)), initial=0.0))
        allowed = [
            (floor * eps * scale, f"error <= {floor:g} eps of the leaf's largest gradient"),
            (eps * largest, "error <= eps of the largest gradient of the target"),
        ]
        spread = [(SPREAD * floor * eps, f"relative norm <= {SPREAD * floor:g} eps")]
        alone = min(ALONE * eps, COARSE)
        if automatic is None:
            allowed.append((alone * scale, f"error <= {alone:.2g} of it: no automatic peer"))
            spread.append((alone, f"relative norm <= {alone:.2g}: no automatic peer"))
        elif peer is not None and no_yardstick(peer, wanted, drawn):
            wanted = np.where(np.isfinite(wanted), np.asarray(peer, np.float64), wanted)
            row = _measure(place, path, given, wanted)
            largest_here = float(np.max(np.abs(_finite(wanted)), initial=0.0))
            told = f"error <= {alone:.2g} {BY_AUTOMATIC}"
            allowed = [(alone * largest_here, told)]
            spread = [(alone, f"relative norm <= {alone:.2g} {BY_AUTOMATIC}")]
        elif peer is not None:
            peer = _where_finite(peer, wanted)
            own, usual = _measure(place, path, peer, wanted).error, pooled(peer, wanted)
            words = f"{FACTOR:g} x {AUTOMATIC} own,"
            allowed.append((FACTOR * own, f"error <= {words} {own:.1e}"))
            spread.append((FACTOR * usual, f"relative norm over probes <= {words} {usual:.1e}"))
        if rtol:
            top = float(np.max(np.abs(_finite(wanted)), initial=0.0))
            allowed.append((rtol * top, f"error <= {rtol:g} (rtol) of the leaf's largest gradient"))
            spread.append((rtol, f"relative norm <= {rtol:g} (rtol)"))
        (limit, rule), (widest, norm_rule) = max(allowed), max(spread)
        ok = row.error <= limit
        if ok and pooled(given, wanted) > widest and row.error > eps * largest:
            ok, rule = False, norm_rule
        return _decide(row, ok, rule, wanted, at)

    pairs = zip(named_leaves(manual), named_leaves(truth), strict=True)
    for i, ((path, given), (_, wanted)) in enumerate(pairs):
        row = judged(path, given, wanted)
        if not row.ok and row.rule != UNKNOWN and automatic is not None:
            row = judged(path, given, wanted, list(named_leaves(automatic()))[i][1])
        rows.append(row)
    return rows


def judge_slopes(
    place: str, slopes: Sequence[Slope], numerical: bool = False, rtol: float = 0.0
) -> tuple[list[Leaf], list[str]]:
    """-> rows for the directions in which a witness disagrees; and how far they agree, in words."""
    rows, kinks, unknown, worst_of = [], 0, 0, {"finite differences": 0.0, "jax.jvp": 0.0}
    bends = 0
    agreed = dict.fromkeys(worst_of, 0)
    for slope in slopes:
        if slope.kink:
            kinks += 1
            continue
        steps = [step for step in (slope.near, slope.far) if np.isfinite(step)]
        if not np.isfinite(slope.by_hand):
            unknown += 1
            if len(steps) == 2 and abs(steps[0] - steps[1]) <= 1e-3 * max(map(abs, steps)):
                rule = "finite where finite differences are"
                rows.append(Leaf(place, slope.leaf or "all leaves", (), "float64", False, rule,
                                 np.inf, np.inf, (), slope.by_hand, steps[0]))  # fmt: skip
            continue
        nearest = min(steps, key=lambda step: abs(step - slope.by_hand), default=None)
        rounding = ZERO * float(jnp.finfo(jnp.float64).eps) * slope.value
        size = max(slope.size, *map(abs, steps), 1e-300)
        # a value that is exact to rtol only makes differences that are off by it over a step
        by_steps = max(DIFFERENCES, rtol) * size + (VALUE + rtol / FAR) * slope.value
        forward = max(DIFFERENCES if numerical else FORWARD, rtol) * size + rounding
        witnesses = [
            ("finite differences", nearest, by_steps),
            ("jax.jvp", slope.forward, forward),
        ]
        for name, said, allowed in witnesses:
            if said is None or not np.isfinite(said):
                continue
            error = abs(said - slope.by_hand)
            if error > allowed and name == "finite differences" and slope.bend:
                bends += 1
                continue
            if error <= allowed:
                agreed[name] += 1
                limit = FORWARD if name == "jax.jvp" else DIFFERENCES
                worst_of[name] = max(worst_of[name], limit * error / allowed)
                continue
            rule = f"{name} along a direction: error <= {allowed:.1e}"
            path = slope.leaf or "all leaves"
            rows.append(Leaf(place, path, (), "float64", False, rule, error, error / size, (),
                             slope.by_hand, said))  # fmt: skip
    told = [
        f"{name} agree{'s' * (name == 'jax.jvp')} along {count} directions ({worst_of[name]:.0e})"
        for name, count in agreed.items()
        if count
    ]
    if len(told) > 1:
        told[1] = f"jax.jvp too ({worst_of['jax.jvp']:.0e})"
    notes = [] if rows or not told else [", ".join(told)]
    if unknown and not rows:
        notes.append(f"along {unknown} directions no slope is finite: nothing was seen there")
    if bends:
        notes.append(f"{bends} of the directions lie across a kink of the derivative")
    if kinks:
        notes.append(f"{kinks} directions lie across a kink, where the slopes of both sides differ")
    return rows, notes


def worst(rows: Sequence[Leaf]) -> list[Leaf]:
    """One row a leaf and dtype: the first that is wrong, else the one with the largest error."""
    found: dict[tuple[str, str, str], Leaf] = {}
    for row in rows:
        key = row.place, row.path, row.dtype
        old = found.get(key)
        if old is None or (old.ok and (not row.ok or row.relative > old.relative)):
            found[key] = row
    return list(found.values())


def _decide(row: Leaf, ok: bool, rule: str, wanted: np.ndarray, at: str) -> Leaf:
    """The row with its verdict; what is not finite decides first."""
    if wanted.size and not np.isfinite(np.asarray(wanted, np.float64)).any():
        ok, rule = False, UNKNOWN
    elif not np.isfinite(row.error):
        ok, rule = False, "finite where the truth is finite"
    return replace(row, ok=bool(ok), rule=rule, at=at)


def _measure(place: str, path: str, given: np.ndarray, wanted: np.ndarray) -> Leaf:
    """Errors of [probes, ...] arrays where the truth is finite."""
    dtype, shape = given.dtype, given.shape[1:]
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    if given.size == 0:
        return Leaf(place, path, shape, str(dtype), True, "")
    known = np.isfinite(wanted)
    wanted = np.where(known, wanted, 0)
    with np.errstate(invalid="ignore", over="ignore"):
        off = np.where(known, np.abs(given - wanted), 0)
    off = np.where(np.isnan(off), np.inf, off)
    error = float(off.max())
    index = np.unravel_index(np.argmax(off), off.shape)
    there = float(wanted[index])
    axes = tuple(range(1, off.ndim))
    # norms of numbers scaled to 1, probe by probe: squares must neither underflow nor overflow
    peak = np.maximum(off, np.abs(wanted)).max(axes, initial=0, keepdims=True)
    if error == np.inf:
        ratio, cosine = np.inf, np.nan
    else:
        peak = np.where(peak == 0, 1, peak)
        given_known = np.where(known, given, 0)
        above, below, ours = (_norm(a / peak, axes) for a in (off, wanted, given_known))
        ratio = float(np.where(above == 0, 0, above / np.maximum(below, 1e-300)).max())
        along = np.sum((given_known / peak) * (wanted / peak), axes)
        both = below * ours
        cosine = float(np.where(both == 0, above == 0, along / np.where(both == 0, 1, both)).min())
    last_place = float(jnp.finfo(dtype).eps) * 2.0 ** np.floor(np.log2(abs(there) or 1.0))
    return Leaf(
        place, path, shape, str(dtype), True, "", error, ratio, tuple(map(int, index[1:])),
        float(given[index]), there, error / last_place, cosine,
    )  # fmt: skip


def pooled(given: np.ndarray, wanted: np.ndarray) -> float:
    """The relative norm of the error over all probes together.

    The largest of the probes' own would be a matter of luck in a leaf of few elements, and where
    the gradient of one probe happens to cancel.
    """
    given, wanted = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    known = np.isfinite(wanted)
    off, wanted = np.where(known, given - wanted, 0), np.where(known, wanted, 0)
    peak = max(np.abs(off).max(initial=0), np.abs(wanted).max(initial=0)) or 1.0
    below = np.linalg.norm(wanted / peak)
    return float(np.linalg.norm(off / peak) / max(below, 1e-300))


def no_yardstick(peer: np.ndarray, wanted: np.ndarray, drawn: bool) -> bool:
    """Whether automatic differentiation's own error says nothing of roundings: no digit is right,
    or, where random numbers are drawn, some element is that of another draw."""
    peer = _where_finite(peer, wanted)
    off = np.abs(_finite(peer - np.asarray(wanted, np.float64))).max(initial=0.0)
    apart = off > APART * np.abs(_finite(wanted)).max(initial=0.0)
    return bool(drawn and apart) or pooled(peer, wanted) > LOST


def _norm(a: np.ndarray, axes: tuple[int, ...]) -> np.ndarray:
    return np.sqrt(np.sum(np.square(a), axes))


def _where_finite(peer: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The peer, forgiven where it is not finite itself: there only the floor counts."""
    peer = np.asarray(peer, np.float64)
    return np.where(np.isfinite(peer), peer, np.asarray(wanted, np.float64))


def _finite(wanted: np.ndarray) -> np.ndarray:
    wanted = np.asarray(wanted, np.float64)
    return wanted[np.isfinite(wanted)]


def _largest(truth: dict[str, Any]) -> float:
    """The largest gradient of the whole target."""
    tops = [np.abs(_finite(leaf)).max(initial=0.0) for leaf in jax.tree.leaves(truth)]
    return float(max(tops, default=0.0))
