"""A second look at a rounding error that seems too large: at many inputs near by.

Where a gradient is a difference of large numbers, roundings decide its error, and twice as much as
automatic differentiation's own is a matter of luck at one input. Over several inputs it is not.
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
from funcprop.comparison.programs import Programs, cast, generator, named_leaves
from funcprop.comparison.verdict.rules import FACTOR, pooled
from funcprop.comparison.witnesses.gradients import in_working_dtype, truth_of
from funcprop.layer import Array, Context, Layer, Params, is_float

INPUTS = 16


AWAY = 0.1  # of every number: in bfloat16 less would meet the same roundings


def looked_at_again(
    rows: Sequence[Leaf],
    layer: Layer,
    peer: Layer,
    given: tuple[Params, Any, Context],
    evidence: Evidence,
    key: Array,
    run: Programs,
    quick: bool,
) -> list[Leaf]:
    """The rows of the working dtype: those that are wrong by rounding alone judged once more.

    Over INPUTS inputs near by, the geometric mean of (error by hand / automatic differentiation's
    own) may be FACTOR: of the largest errors, and of the relative norms. A mean over so few inputs
    has an error itself, so two of its standard errors are granted.
    """
    if all(row.ok or not np.isfinite(row.error) for row in rows) or evidence.automatic is None:
        return list(rows)
    found = ratios(layer, peer, given, evidence, key, run, quick)
    judged = []
    for row in rows:
        if row.ok or not np.isfinite(row.error):
            judged.append(row)
            continue
        worst = max(found[row.path])
        measured = f"at least {worst:.2g} x over {INPUTS} inputs near by"
        rule = f"error <= {FACTOR:g} x automatic's own: {measured}"
        judged.append(replace(row, ok=bool(worst <= FACTOR), rule=rule))
    return judged


def ratios(
    layer: Layer,
    peer: Layer,
    given: tuple[Params, Any, Context],
    evidence: Evidence,
    key: Array,
    run: Programs,
    quick: bool,
) -> dict[str, tuple[float, float]]:
    """leaf -> lower bounds of the mean ratios of largest errors, and of relative norms."""
    params, x, context = given
    random, logs = generator(key), {}
    count = len(jax.tree.leaves(evidence.rounded)[0])
    dys = jax.tree.map(
        lambda dy, leaf: dy[:count].astype(leaf.dtype),
        evidence.dys, jax.eval_shape(lambda *a: layer.forward(*a)[0], *given),
    )  # fmt: skip

    def moved(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        wide = np.asarray(leaf, np.float64)
        return (wide * (1 + AWAY * random.normal(size=wide.shape))).astype(leaf.dtype)

    for _ in range(INPUTS):
        near = *jax.tree.map(moved, (params, x)), context
        ours, automatic = in_working_dtype(layer, peer, True, (*near, dys), run, quick)
        with jax.enable_x64(True):
            wide = [cast(tree, jnp.float64) for tree in near]
            exact = run("truth", truth_of(peer, True), *wide, evidence.dys, quick=True)
        leaves = jax.tree.leaves(automatic), jax.tree.leaves(exact)
        for (path, by_hand), peers, truth in zip(named_leaves(ours), *leaves, strict=True):
            truth = np.asarray(truth[:count], np.float64)
            eps = float(jnp.finfo(by_hand.dtype).eps)
            sides = [np.asarray(side, np.float64) for side in (by_hand, peers)]
            least = eps * np.abs(truth).max(initial=0) + 1e-300
            errors = [max(np.abs(side - truth).max(initial=0), least) for side in sides]
            norms = [max(pooled(side, truth), eps / 4) for side in sides]
            logs.setdefault(path, []).append([np.log(a / b) for a, b in (errors, norms)])
    return {path: lower_bounds(np.asarray(each)) for path, each in logs.items()}


def lower_bounds(logs: np.ndarray) -> tuple[float, float]:
    """logs [inputs, 2] -> the geometric means, less two standard errors."""
    spread = logs.std(axis=0, ddof=1) / np.sqrt(len(logs))
    return tuple(np.exp(logs.mean(axis=0) - 2 * spread).tolist())
