"""What is wrong in the working dtype alone, where float64 is right: `in float32 alone zero`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from funcprop.comparison.evidence import Evidence
from funcprop.comparison.explanation.arrays import multiple, norm
from funcprop.comparison.leaf import Leaf
from funcprop.comparison.programs import named_leaves
from funcprop.comparison.verdict.rules import BY_AUTOMATIC

ROUNDING = 32.0  # eps of the gradient: what a factor may leave over


def told_in_narrow(rows: Sequence[Leaf], evidence: Evidence) -> list[Leaf]:
    """The rows, those of the working dtype with the factor by which all of a leaf is off."""
    if evidence.rounded is None:
        return list(rows)
    given, truth = (
        dict(named_leaves(each)) for each in (evidence.rounded, evidence.exact[0].truth)
    )
    found = []
    for row in rows:
        told = ""
        if not row.ok and not row.words and row.dtype != "float64" and row.path in given:
            right = truth
            if evidence.automatic is not None and row.rule.endswith(BY_AUTOMATIC):
                right = dict(named_leaves(evidence.automatic()))  # whose draw is the same
            told = words_of(given[row.path], np.asarray(right[row.path], np.float64))
        found.append(replace(row, words=f"{told} in {row.dtype} alone") if told else row)
    return found


def words_of(given: np.ndarray, truth: np.ndarray) -> str:
    """Words for a leaf [probes, ...] that is right in float64; "" where it is no factor."""
    eps = float(jnp.finfo(given.dtype).eps)
    given, truth = np.asarray(given, np.float64), truth[: len(given)]
    size = norm(truth) if given.size > 1 else 0.0
    if not np.isfinite(given).all() or not np.isfinite(truth).all() or not size:
        return ""
    c = float(multiple(given, truth))
    if norm(given - c * truth) > ROUNDING * eps * size or abs(c - 1) < 4 * ROUNDING * eps:
        return ""
    if abs(c) < ROUNDING * eps:
        return "zero"
    sign = "sign flipped" if c < 0 else ""
    number = "" if abs(abs(c) - 1) < ROUNDING * eps else f"a factor of {abs(c):.4g}"
    return ", and ".join(filter(None, (sign, number)))
