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
import numpy as np

from funcprop.comparison.truth import Grads
from funcprop.comparison.verdict import Leaf, broken
from funcprop.composites import Composite, Wrapper
from funcprop.composites.sharing import Apart
from funcprop.gradient import autodiff, zeros_where_frozen
from funcprop.layer import Context, Layer, Params, Residuals, two

Place = tuple[str, ...]


class Broken(Exception):
    """A layer's backward broke the contract: its rows say how."""

    def __init__(self, rows: list[Leaf]) -> None:
        super().__init__(rows[0].rule)
        self.rows = rows


def with_reason(place: str, run: Callable[[], Any]) -> Any:
    """`run()`, with whatever a backward raises told as a broken contract."""
    try:
        return run()
    except Broken:
        raise
    except jax.errors.UnexpectedTracerError as error:
        rule = "backward reads a value that forward left behind: put it into the residuals"
        raise Broken([broke(place, "backward", rule)]) from error
    except Exception as error:
        rule = f"backward raised {type(error).__name__}: {error}"
        raise Broken([broke(place, "backward", rule)]) from error


def broke(place: str, path: str, rule: str) -> Leaf:
    """A failed row of no leaf."""
    return Leaf(place, path, (), "", False, f"contract: {rule}", np.inf, np.inf)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "x", "context", "dy", "dx", "dparams"],
    meta_fields=["layer", "place", "ranks"],
)
@dataclass(frozen=True)
class Record:
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

    def backward(self, params: Params, residuals: RecorderResiduals, dy: Any) -> tuple[Any, Record]:
        kept, x, context = residuals
        place = name_of(self.original, self.place)
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
        return dx, Record(params, x, context, dy, dx, dparams, self.original, place, ranks)

    def own_residuals(self, residuals: RecorderResiduals) -> Residuals:
        return residuals.kept


def name_of(layer: Layer, place: Place) -> str:
    """`Serial[2] Dense`."""
    return " ".join((*place, type(layer).__name__))


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


def records_in(tree: Any) -> list[Record]:
    """All records, those of a composite's children before its own."""
    found = []
    for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, Record)):
        if isinstance(leaf, Record):
            found += [*records_in(leaf.dparams), leaf]
    return found


@jax.tree_util.register_static
@dataclass(frozen=True)
class Name:
    """A record's place, carried out of `jit` in the tree structure."""

    place: str


def mapped(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function over axis 0 of all its arguments, one step after the other."""
    return lambda *arguments: jax.lax.map(lambda each: function(*each), arguments)


def checked(record: Record) -> tuple[Name, Grads, Grads]:
    """-> the place, what the layer's backward returned, and what jax.vjp says at those values."""

    def by_jax(params: Params, x: Any, context: Context, dy: Any) -> Grads:
        layer = autodiff(record.layer)
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
    if records_in(record.dparams):
        given["dparams"], wanted["dparams"] = (), ()
    return Name(record.place), given, wanted
