"""The plan: what every place of a pipeline computes, and where in the vectors its arrays stand.

A place is a stage's part of the model; a stage has one, interleaved several. Places that compute
the same, as those between the first and the last often do, are of one kind and compiled once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.gradient import partition
from funcprop.layer import Context, LayerError, Params, is_float, spell, widen
from funcprop.pipelines.cutting import Chain, Piece, Run, are_apart, params_at, runs_of
from funcprop.pipelines.packing import Layout, Sizes, layout_of, longest
from funcprop.pipelines.stage import Stage


class Told(NamedTuple):
    """What is summed over the microbatches and told to all stages at the end."""

    seen: Any  # of forward: the statistics of every run, and the value, None but in the last place
    grads: Any  # of the weight half: those of every run, None where they are apart, and the loss's


class Kind(NamedTuple):
    """What some places compute, and the layouts of all that they read and leave."""

    stage: Stage
    x: Layout | None  # None in the first place, which reads the batch
    y: Layout | None  # None in the last, which has the loss
    dx: Layout | None
    dy: Layout | None
    residuals: Layout
    kept: Layout
    seen: Layout
    grads: Layout
    told: Told  # the shapes of seen and grads, whose sums are wider
    own: Any  # the shapes of the gradients that are apart
    value: Any  # the shape of the loss, in the last place


class Plan(NamedTuple):
    """The places of a pipeline."""

    chain: Chain
    kinds: tuple[Kind, ...]
    kind_of: tuple[int, ...]  # of each place
    firsts: np.ndarray  # int [places, runs]: the first step of each run in its Repeat

    def sizes(self, name: str) -> Sizes:
        """Sizes of vectors that every place's `name` fits in."""
        return longest(getattr(kind, name) for kind in self.kinds)

    def kind(self, place: int) -> Kind:
        """What a place computes."""
        return self.kinds[self.kind_of[place]]

    @property
    def apart(self) -> dict[tuple[int, ...], Run]:
        """The runs of which every stage has its own part, by their paths."""
        return {run.path: run for run in self.kinds[0].stage.runs if run.apart}


def plan_of(
    chain: Chain,
    parts: Sequence[Sequence[Piece]],
    stages: int,
    params: tuple[Params, Params],
    batch: tuple[Any, Any],
    context: Context,
) -> Plan:
    """The plan for pieces in parts.

    params  the shapes of those of the body, and of those of the loss
    batch   the shapes of x and target of one microbatch, and `context` its own
    """
    (body, loss), (x, target) = params, batch
    apart = len(parts) == stages and are_apart(parts)
    kinds: list[Kind] = []
    known: dict[Any, int] = {}
    kind_of, firsts = [], []
    for place, pieces in enumerate(parts):
        rows, last = runs_of(pieces, apart), place + 1 == len(parts)
        runs = tuple(run for run, _ in rows)
        stage = Stage(runs, chain.loss if last else None, chain.routes[1])
        own = tuple(shapes_of(body, run) for run in runs), loss if last else ()
        same = (stage, place == 0, spelled((own, x)))
        if same not in known:
            known[same] = len(kinds)
            kinds.append(kind_for(stage, place == 0, own, x, target, context))
        kind_of.append(known[same])
        firsts.append([first for _, first in rows])
        made = kinds[known[same]].y
        x = None if made is None else jax.eval_shape(lambda v, to=made: to.unpack(v), shaped(made))
    width = max(map(len, firsts))
    table = np.array([row + [0] * (width - len(row)) for row in firsts], np.int32)
    return Plan(chain, tuple(kinds), tuple(kind_of), table)


def kind_for(
    stage: Stage, first: bool, params: Params, x: Any, target: Any, context: Context
) -> Kind:
    """The layouts of a stage, by abstract evaluation of its forward and both halves."""
    starts = [np.int32(0) for _ in stage.runs]

    def forward(params: Params, x: Any, target: Any, context: Context) -> Any:
        y, residuals, statistics = stage.forward(params, x, target, context, starts)
        return y, partition(y)[0], residuals, statistics

    y, dy, residuals, statistics = jax.eval_shape(forward, params, x, target, context)
    last = stage.loss is not None
    if last and (not is_float(y) or y.shape != ()):
        assert stage.loss is not None
        raise LayerError(
            stage.loss,
            f"the objective's value is {spell(y)}, wanted a scalar float",
            "end in a loss that reduces: reduction='mean' or 'sum'",
        )
    dx, kept = jax.eval_shape(stage.input_half, params, residuals, dy)
    told, own = jax.eval_shape(lambda p, k: parted(stage, stage.weight_half(p, k)), params, kept)
    seen = (statistics, y if last else None)
    return Kind(
        stage,
        x=None if first else layout_of(x),
        y=None if last else layout_of(y),
        dx=None if first else layout_of(dx),
        dy=None if last else layout_of(dy),
        residuals=layout_of(residuals),
        kept=layout_of(kept),
        seen=layout_of(wide(seen)),
        grads=layout_of(wide(told)),
        told=Told(seen, told),
        own=own,
        value=y if last else None,
    )


def parted(stage: Stage, grads: Any) -> tuple[Any, Any]:
    """Gradients of a stage -> what is told to all, and what is apart and stays."""
    runs, loss = grads
    rows = list(zip(stage.runs, runs, strict=True))
    told = tuple(None if run.apart else grad for run, grad in rows)
    return (told, loss), tuple(grad for run, grad in rows if run.apart)


def wide(tree: Any) -> Any:
    """In the dtypes that sums are made in: 16-bit floats are added in float32."""
    return jax.eval_shape(widened, tree)


def widened(tree: Any) -> Any:
    """16-bit floats in float32."""
    return jax.tree.map(widen, tree)


def shapes_of(body: Params, run: Run) -> Params:
    """The shapes of a run's parameters."""
    length = run.layer.stacked if run.steps else 0  # type: ignore[attr-defined]
    return jax.tree.map(
        lambda p: jax.ShapeDtypeStruct((length, *p.shape[1:]) if length else p.shape, p.dtype),
        params_at(body, run.path),
    )


def shaped(layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    """The vectors of a layout, as shapes."""
    return {dtype: jax.ShapeDtypeStruct((n,), dtype) for dtype, n in layout.sizes.items()}


def spelled(tree: Any) -> Any:
    """Structure, shapes and dtypes, to compare."""
    return jax.tree.structure(tree), tuple((p.shape, str(p.dtype)) for p in jax.tree.leaves(tree))
