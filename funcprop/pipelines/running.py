"""The program of a pipeline: one loop over ticks, in one `shard_map`, the same on every device.

Each tick a device looks up what its stage does, does that alone, and hands its neighbors what it
made: activations forward, cotangents back. At the end each tells the others its gradients, except
of the layers that it holds alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from funcprop.layer import Array, Context, Params
from funcprop.pipelines import packing
from funcprop.pipelines.packing import Vectors
from funcprop.pipelines.plan import Kind, Plan, parted, widened
from funcprop.pipelines.ticks import KINDS, Ticks

Path = tuple[int, ...]


class Row(NamedTuple):
    """What a stage does in a tick: whole numbers [] each."""

    tick: dict[str, Any]  # a column of Ticks each
    place: Any
    program: Any  # the branch: nothing, the forwards, the input halves
    weights: Any  # 1 for W, else 0: how often the loop around the weight half runs
    kind: Any  # of the place


class Made(NamedTuple):
    """What a forward or an input half leaves, zeros where it is the other."""

    y: Vectors
    dx: Vectors
    residuals: Vectors
    kept: Vectors
    seen: Vectors
    count: Array  # int32 [4]: a one at what was done


class Held(NamedTuple):
    """What a stage holds from tick to tick."""

    x: Vectors  # [slots, size]: arrived, and not yet read
    dy: Vectors
    residuals: Vectors
    kept: Vectors
    seen: Vectors  # [chunks, size]: summed over the microbatches
    grads: Vectors
    own: Any  # gradients of the layers that the stage holds alone, summed
    count: Array  # int32 [4]: how often the stage did nothing, F, B, W


class Sums(NamedTuple):
    """What the stages found, summed over the microbatches; or how it lies."""

    seen: Any  # Vectors [stages, chunks, size]
    grads: Any
    own: Any
    count: Any  # int32 [stages, 4]


def run(
    plan: Plan, table: Ticks, mesh: Mesh, axis: str,
    params: tuple[Params, Params], batch: tuple[Any, Any], context: Context,
) -> Sums:  # fmt: skip
    """The table's ticks, on the devices of a mesh.

    params  of the body, and of the loss; the stacks of layers that are apart are cut by `axis`
    batch   x and target, [microbatches, ...], and the context's mask alike
    """
    stages = mesh.shape[axis]
    cut, whole = PartitionSpec(axis), PartitionSpec()
    specs = (spec_tree(params[0], set(plan.apart), cut), whole), whole, whole
    sums = jax.shard_map(
        lambda params, batch, context: ticking(plan, table, stages, axis, params, batch, context),
        mesh=mesh,
        in_specs=specs,
        out_specs=Sums(whole, whole, cut, cut),
        check_vma=False,  # every device does something else: there is nothing to check
    )
    return sums(*laid((params, batch, context), specs, mesh))


def spec_tree(params: Params, apart: set[Path], cut: PartitionSpec, path: Path = ()) -> Any:
    """A spec for every part of the parameters."""
    if path in apart:
        return cut
    if not any(own[: len(path)] == path for own in apart):
        return PartitionSpec()
    return tuple(spec_tree(p, apart, cut, (*path, i)) for i, p in enumerate(params))


def laid(tree: Any, specs: Any, mesh: Mesh) -> Any:
    """The arrays as the specs say, on a mesh whose axes are Explicit; on Auto axes as they are."""
    if not mesh.explicit_axes:
        return tree

    def lay(spec: PartitionSpec, part: Any) -> Any:
        return jax.tree.map(lambda x: jax.reshard(x, NamedSharding(mesh, spec)), part)

    return jax.tree.map(lay, specs, tree, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def ticking(
    plan: Plan, table: Ticks, stages: int, axis: str,
    params: tuple[Params, Params], batch: tuple[Any, Any], context: Context,
) -> Sums:  # fmt: skip
    """One device's part of the program."""
    stage = lax.axis_index(axis)
    programs = Programs(plan, params, batch, context)
    chunks = len(plan.kind_of) // stages

    def tick(held: Held, row: Row) -> tuple[Held, None]:
        at = row.tick
        x, dy, residuals, kept = (
            packing.read(getattr(held, name), at[name]) for name in ("x", "dy", "residuals", "kept")
        )
        made = lax.switch(row.program, programs.branches(row, x, dy, residuals))
        count = made.count

        # a loop that runs once or not at all adds in place, where a branch would copy all sums
        def weigh(i: Array, sums: tuple[Vectors, Any, Array]) -> tuple[Vectors, Any, Array]:
            grads, own, count = sums
            # i is 0, which XLA does not know: else it would do the work before the loop, always
            more, mine = lax.switch(row.kind + i, programs.weight_halves(row, kept))
            grads = packing.add(grads, at["chunk"], more)
            return grads, jax.tree.map(jnp.add, own, mine), count.at[KINDS.index("W")].add(1)

        count = count.at[0].add(-row.weights)  # the branch was "nothing"
        sums = (held.grads, held.own, held.count + count)
        grads, own, count = lax.fori_loop(0, row.weights, weigh, sums)
        # counts are never negative, which XLA does not know: so nothing is sent before a weight half
        # is done, or who waits for it would wait a second time, for what this stage does next
        y, dx = jax.tree.map(lambda sent: jnp.where(count[0] < 0, 0, sent), (made.y, made.dx))
        y, dx = shifted(y, axis, stages, chunks, 1), shifted(dx, axis, stages, chunks, -1)
        return Held(
            packing.write(held.x, at["x_arrives"], y),
            packing.write(held.dy, at["dy_arrives"], dx),
            packing.write(held.residuals, at["residuals"], made.residuals),
            packing.write(held.kept, at["kept"], made.kept),
            packing.add(held.seen, at["chunk"], made.seen),
            grads,
            own,
            count,
        ), None

    held = lax.scan(tick, start(plan, table, chunks), rows_of(plan, table, stages, stage))[0]
    told = together(held.seen, held.grads)
    if stages > 1:
        told = lax.all_gather(told, axis)
    else:
        told = jax.tree.map(lambda vector: vector[None], told)
    return Sums(*apart(told, plan), held.own, held.count[None])


