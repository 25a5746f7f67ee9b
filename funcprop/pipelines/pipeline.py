"""pipelined: a gradient function that runs a schedule's stages on the devices of a mesh."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from funcprop.doors import door
from funcprop.gradient import Aux, Objective, objective, unpack
from funcprop.gradient.objectives import check_finite, collects
from funcprop.layer import Array, Context, Layer, Params, describe, spell
from funcprop.pipelines.cutting import (
    Chain,
    Piece,
    balanced_cuts,
    chain_of,
    costs_of,
    even_cuts,
    pieces_of,
)
from funcprop.pipelines.gathering import found
from funcprop.pipelines.plan import plan_of
from funcprop.pipelines.running import run
from funcprop.pipelines.schedule import ScheduleName
from funcprop.pipelines.ticks import Ticks, ticks
from funcprop.sharding import placed


@dataclass(frozen=True)
class Pipelined:
    """(params, batch, context) -> value, grads, on the stages of a pipeline: of `pipelined`.

    A frozen value, so that compiled functions are reused.

    counted   (params, batch, context) -> value, grads, and int32 [stages, 4]: how often each
              stage did nothing, F, B and W, as each counts it where it runs
    parts     (params, batch) -> the pieces of each place, in words: what `cuts` cuts again
    table     what each stage does in each tick; it prints itself

    raises  what `pipelined` says of its functions

    >>> import jax
    >>> import funcprop as fp
    >>> model, mesh = fp.Serial(fp.Dense(3), fp.Dense(2)), jax.make_mesh((1,), ("stage",))
    >>> gradient = fp.pipelines.pipelined(model, fp.MeanSquaredError(), mesh, 3, schedule="ZB-H1")
    >>> print(gradient.table)  # one stage
    FBWFBWFBW
    """

    objective: Objective
    mesh: Mesh
    microbatches: int
    schedule: ScheduleName
    chunks: int
    axis: str
    cuts: tuple[int, ...] | None

    @property
    def reduction(self) -> str:
        """That of the objective."""
        return self.objective.reduction

    @property
    def stages(self) -> int:
        """How many devices the mesh has along the axis."""
        return self.mesh.shape[self.axis]

    @property
    def pipelines(self) -> int:
        """How many there are side by side, each with its part of the examples."""
        return self.mesh.size // self.stages

    @property
    def table(self) -> Ticks:
        """What each stage does in each tick."""
        return ticks(self.schedule, self.stages, self.microbatches, self.chunks)

    @door
    def __call__(self, params: Params, batch: Any, context: Context = Context()) -> Any:
        value, grads, _ = self.counted(params, batch, context)
        return value, grads

    @door
    def counted(self, params: Params, batch: Any, context: Context = Context()) -> Any:
        """value, grads, and what each stage did how often."""
        check_finite(self.objective, batch)
        x, target, context = self.unpacked(batch, context)
        return on_stages(self, params, (x, target), context)

    @door
    def parts(self, params: Params, batch: Any) -> tuple[tuple[str, ...], ...]:
        """The pieces of each place, in words."""
        x, _, _ = self.unpacked(batch, Context())
        chain = chain_of(self.objective)
        body, _ = chain.opened(params)
        small = microbatch(x, self.microbatches * self.pipelines)
        found = self.cut(chain, shapes(body), small)
        return tuple(tuple(map(str, part)) for part in found)

    def unpacked(self, batch: Any, context: Context) -> tuple[Any, Any, Context]:
        """x, target and the context with the mask. Raises ValueError."""
        x, target, context = unpack(batch, context)
        if context.mask is not None and self.reduction == "mean":
            raise ValueError(
                "pipelined cannot average masked microbatches, which weigh differently: "
                "give the loss reduction='sum', whose parts are added"
            )
        for leaf in jax.tree.leaves((x, target, context.mask)):
            shape = jnp.shape(leaf)
            parts = self.microbatches * self.pipelines
            if not shape or shape[0] == 0 or shape[0] % parts:
                along = f" on {self.pipelines} pipelines" if self.pipelines > 1 else ""
                raise ValueError(
                    f"a batch of shape {list(shape)} does not divide into {self.microbatches} "
                    f"equal microbatches{along}: give a multiple of {parts}, or another number of "
                    "them: pipelined(..., microbatches=...)"
                )
        return x, target, context

    def cut(self, chain: Chain, params: Params, x: Any) -> list[list[Piece]]:
        """The pieces of every place, for a microbatch x. Raises ValueError."""
        pieces, places = pieces_of(chain.body, (), chain.routes[0]), self.stages * self.chunks
        if len(pieces) < places:
            raise ValueError(
                f"pipelined: {describe(chain.body)} has {len(pieces)} pieces (children of Serial, "
                f"steps of Repeat) and the pipeline {places} places: give it at most {len(pieces)}"
                " stages, or the model more layers"
            )
        cuts = self.cuts
        if cuts is None:
            cuts = even_cuts(pieces, places) if places > 1 else ()
        if cuts is None:
            cuts = balanced_cuts(costs_of(pieces, params, x), places)
        ends = (0, *cuts, len(pieces))
        if len(cuts) != places - 1 or any(a >= b for a, b in itertools.pairwise(ends)):
            raise ValueError(
                f"pipelined: cuts is {cuts!r}, wanted {places - 1} growing numbers from 1 to "
                f"{len(pieces) - 1}, the pieces at which the places after the first begin; "
                "None chooses them, and gradient.parts(params, batch) shows the pieces"
            )
        return [pieces[a:b] for a, b in itertools.pairwise(ends)]


@door
def pipelined(
    model: Layer,
    loss: Layer | None,
    mesh: Mesh,
    microbatches: int,
    *,
    schedule: ScheduleName = "ZB-H1",
    chunks: int = 2,
    axis: str = "stage",
    cuts: Sequence[int] | None = None,
    has_aux: bool = False,
) -> Pipelined:
    """Gradients by hand, on the stages of a pipeline: (params, batch, context) -> value, grads.

    model, loss   as for `backprop`; model alone, with loss=None, where it is an objective that ends
                  in its loss, as that of `gpt_objective`
    mesh          of `jax.make_mesh`; its devices along `axis` are the stages. Along any other axis
                  examples are apart: as many pipelines, each with its part of every microbatch
    microbatches  how many parts the batch is worked through in: they divide its examples
    schedule      "GPipe", "1F1B", "interleaved", "ZB-H1" or "ZB-H2", as for `simulate_pipeline`
    chunks        parts of the model on each stage, where the schedule is interleaved
    axis          the mesh axis that the stages lie along
    cuts          where the places after the first begin, among the children of `Serial` and the
                  steps of `Repeat`. None: the only Repeat in equal parts, where the places divide
                  it; else so that the place with the most operations has as few as can be
    has_aux       return (value, Aux((), statistics)), as `backprop`

    Returns a function that takes the place of `backprop(model, loss)`, in `train_step` too. It
    gives what `accumulate(backprop(model, loss), microbatches)` gives, dropout included: means over
    the microbatches where the loss is a mean, sums where it is a sum. Batch norm has the statistics
    of a microbatch; where examples are apart, of a pipeline's part of one, and dropout another key.

    In each tick every stage does a forward, the input half of a backward or the weight half
    (`split_backward`), or is idle, and hands its neighbors what it made. Where a Repeat lies in
    equal parts on all stages, each holds its own steps alone (`fp.placement.pipeline_parallel`
    lays parameters so); all else lies whole on every device, and is used by one.

    raises  ValueError for a mesh that lacks the axis, a model that collects something
            else than gradients, an objective that ends in no loss, or what `simulate_pipeline`
            raises. Called, ValueError where the microbatches do not divide the batch, a mask is to
            be averaged, there are more places than pieces or `cuts` are no such cuts
    source  Qi et al. 2023, Zero bubble pipeline parallelism, arXiv:2401.10241

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params, mesh = model.init(jax.random.key(0), x), jax.make_mesh((1,), ("stage",))
    >>> gradient = fp.pipelines.pipelined(model, fp.SoftmaxCrossEntropy(), mesh, microbatches=2)
    >>> value, grads = gradient(params, (x, y))
    >>> wanted, _ = fp.backprop(model, fp.SoftmaxCrossEntropy())(params, (x, y))
    >>> bool(jnp.allclose(value, wanted, rtol=1e-5)), grads[0].w.shape
    (True, (2, 3))
    """
    goal = objective(model, loss, has_aux)
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"pipelined: mesh is {spell(mesh)}, wanted a mesh: "
            'write jax.make_mesh((jax.device_count(),), ("stage",))'
        )
    if axis not in mesh.shape:
        raise ValueError(
            f"pipelined: the mesh has {', '.join(map(repr, mesh.shape))}, and no axis {axis!r}: "
            f"write jax.make_mesh((stages,), ({axis!r},)), or axis= with the name of one it has"
        )
    if collects(model):
        raise ValueError(f"pipelined makes gradients, and {model!r} collects something else")
    if goal.reduction not in ("mean", "sum"):
        raise ValueError(
            f"pipelined takes the mean over its microbatches of a mean, or adds sums, and this is "
            f"a {goal.reduction}: give the loss reduction='sum'"
        )
    chain_of(goal)
    whole = isinstance(cuts, (tuple, list)) and all(type(cut) is int for cut in cuts)
    if cuts is not None and not whole:
        raise TypeError(f"pipelined: cuts is {cuts!r}, wanted whole numbers: write cuts=(2, 4, 6)")
    given = None if cuts is None else tuple(cuts)
    chunks = chunks if schedule == "interleaved" else 1
    ticks(schedule, mesh.shape[axis], microbatches, chunks)  # raises for one that there is not
    return Pipelined(goal, mesh, microbatches, schedule, chunks, axis, given)


# --- from the arguments to the program, and back from what the stages found -----------------------


@functools.partial(jax.jit, static_argnums=0)
def on_stages(
    pipe: Pipelined, params: Params, batch: tuple[Any, Any], context: Context
) -> tuple[Any, Params, Array]:
    """value or (value, aux), grads, and what each stage did how often."""
    chain = chain_of(pipe.objective)
    body, loss = chain.opened(params)
    small, its_context = microbatch((batch, context), pipe.microbatches * pipe.pipelines)
    parts = pipe.cut(chain, shapes(body), small[0])
    plan = plan_of(chain, parts, pipe.stages, shapes((body, loss)), small, its_context)
    given = (body, loss), batch, context
    sums = run(plan, pipe.table, pipe.mesh, pipe.axis, pipe.microbatches, *given)
    each = pipe.microbatches * pipe.pipelines
    parts = each if pipe.reduction == "mean" else 1
    value, grads, statistics = found(plan, sums, pipe.stages, parts, each)
    grads = placed(chain.closed(params, *grads), params)
    if pipe.objective.has_aux:
        value = value, Aux((), chain.statistics(statistics))
    return value, grads, sums.count


def microbatch(tree: Any, number: int) -> Any:
    """The shapes of one of some equal parts of a batch, of the key as it is."""

    def part(leaf: Any) -> Any:
        lead = (leaf.shape[0] // number,) if leaf.shape else ()
        return jax.ShapeDtypeStruct((*lead, *leaf.shape[1:]), leaf.dtype)

    return jax.tree.map(part, tree)


def shapes(tree: Any) -> Any:
    """Shapes and dtypes alone, whatever mesh the arrays lie on."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)
