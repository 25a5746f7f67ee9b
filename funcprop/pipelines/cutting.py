"""Cutting: a model as pieces in a row, and which of them each stage has.

The pieces are the children of `Serial`, also of one in another, and the steps of `Repeat`; anything
else is one piece. Around them there may be `Tied`, whose parameters are filled in before the
pieces are asked and whose gradients are joined after, and an objective may end in a loss with
parameters of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from funcprop.composites import Parallel, Repeat, Serial, Tied
from funcprop.gradient import Objective
from funcprop.layer import Context, Layer, Params, describe
from funcprop.layers import Identity

Route = tuple[tuple[int, int], ...]  # (n, i): of the n keys that a composite splits its own into


class Piece(NamedTuple):
    """What is not cut."""

    layer: Layer
    path: tuple[int, ...]  # where its parameters stand; those of a step with all of its Repeat's
    route: Route  # how its key, or that of its Repeat, comes from that of the batch
    step: int = 0
    steps: int = 0  # of its Repeat; 0 where it is none of one

    def __str__(self) -> str:
        at = "".join(f"[{i}]" for i in self.path)
        return f"{at} {describe(self.layer)}" + (f", step {self.step}" if self.steps else "")


class Run(NamedTuple):
    """Pieces of one stage that run as one layer: a piece, or several steps of one Repeat."""

    layer: Layer
    path: tuple[int, ...]
    route: Route
    steps: int = 0  # of its whole Repeat; 0 where it is none
    apart: bool = False  # whether each stage has as many of its steps, and holds no others


@dataclass(frozen=True)
class Chain:
    """An objective, taken apart: what is around, layers in a row, and the loss at the end."""

    tied: Tied | None
    body: Layer
    loss: Layer
    within: bool  # whether body and loss are one layer, whose parameters and keys are theirs

    @property
    def routes(self) -> tuple[Route, Route]:
        """How the keys of the body and of the loss come from that of the batch."""
        return (((2, 0), (2, 0)), ((2, 1),)) if self.within else (((2, 0),), ((2, 1),))

    def opened(self, params: Params) -> tuple[Params, Params]:
        """The parameters of the objective -> those of the body and of the loss."""
        if self.tied is not None:
            (params,) = self.tied.to_children(params)
        if self.within:
            (body, _), loss = params
            return body, loss
        return params, ()

    def closed(self, params: Params, body: Params, loss: Params) -> Params:
        """The gradients of the body and of the loss -> those of the objective."""
        grads = ((body, ()), loss) if self.within else body
        return grads if self.tied is None else self.tied.from_children(params, (grads,))

    def statistics(self, body: Any) -> Any:
        """The body's statistics -> those of the objective's model."""
        found = paired(paired(body, ()), ()) if self.within else body
        return found if self.tied is None or not jax.tree.leaves(found) else (found,)


def paired(first: Any, second: Any) -> Any:
    """As a composite has statistics: () where there are none."""
    return (first, second) if jax.tree.leaves((first, second)) else ()


def chain_of(goal: Objective) -> Chain:
    """An objective as a chain. Raises ValueError where it ends in no loss."""
    tied = goal.model if type(goal.model) is Tied else None
    inner = goal.model.layers[0] if tied is not None else goal.model  # type: ignore[attr-defined]
    if goal.loss is not None:
        return Chain(tied, inner, goal.loss, within=False)
    if type(inner) is Serial and len(inner.layers) == 2:
        first, loss = inner.layers
        if type(first) is Parallel and len(first.layers) == 2:
            body, target = first.layers
            if type(target) is Identity:
                return Chain(tied, body, loss, within=True)
    raise ValueError(
        f"pipelined: {describe(goal.model)} is a whole objective, of which the last stage needs to "
        "know the loss: write pipelined(model, loss, ...), or "
        "Serial(Parallel(model, Identity()), loss) as gpt_objective does"
    )


def pieces_of(layer: Layer, path: tuple[int, ...] = (), route: Route = ()) -> list[Piece]:
    """The pieces of a layer, in order."""
    if type(layer) is Serial:
        n = len(layer.layers)
        return [
            piece
            for i, child in enumerate(layer.layers)
            for piece in pieces_of(child, (*path, i), (*route, (n, i)))
        ]
    if type(layer) is Repeat:
        (child,), n = layer.layers, layer.length
        return [Piece(child, path, route, step, n) for step in range(n)]
    return [Piece(layer, path, route)]


def runs_of(pieces: Sequence[Piece], apart: bool) -> tuple[tuple[Run, int], ...]:
    """The runs of a stage, each with its first step."""
    found: list[tuple[list[Piece], Piece]] = []
    for piece in pieces:
        if found and piece.steps and found[-1][1].path == piece.path:
            found[-1][0].append(piece)
        else:
            found.append(([piece], piece))
    runs = []
    for each, first in found:
        layer = Repeat(first.layer, len(each)) if first.steps else first.layer
        own = apart and first.steps > 0
        runs.append((Run(layer, first.path, first.route, first.steps, own), first.step))
    return tuple(runs)


def are_apart(parts: Sequence[Sequence[Piece]]) -> bool:
    """Whether every Repeat lies on all stages in equal parts, so that each holds its own alone."""
    paths = {piece.path for part in parts for piece in part if piece.steps}
    for path in paths:
        steps = [[p for p in part if p.path == path] for part in parts]
        if any(len(own) != len(steps[0]) for own in steps):
            return False
    return bool(paths)


# --- where to cut ---------------------------------------------------------------------------------


def even_cuts(pieces: Sequence[Piece], places: int) -> tuple[int, ...] | None:
    """Cuts into equal parts of the only Repeat, if there is one that the places divide."""
    paths = {piece.path for piece in pieces if piece.steps}
    if len(paths) != 1:
        return None
    first = next(i for i, piece in enumerate(pieces) if piece.steps)
    each, rest = divmod(pieces[first].steps, places)
    return None if rest else tuple(first + each * i for i in range(1, places))


def balanced_cuts(costs: Sequence[float], places: int) -> tuple[int, ...]:
    """Cuts whose dearest part is as cheap as can be."""
    n, ahead = len(costs), [0.0]
    for cost in costs:
        ahead.append(ahead[-1] + cost)
    # best[k][i]: of the first i pieces in k parts, the dearest part, and where the last one begins
    best = [[(0.0, 0)] + [(math.inf, 0)] * n]
    for _ in range(places):
        row = [(math.inf, 0)] * (n + 1)
        for i in range(1, n + 1):
            row[i] = min((max(best[-1][j][0], ahead[i] - ahead[j]), j) for j in range(i))
        best.append(row)
    cuts, end = [], n
    for k in range(places, 1, -1):
        end = best[k][end][1]
        cuts.append(end)
    return tuple(reversed(cuts))


def costs_of(pieces: Sequence[Piece], params: Params, x: Any) -> list[float]:
    """The operations of each piece's forward, as XLA counts them before it compiles anything."""
    found, known = [], {}
    for piece in pieces:
        own = params_at(params, piece.path)
        if piece.steps:
            (stack,) = own
            own = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape[1:], p.dtype), stack)

        def forward(p: Params, x: Any, layer: Layer = piece.layer) -> Any:
            return layer.forward(p, x, Context(key=jax.random.key(0)))[0]

        y = jax.eval_shape(forward, own, x)
        key = (piece.layer, str((own, x)))
        if key not in known:
            counted = jax.jit(forward).lower(own, x).cost_analysis() or {}
            known[key] = float(counted.get("flops", 0)) + 1
        found.append(known[key])
        x = y
    return found


def params_at(params: Params, path: tuple[int, ...]) -> Params:
    """What stands at a path."""
    for i in path:
        params = params[i]
    return params
