"""Gathering: what the stages found, as the value, the gradients and the statistics of the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.composites import Repeat, Serial
from funcprop.layer import Layer
from funcprop.pipelines.plan import Plan
from funcprop.pipelines.running import Sums

Path = tuple[int, ...]


def found(
    plan: Plan, sums: Sums, stages: int, parts: int, microbatches: int
) -> tuple[Any, tuple[Any, Any], Any]:
    """-> the value, the gradients of body and loss, the body's statistics.

    parts   what value and gradients are divided by; statistics are means over all microbatches
    """
    grads: dict[Path, list[Any]] = {}
    statistics: dict[Path, list[Any]] = {}
    value = loss = None
    for place in range(len(plan.kind_of)):
        kind, at = plan.kind(place), (place % stages, place // stages)
        told = kind.grads.unpack({dtype: rows[at] for dtype, rows in sums.grads.items()})
        seen = kind.seen.unpack({dtype: rows[at] for dtype, rows in sums.seen.items()})
        each, loss = over(told, kind.told.grads, parts)
        observed = over(seen[0], kind.told.seen[0], microbatches)
        value = over(seen[1], kind.told.seen[1], parts)
        for run, grad, statistic in zip(kind.stage.runs, each, observed, strict=True):
            statistics.setdefault(run.path, []).append(statistic)
            if not run.apart:
                grads.setdefault(run.path, []).append(grad)
    own = over(sums.own, plan.kinds[0].own, parts)
    grads |= {path: [stack] for path, stack in zip(plan.apart, own, strict=True)}
    body = plan.chain.body
    return value, (joined(body, grads), loss), without_empty(joined(body, statistics), body)


def over(total: Any, like: Any, parts: int) -> Any:
    """A sum over so many parts, in the dtypes of `like`."""
    return jax.tree.map(lambda sum, to: (sum / parts).astype(to.dtype), total, like)


def joined(layer: Layer, values: Mapping[Path, list[Any]], path: Path = ()) -> Any:
    """What stands at every path, of a Repeat in parts -> a tree like the layer's parameters."""
    if type(layer) is Serial:
        return tuple(joined(child, values, (*path, i)) for i, child in enumerate(layer.layers))
    if type(layer) is Repeat:
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *values[path])
    return values[path][0]


def without_empty(statistics: Any, layer: Layer) -> Any:
    """() for what has no statistics in it, as `Composite.statistics` says it."""
    if not jax.tree.leaves(statistics):
        return ()
    if type(layer) is not Serial:
        return statistics
    return tuple(map(without_empty, statistics, layer.layers))