def shifted(vectors: Vectors, axis: str, stages: int, chunks: int, by: int) -> Vectors:
    """What the neighbor made; from the last stage to the first where the model goes on there."""
    if stages == 1:
        return vectors
    pairs = [(i, (i + by) % stages) for i in range(stages) if chunks > 1 or 0 <= i + by < stages]
    return lax.ppermute(vectors, axis, pairs)


def rows_of(plan: Plan, table: Ticks, stages: int, stage: Array) -> Row:
    """The ticks of a device's stage, [ticks] each."""
    places = table.chunk * stages + np.arange(stages, dtype=np.int32)[:, None]
    kinds = np.asarray(plan.kind_of, np.int32)[places]
    f, b = table.kind == KINDS.index("F"), table.kind == KINDS.index("B")
    program = np.where(f, 1 + kinds, np.where(b, 1 + len(plan.kinds) + kinds, 0))
    weights = table.kind == KINDS.index("W")
    ticks = {name: column for name, column in table._asdict().items() if name != "sizes"}
    rows = Row(ticks, places, program, weights, kinds)
    return jax.tree.map(lambda column: jnp.asarray(column, jnp.int32)[stage], rows)


def start(plan: Plan, table: Ticks, chunks: int) -> Held:
    """Nothing has arrived, nothing is summed."""
    # one slot more than ever waits: for what nobody looks at
    waits = {name: packing.zeros(plan.sizes(name), n + 1) for name, n in table.sizes.items()}
    sums = {name: packing.zeros(plan.sizes(name), chunks) for name in ("seen", "grads")}
    own = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), plan.kinds[0].own)
    return Held(**waits, **sums, own=widened(own), count=jnp.zeros(len(KINDS), jnp.int32))


def together(seen: Vectors, grads: Vectors) -> Vectors:
    """Both behind each other, so that one message a dtype tells them."""
    both = {dtype: [v[dtype] for v in (seen, grads) if dtype in v] for dtype in {**seen, **grads}}
    return {dtype: jnp.concatenate(parts, -1) for dtype, parts in both.items()}


