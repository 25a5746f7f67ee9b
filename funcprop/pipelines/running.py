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
F, B, W = map(KINDS.index, "FBW")


class Row(NamedTuple):
    """What a stage does in a tick: whole numbers [] each."""

    tick: dict[str, Any]  # a column of Ticks each
    place: Any
    kind: Any  # of the place


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
    plan: Plan, table: Ticks, mesh: Mesh, axis: str, microbatches: int,
    params: tuple[Params, Params], batch: tuple[Any, Any], context: Context,
) -> Sums:  # fmt: skip
    """The table's ticks, on the devices of a mesh.

    params  of the body, and of the loss; the stacks of layers that are apart are cut by `axis`
    batch   x and target, [examples, ...], and the context's mask alike
    """
    stages, others = mesh.shape[axis], tuple(name for name in mesh.axis_names if name != axis)
    cut, whole = PartitionSpec(axis), PartitionSpec()
    examples = PartitionSpec(others) if others else whole
    specs = (spec_tree(params[0], set(plan.apart), cut), whole), examples, whole

    def one(params: tuple[Params, Params], given: Any, key: Array | None) -> Sums:
        batch, mask = jax.tree.map(
            lambda leaf: leaf.reshape(microbatches, -1, *leaf.shape[1:]), given
        )
        if others and key is not None:
            key = jax.random.fold_in(key, lax.axis_index(others))
        return ticking(plan, table, stages, axis, others, params, batch, Context(key, mask))

    sums = jax.shard_map(
        one,
        mesh=mesh,
        in_specs=specs,
        out_specs=Sums(whole, whole, cut, cut),
        check_vma=False,  # every device does something else: there is nothing to check
    )
    return sums(*laid((params, (batch, context.mask), context.key), specs, mesh))


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
    plan: Plan, table: Ticks, stages: int, axis: str, others: tuple[str, ...],
    params: tuple[Params, Params], batch: tuple[Any, Any], context: Context,
) -> Sums:  # fmt: skip
    """One device's part of the program; `others` are the axes that examples are apart along."""
    stage = lax.axis_index(axis)
    programs = Programs(plan, params, batch, context)
    chunks = len(plan.kind_of) // stages

    def tick(held: Held, row: Row) -> tuple[Held, None]:
        at = row.tick
        count = held.count.at[0].add(as_number(at["kind"] == 0))

        def forward(i: Array, carry: Any) -> Any:
            _, residuals, seen, count = carry
            y, kept, told = programs.each(programs.forward, row, i, held.x)
            residuals = packing.write(residuals, at["residuals"], kept)
            return y, residuals, packing.add(seen, at["chunk"], told), count.at[F].add(1)

        def input_half(i: Array, carry: Any) -> Any:
            _, kept, count = carry
            dx, between = programs.each(programs.input_half, row, i, held.dy, residuals)
            return dx, packing.write(kept, at["kept"], between), count.at[B].add(1)

        def weight_half(i: Array, carry: Any) -> Any:
            grads, own, count = carry
            told, mine = programs.each(programs.weight_half, row, i, kept)
            grads = packing.add(grads, at["chunk"], told)
            return grads, jax.tree.map(jnp.add, own, mine), count.at[W].add(1)

        # loops that run once or not at all: they write into buffers where these lie, where the
        # branches of a condition would copy them
        nothing = packing.zeros(plan.sizes("y"))
        carry = nothing, held.residuals, held.seen, count
        y, residuals, seen, count = lax.fori_loop(0, as_number(at["kind"] == F), forward, carry)
        nothing = packing.zeros(plan.sizes("dx"))
        carry = nothing, held.kept, count
        dx, kept, count = lax.fori_loop(0, as_number(at["kind"] == B), input_half, carry)
        carry = held.grads, held.own, count
        grads, own, count = lax.fori_loop(0, as_number(at["kind"] == W), weight_half, carry)

        # counts are never negative, which XLA does not know: so nothing is sent before the work is
        # done, or who waits for it would wait a second time, for what this stage does next
        y, dx = jax.tree.map(lambda sent: jnp.where(count[0] < 0, 0, sent), (y, dx))
        y, dx = shifted(y, axis, stages, chunks, 1), shifted(dx, axis, stages, chunks, -1)
        x = packing.write(held.x, at["x_arrives"], y)
        dy = packing.write(held.dy, at["dy_arrives"], dx)
        return Held(x, dy, residuals, kept, seen, grads, own, count), None

    held = lax.scan(tick, start(plan, table, chunks), rows_of(plan, table, stages, stage))[0]
    told, own = together(held.seen, held.grads), held.own
    if others:
        told, own = lax.psum((told, own), others)
    if stages > 1:
        told = lax.all_gather(told, axis)
    else:
        told = jax.tree.map(lambda vector: vector[None], told)
    return Sums(*apart(told, plan), own, held.count[None])


