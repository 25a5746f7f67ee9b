"""What every layer inside a model did in one pass, through the second slot of backward.

Composites pass what their children return in that slot up untouched, so a model whose leaves
return records there needs nothing else to be looked into: it works under `jit`, in branches, in
scans (the stacked axis comes first) and in composites written later.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.leaf import Broken, Place, broken, place_name, with_reason
from funcprop.comparison.programs import Programs, cast
from funcprop.comparison.subject.subject import Inner, Subject
from funcprop.comparison.witnesses.calls import as_target, peer_of
from funcprop.comparison.witnesses.gradients import Grads
from funcprop.composites import Composite, Wrapper
from funcprop.composites.sharing import Apart
from funcprop.gradient import autodiff, zeros_where_frozen
from funcprop.layer import Array, Context, Layer, Params, Residuals, two
from funcprop.lifting.calls import Call


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "x", "context", "dy", "dx", "dparams"],
    meta_fields=["layer", "place", "ranks"],
)
@dataclass(frozen=True)
class Pass:
    """One use of a layer: what went in, and what its backward returned."""

    params: Params
    x: Any
    context: Context
    dy: Any
    dx: Any
    dparams: Any  # of a composite: its children's records
    layer: Layer
    place: str
    ranks: tuple[int, ...]  # of all arrays above when written: a scan adds axes in front

    def subject(self, key: Array) -> Subject:
        """The layer at what it was given."""
        return Subject(self.layer, self.params, self.x, self.context, key, peer_of(self.layer))


class RecorderResiduals(NamedTuple):
    """What Recorder keeps."""

    kept: Residuals  # what the layer keeps
    x: Any  # the values of the actual pass
    context: Context  # the key and mask it saw


@dataclass(frozen=True)
class Recorder(Wrapper):
    """`layer`, with a record of what it did in the second slot of backward.

    `original` is what the record speaks of: the layer itself, or a composite whose children do
    not record. A broken contract raises Broken where it is `strict`.
    """

    original: Layer
    place: Place
    strict: bool = True

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, RecorderResiduals]:
        y, kept = self.layer.forward(params, x, context)
        return y, RecorderResiduals(kept, x, context)

    def backward(self, params: Params, residuals: RecorderResiduals, dy: Any) -> tuple[Any, Pass]:
        kept, x, context = residuals
        place = place_name(self.original, self.place)
        layer = self.layer
        dx, dparams = with_reason(
            place, lambda: two(layer, "backward", layer.backward(params, kept, dy))
        )
        given = {"dx": dx}
        if self.layer is self.original:  # a composite's parameters are judged child by child
            given["dparams"] = dparams
        rows = broken(place, given, {"dx": x, "dparams": params})
        if rows and self.strict:
            raise Broken(rows)
        if self.layer is self.original:
            dparams = zeros_where_frozen(dparams, params)
        ranks = tuple(leaf.ndim for leaf in jax.tree.leaves((params, x, context, dy, dx, dparams)))
        return dx, Pass(params, x, context, dy, dx, dparams, self.original, place, ranks)

    def own_residuals(self, residuals: RecorderResiduals) -> Residuals:
        return residuals.kept


def recording(
    layer: Layer, place: Place = (), composites: bool = False, strict: bool = True
) -> Layer:
    """The layer with every leaf, and on request every composite, wrapped in a Recorder."""
    if not isinstance(layer, Composite):
        return Recorder(layer, layer, place, strict)
    opened = layer.opened()
    assert isinstance(opened, Composite)
    children = tuple(
        recording(child, (*place, opened.place(position)), composites, strict)
        for position, child in enumerate(opened.layers)
    )
    rebuilt = opened.rebuild(children)
    if isinstance(rebuilt, Composite):
        rebuilt = rebuilt.with_shared(Apart())
    return Recorder(rebuilt, layer, place) if composites else rebuilt


def passes_in(tree: Any) -> list[Pass]:
    """All records, those of a composite's children before its own."""
    found = []
    for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Pass)):
        if isinstance(leaf, Pass):
            found += [*passes_in(leaf.dparams), leaf]
    return found


@jax.tree_util.register_static
@dataclass(frozen=True)
class Name:
    """A record's place, carried out of `jit` in the tree structure."""

    place: str