def apart(told: Vectors, plan: Plan) -> tuple[Vectors, Vectors]:
    """The inverse of `together`."""
    seen, grads = plan.sizes("seen"), plan.sizes("grads")
    return (
        {dtype: told[dtype][..., :n] for dtype, n in seen.items()},
        {dtype: told[dtype][..., seen.get(dtype, 0) :] for dtype in grads},
    )


class Programs(NamedTuple):
    """What the stages compute, on one device's parameters and on all microbatches."""

    plan: Plan
    params: tuple[Params, Params]
    batch: tuple[Any, Any]
    context: Context

    def branches(
        self, row: Row, x: Vectors, dy: Vectors, residuals: Vectors
    ) -> list[Callable[[], Made]]:
        """Nothing, the forward of every kind of place, the input half of every kind."""
        forwards = [lambda k=k: self.forward(k, row, x) for k in self.plan.kinds]
        backwards = [lambda k=k: self.input_half(k, row, dy, residuals) for k in self.plan.kinds]
        return [lambda: self.made("·"), *forwards, *backwards]

    def weight_halves(self, row: Row, kept: Vectors) -> list[Callable[[], tuple[Vectors, Any]]]:
        """The weight half of every kind of place."""
        return [lambda k=k: self.weight_half(k, row, kept) for k in self.plan.kinds]

    def forward(self, kind: Kind, row: Row, x: Vectors) -> Made:
        number, firsts = row.tick["microbatch"], self.firsts(kind, row)
        own, target, mask = jax.tree.map(
            lambda leaf: leaf[number], (*self.batch, self.context.mask)
        )
        given = own if kind.x is None else kind.x.unpack(x)
        key = self.context.key
        context = Context(None if key is None else jax.random.fold_in(key, number), mask)
        params = kind.stage.params(*self.params, firsts)
        y, residuals, statistics = kind.stage.forward(params, given, target, context, firsts)
        seen = widened((statistics, y if kind.y is None else None))
        return self.made(
            "F",
            y=None if kind.y is None else kind.y.pack(y, self.plan.sizes("y")),
            residuals=kind.residuals.pack(residuals, self.plan.sizes("residuals")),
            seen=kind.seen.pack(seen, self.plan.sizes("seen")),
        )

    def input_half(self, kind: Kind, row: Row, dy: Vectors, residuals: Vectors) -> Made:
        given = jnp.ones((), kind.value.dtype) if kind.dy is None else kind.dy.unpack(dy)
        params = kind.stage.params(*self.params, self.firsts(kind, row))
        dx, kept = kind.stage.input_half(params, kind.residuals.unpack(residuals), given)
        return self.made(
            "B",
            dx=None if kind.dx is None else kind.dx.pack(dx, self.plan.sizes("dx")),
            kept=kind.kept.pack(kept, self.plan.sizes("kept")),
        )

    def weight_half(self, kind: Kind, row: Row, kept: Vectors) -> tuple[Vectors, Any]:
        params = kind.stage.params(*self.params, self.firsts(kind, row))
        grads = kind.stage.weight_half(params, kind.kept.unpack(kept))
        told, own = parted(kind.stage, widened(grads))
        return kind.grads.pack(told, self.plan.sizes("grads")), own

    def firsts(self, kind: Kind, row: Row) -> list[Array]:
        """The first steps of a place's runs."""
        row_of = jnp.asarray(self.plan.firsts)[row.place]
        return [row_of[number] for number in range(len(kind.stage.runs))]

    def made(self, done: str, **given: Vectors | None) -> Made:
        """What was made, zeros else, and that it was done."""
        names = [name for name in Made._fields if name != "count"]
        nothing = {name: self.plan.sizes(name) for name in names if given.get(name) is None}
        rest = {name: packing.zeros(size) for name, size in nothing.items()}
        made = {name: vectors for name, vectors in given.items() if vectors is not None}
        return Made(**made, **rest, count=jnp.zeros(4, jnp.int32).at[KINDS.index(done)].set(1))