def as_number(true: Array) -> Array:
    """1 for True."""
    return true.astype(jnp.int32)


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
    ticks = {name: column for name, column in table._asdict().items() if name != "sizes"}
    rows = Row(ticks, places, kinds)
    return jax.tree.map(lambda column: jnp.asarray(column, jnp.int32)[stage], rows)


def start(plan: Plan, table: Ticks, chunks: int) -> Held:
    """Nothing has arrived, nothing is summed."""
    # something arrives in every tick: where it is nothing, in one slot more than ever waits
    waits = {
        name: packing.zeros(plan.sizes(name), n + (name in ("x", "dy")))
        for name, n in table.sizes.items()
    }
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

    def each(self, program: Callable[..., Any], row: Row, i: Array, *buffers: Vectors) -> Any:
        """What a program makes for the kind of place that it is the turn of.

        i   0, the step of a loop that runs once. XLA does not know it: of what does not depend on
            the step it would do the work before the loop, whether that runs or not
        """
        programs = [lambda k=k: program(k, row, *buffers) for k in self.plan.kinds]
        return lax.switch(row.kind + i, programs)

    def forward(self, kind: Kind, row: Row, x: Vectors) -> tuple[Vectors, Vectors, Vectors]:
        """-> y, residuals, what is seen."""
        number, firsts = row.tick["microbatch"], self.firsts(kind, row)
        every = (*self.batch, self.context.mask)
        own, target, mask = jax.tree.map(lambda leaf: leaf[number], every)
        given = own if kind.x is None else kind.x.unpack(packing.read(x, row.tick["x"]))
        key = self.context.key
        context = Context(None if key is None else jax.random.fold_in(key, number), mask)
        params = kind.stage.params(*self.params, firsts)
        y, residuals, statistics = kind.stage.forward(params, given, target, context, firsts)
        seen = widened((statistics, y if kind.y is None else None))
        return (
            self.packed("y", kind, y),
            self.packed("residuals", kind, residuals),
            self.packed("seen", kind, seen),
        )

    def input_half(
        self, kind: Kind, row: Row, dy: Vectors, residuals: Vectors
    ) -> tuple[Vectors, Vectors]:
        """-> dx, what is kept for the weight half."""
        if kind.dy is None:
            given = jnp.ones((), kind.value.dtype)
        else:
            given = kind.dy.unpack(packing.read(dy, row.tick["dy"]))
        own = kind.residuals.unpack(packing.read(residuals, row.tick["residuals"]))
        params = kind.stage.params(*self.params, self.firsts(kind, row))
        dx, kept = kind.stage.input_half(params, own, given)
        return self.packed("dx", kind, dx), self.packed("kept", kind, kept)

    def weight_half(self, kind: Kind, row: Row, kept: Vectors) -> tuple[Vectors, Any]:
        """-> gradients that are told to all, and those that stay."""
        params = kind.stage.params(*self.params, self.firsts(kind, row))
        own = kind.kept.unpack(packing.read(kept, row.tick["kept"]))
        told, mine = parted(kind.stage, widened(kind.stage.weight_half(params, own)))
        return self.packed("grads", kind, told), mine

    def firsts(self, kind: Kind, row: Row) -> list[Array]:
        """The first steps of a place's runs."""
        row_of = jnp.asarray(self.plan.firsts)[row.place]
        return [row_of[number] for number in range(len(kind.stage.runs))]

    def packed(self, name: str, kind: Kind, tree: Any) -> Vectors:
        """The vectors of what is called so; zeros where a place has none, as the last has no y."""
        layout, sizes = getattr(kind, name), self.plan.sizes(name)
        return packing.zeros(sizes) if layout is None else layout.pack(tree, sizes)
