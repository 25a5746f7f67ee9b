"""A second look at a rounding error that seems too large: at many inputs near by.

Where a gradient is a difference of large numbers, roundings decide its error, and twice as much as
automatic differentiation's own is a matter of luck at one input. Over several inputs it is not.
Where that error of its own is no small one, being no worse says little, and that is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.evidence import Evidence
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import Programs, generator, named_leaves
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.verdict.rules import (
    AUTOMATIC,
    FACTOR,
    FLOOR,
    ZERO,
    no_yardstick,
    pooled,
)
from funcprop.comparison.witnesses.gradients import automatic_pass, truth_of, working_pass
from funcprop.layer import is_float

INPUTS = 16
AWAY = 0.1  # of every number: in bfloat16 less would meet the same roundings
POOR = 0.01  # relative norm of automatic differentiation's own error, from which on it is told
OWN = "automatic differentiation's own error is"


def judged_again(
    rows: Sequence[Leaf],
    subject: Subject,
    evidence: Evidence,
    run: Programs,
    drawn: bool = False,
) -> list[Leaf]:
    """The rows of the working dtype: those that are wrong by rounding alone judged once more.

    Over INPUTS inputs near by, the geometric mean of (error by hand / automatic differentiation's
    own) may be FACTOR: of the largest errors, and of the relative norms. A mean over so few inputs
    has an error itself, so two of its standard errors are granted. Inputs at which float64 draws
    other random numbers (`drawn`) say nothing of roundings; where all do, the row stays as it is.
    """
    if all(row.ok or not np.isfinite(row.error) for row in rows) or evidence.automatic is None:
        return list(rows)
    found = ratios(subject, evidence, run, drawn)
    judged = []
    for row in rows:
        if row.ok or not np.isfinite(row.error) or row.path not in found:
            judged.append(row)
            continue
        worst = max(found[row.path])  # rtol was granted before
        measured = f"at least {worst:.2g} x over {INPUTS} inputs near by"
        rule = f"error <= {FACTOR:g} x {AUTOMATIC} own: {measured}"
        judged.append(replace(row, ok=bool(worst <= FACTOR), rule=rule))
    return judged


def poor_yardsticks(rows: Sequence[Leaf], evidence: Evidence, drawn: bool = False) -> list[str]:
    """Notes on leaves that are right by the error of automatic differentiation, where in a working
    dtype it is far off from float64 itself, by more than its last digits: at an input of bad
    condition. What float64 alone grants needs no such yardstick.

    Leaves that are zero but for rounding say nothing, nor do other random numbers (`drawn`).
    """
    right = {row.path for row in rows if row.ok and AUTOMATIC in row.rule}
    if evidence.automatic is None or not right:
        return []
    pairs = []
    truths = named_leaves(evidence.exact[0].truth)
    for (path, peer), (_, truth) in zip(named_leaves(evidence.automatic()), truths, strict=True):
        truth = np.asarray(truth[: len(peer)], np.float64)
        known = np.isfinite(np.asarray(peer, np.float64)) & np.isfinite(truth)
        pairs.append((path, np.where(known, peer, 0), np.where(known, truth, 0)))
    largest = max((np.abs(truth).max(initial=0) for _, _, truth in pairs), default=0)
    found: dict[str, list[str]] = {}
    for path, peer, truth in pairs:
        eps, own = float(jnp.finfo(peer.dtype).eps), pooled(peer, truth)
        small = np.abs(peer - truth).max(initial=0) <= ZERO * eps * largest
        other = drawn and no_yardstick(peer, truth, drawn)
        if path in right and own > max(POOR, FLOOR * eps) and not small and not other:
            found.setdefault(str(peer.dtype), []).append(f"{100 * own:.2g} % of {path}")
    return [
        f"{dtype}: {OWN} {', '.join(each)} here, and a rule that errs no more than {FACTOR:g} x as "
        "much is ok: an input of better condition says more"
        for dtype, each in found.items()
    ]


def ratios(
    subject: Subject, evidence: Evidence, run: Programs, drawn: bool
) -> dict[str, tuple[float, float]]:
    """leaf -> lower bounds of the mean ratios of largest errors, and of relative norms."""
    random, logs = generator(subject.key), {}
    count = len(jax.tree.leaves(evidence.rounded)[0])
    dys = jax.tree.map(
        lambda dy, leaf: dy[:count].astype(leaf.dtype), evidence.dys, subject.output()
    )

    def moved(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        wide = np.asarray(leaf, np.float64)
        return (wide * (1 + AWAY * random.normal(size=wide.shape))).astype(leaf.dtype)

    for _ in range(INPUTS):
        params, x = jax.tree.map(moved, (subject.params, subject.x))
        near = replace(subject, params=params, x=x)
        ours, automatic = working_pass(near, dys, run)[1], automatic_pass(near, dys, run)
        with jax.enable_x64(True):
            truth = truth_of(subject.peer, True)
            exact = run("truth", truth, *near.in_float64().given, evidence.dys)
        leaves = jax.tree.leaves(automatic), jax.tree.leaves(exact)
        for (path, by_hand), peers, right in zip(named_leaves(ours), *leaves, strict=True):
            right = np.asarray(right[:count], np.float64)
            if drawn and no_yardstick(peers, right, drawn):
                continue
            eps = float(jnp.finfo(by_hand.dtype).eps)
            sides = [np.asarray(side, np.float64) for side in (by_hand, peers)]
            least = eps * np.abs(right).max(initial=0) + 1e-300
            errors = [max(np.abs(side - right).max(initial=0), least) for side in sides]
            norms = [max(pooled(side, right), eps / 4) for side in sides]
            logs.setdefault(path, []).append([np.log(a / b) for a, b in (errors, norms)])
    return {path: lower_bounds(np.asarray(each)) for path, each in logs.items() if len(each) > 1}


def lower_bounds(logs: np.ndarray) -> tuple[float, float]:
    """logs [inputs, 2] -> the geometric means, less two standard errors."""
    spread = logs.std(axis=0, ddof=1) / np.sqrt(len(logs))
    return tuple(np.exp(logs.mean(axis=0) - 2 * spread).tolist())
