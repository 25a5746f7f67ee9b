"""Which layer inside a model is wrong: every one is checked at the values of the actual pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.comparison.programs import Programs, cast
from funcprop.comparison.records import Broken, Name, Record, checked, recording, records_in
from funcprop.comparison.truth import Grads
from funcprop.comparison.verdict import Leaf, judge_exact
from funcprop.layer import Context, Layer, Params

FAILURES = (ValueError, TypeError, NotImplementedError)


def localize(
    model: Layer,
    params: Params,
    x: Any,
    context: Context,
    dy: Any,
    *,
    programs: Programs | None = None,
) -> tuple[list[Leaf], list[str]]:
    """Rows for every recorded layer of `recording(...)`, in float64; notes where that fails."""

    def run(records: list[Record]) -> list[tuple[Name, Grads, Grads]]:
        return [checked(record) for record in records]

    try:
        found = recorded(run, model, params, x, context, dy, programs=programs)
    except FAILURES as error:
        return [], [f"could not look inside: {type(error).__name__}: {error}"]
    rows = []
    for name, given, wanted in found:
        probe = jax.tree.map(lambda leaf: leaf[None], (given, wanted))
        rows += judge_exact(name.place, *probe)
    return rows, []


def inside(
    layer: Layer,
    good: bool,
    params: Params,
    x: Any,
    context: Context,
    dy: Any,
    *,
    programs: Programs | None = None,
) -> tuple[list[Leaf], list[str]]:
    """Rows for the leaves of a composite; and, where they are right and the whole is not, for the
    composite itself that is wrong, the deepest one.
    """
    rows, notes = localize(recording(layer), params, x, context, dy, programs=programs)
    if not good and all(row.ok for row in rows) and not notes:
        every, notes = localize(recording(layer, composites=True), params, x, context, dy)
        wrong = [row for row in every if not row.ok]
        rows += [row for row in wrong if row.place == wrong[0].place]
    return rows, notes


def values_at(
    place: str, model: Layer, params: Params, x: Any, context: Context, dy: Any
) -> Record | None:
    """What the layer at `place` was given in this pass: its first step, where it has several."""

    def run(records: list[Record]) -> list[Record]:
        return [record for record in records if record.place == place][:1]

    try:
        found = recorded(run, model, params, x, context, dy)
    except (*FAILURES, Broken):
        return None
    return first_step(found[0]) if found else None


def recorded(
    read: Callable[[list[Record]], Any],
    model: Layer,
    params: Params,
    x: Any,
    context: Context,
    dy: Any,
    *,
    programs: Programs | None = None,
) -> Any:
    """`read(records)` of one pass in float64, as NumPy arrays."""

    def run(params: Params, x: Any, context: Context, dy: Any) -> Any:
        _, residuals = model.forward(params, x, context)
        _, tree = model.backward(params, residuals, dy)
        return read(records_in(tree))

    with jax.enable_x64(True):
        wide = [cast(tree, jnp.float64) for tree in (params, x, context, dy)]
        return (programs or Programs())("records", run, *wide, quick=True)


def first_step(record: Record) -> Record:
    """The record of a layer under a scan, at the index 0 of the axes that the scan has added."""
    leaves, tree = jax.tree.flatten(record)
    added = max(
        (leaf.ndim - rank for leaf, rank in zip(leaves, record.ranks, strict=True)), default=0
    )
    return jax.tree.unflatten(tree, [leaf[(0,) * added] for leaf in leaves])