def checked(record: Pass) -> tuple[Name, Grads, Grads, Any]:
    """-> the place, what the layer's backward returned, what jax.vjp says at those values, and
    whether anything came back to it: what a layer makes of no cotangent says nothing about it."""

    def by_jax(params: Params, x: Any, context: Context, dy: Any) -> Grads:
        layer = autodiff(peer_of(record.layer))
        _, residuals = layer.forward(params, x, context)
        dx, dparams = layer.backward(params, residuals, dy)
        return {"dx": dx, "dparams": dparams}

    leaves = jax.tree.leaves(
        (record.params, record.x, record.context, record.dy, record.dx, record.dparams)
    )
    stacked = max((leaf.ndim - rank for leaf, rank in zip(leaves, record.ranks, strict=True)))
    for _ in range(stacked):
        by_jax = jax.vmap(by_jax)
    given = {"dx": record.dx, "dparams": record.dparams}
    wanted = by_jax(record.params, record.x, record.context, record.dy)
    if passes_in(record.dparams):
        given["dparams"], wanted["dparams"] = (), ()
    reached = jnp.asarray(True)
    if isinstance(record.layer, Call):  # one in a branch that was not taken
        reached = reached_in(record.dy, stacked)
        given, wanted = (
            jax.tree.map(lambda leaf: jnp.where(widened(reached, leaf), leaf, 0), tree)
            for tree in (given, wanted)
        )
    return Name(record.place), given, wanted, reached.any()


def reached_in(dy: Any, stacked: int) -> Any:
    """Whether a number in a cotangent is not zero, along the axes that scans have added."""
    each = [jnp.any(leaf != 0, range(stacked, leaf.ndim)) for leaf in jax.tree.leaves(dy)]
    return functools.reduce(jnp.logical_or, each, jnp.asarray(False))


def widened(reached: Any, leaf: Any) -> Any:
    """With axes of size 1 for those of a leaf."""
    return reached.reshape(*reached.shape, *(1 for _ in range(leaf.ndim - reached.ndim)))


FAILURES = (ValueError, TypeError, NotImplementedError)


def model_of(inner: Inner, composites: bool = False, strict: bool = True) -> Layer:
    """The model with every leaf recording, and on request every composite.

    With composites, and not `strict`, even what breaks the contract is recorded.
    """
    return inner.model(functools.partial(recording, composites=composites, strict=strict))


def values_at(place: str, inner: Inner, dy: Any) -> Pass | None:
    """What the layer at `place` was given in this pass: one step, where it has several."""

    def run(records: list[Pass]) -> list[Pass]:
        return [record for record in records if record.place == place][:1]

    try:
        found = recorded(run, model_of(inner, composites=True, strict=False), inner, dy)
    except Exception:  # what cannot be run again cannot be explained
        return None
    return one_step(found[0]) if found else None


def calls_inside(inner: Inner, dy: Any, key: Array) -> list[tuple[str, Call, Subject]]:
    """Place, layer and target of the calls of rules that something came back to, each at what it
    was given: one step of those in a loop."""

    def run(records: list[Pass]) -> list[tuple[Pass, Any]]:
        return [
            (record, reached_in(record.dy, 0))
            for record in records
            if isinstance(record.layer, Call)
        ]

    found = recorded(run, model_of(inner), inner, dy)
    return [
        (record.place, record.layer, as_target(record.layer, one_step(record).x, key))
        for record, reached in found
        if reached
    ]


def recorded(
    read: Callable[[list[Pass]], Any],
    model: Layer,
    inner: Inner,
    dy: Any,
    programs: Programs | None = None,
) -> Any:
    """`read(records)` of one pass of a recording model in float64, as NumPy arrays."""

    def run(params: Params, x: Any, context: Context, dy: Any) -> Any:
        _, residuals = model.forward(params, x, context)
        _, tree = model.backward(params, residuals, dy)
        return read(passes_in(tree))

    with jax.enable_x64(True):
        given = inner.params, inner.x, inner.context, dy if inner.dy is None else inner.dy
        wide = [cast(tree, jnp.float64) for tree in given]
        return (programs or Programs())("records", run, *wide)


def one_step(record: Pass) -> Pass:
    """The record of a layer under a scan, at that index of the axes that the scan has added where
    most came back: what a layer makes of no cotangent says nothing about it."""
    leaves, tree = jax.tree.flatten(record)
    added = max(
        (leaf.ndim - rank for leaf, rank in zip(leaves, record.ranks, strict=True)), default=0
    )
    if not added:
        return record
    sizes = 0.0
    for leaf in jax.tree.leaves(record.dy):
        wide = np.asarray(leaf, np.float64)
        sizes = sizes + np.square(wide).reshape(*wide.shape[:added], -1).sum(-1)
    index = np.unravel_index(np.argmax(sizes), np.shape(sizes))
    return jax.tree.unflatten(tree, [leaf[index] for leaf in leaves])
