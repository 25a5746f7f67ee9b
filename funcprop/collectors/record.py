"""Record: what a rule returned at one layer, with the layer's path."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.composites import RewiredParams
from funcprop.layer import Layer, LayerError, is_float, spell
from funcprop.sheets import Line, Sheet, html
from funcprop.sheets.arrays import numbers

Place = tuple[str, ...]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value"],
    meta_fields=["path", "layer", "ranks"],
)
@dataclass(frozen=True, repr=False)
class Record:
    """What a rule returned at one layer: a pytree of its value.

    value    what the rule returned, its numbers as arrays; stacked on axis 0 under `Repeat`
    path     of the layer, outermost first: "Serial[2] Dense"
    layer    the layer itself
    ranks    of the value's leaves where it was made: loops add axes in front

    raises   `named`, ValueError where no record has this name

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.squared_norms)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> record = gradient(params, (x, y))[1][2]
    >>> record.path, record.layer, record.value.shape, record.stacked
    ('Serial[2] Dense', Dense(2), (4,), 0)
    """

    value: Any
    path: str  # "Serial[2] Dense"
    layer: Layer
    ranks: tuple[int, ...]  # of the value's leaves where it was made: loops add axes in front

    def __repr__(self) -> str:
        """One line: the path, and what the value holds."""
        parts = ", ".join(f"{name} {spell(leaf)}".strip() for name, leaf in self._named_leaves())
        return f"Record({self.path}: {parts or 'nothing'})"

    def _repr_html_(self) -> str:
        """In a notebook: a row an array, with its numbers where they are few."""
        lines = [
            Line((name, spell(leaf), numbers(leaf) if is_float(leaf) else ""))
            for name, leaf in self._named_leaves()
        ]
        sheet = Sheet(self.path, ("", "shape", "value"), tuple(lines))
        return html.part([f"<p>{escape(self.path)}</p>", html.table(sheet)])

    def _named_leaves(self) -> list[tuple[str, Any]]:
        found = jax.tree.leaves_with_path(self.value)
        return [(jax.tree_util.keystr(path, simple=True, separator="."), x) for path, x in found]

    def _no_number(self, *_: Any) -> Any:
        raise TypeError(
            f"a Record is no number (here that of {self.path}), and two uses of a parameter have "
            "no sum but the one its rule knows: take record.value, or have a composite join its "
            "uses by self.shared.places"
        )

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = _no_number
    __neg__ = _no_number

    @property
    def stacked(self) -> int:
        """How many axes `Repeat` and `jax.vmap` put in front of the value's own."""
        leaves = jax.tree.leaves(self.value)
        return leaves[0].ndim - self.ranks[0] if leaves else 0

    def named(self, name: str) -> Record:
        """The record of one of several rules, by the name `collect_all` gave it."""
        if self.value is None:  # of a frozen layer
            return self
        if not isinstance(self.value, dict) or name not in self.value:
            there = f"of {', '.join(self.value)}" if isinstance(self.value, dict) else "of one rule"
            raise ValueError(
                f"{self.path}: no record is called {name!r}, this is one {there}: the names are "
                "those of collect_all(name=rule)"
            )
        structure = jax.tree.structure(self.value)
        ranks = jax.tree.leaves(structure.unflatten(self.ranks)[name])
        return replace(self, value=self.value[name], ranks=tuple(ranks))


def is_record(value: Any) -> bool:
    return isinstance(value, Record)


def recorded(value: Any, place: Place, layer: Layer) -> Record:
    for leaf in jax.tree.leaves(value):
        if not isinstance(leaf, (bool, int, float, np.ndarray, jax.Array)):
            raise LayerError(layer, f"the rule's record holds {spell(leaf)}, wanted arrays")
    value = jax.tree.map(jnp.asarray, value)
    ranks = tuple(leaf.ndim for leaf in jax.tree.leaves(value))
    return Record(value, " ".join((*place, type(layer).__name__)), layer, ranks)


def records(collected: Any, name: str | None = None) -> tuple[Record, ...]:
    """Every record in what a collected model's backward returned, in the order of the layers.

    collected  the tree of records, of a rule that is not like the parameters
    name       under `collect_all`, the rule whose records are meant

    Returns a tuple of Records, one a layer, those without parameters too.

    raises  TypeError where something in the tree is no record, ValueError for an unknown name

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.squared_norms)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> found = fp.collectors.records(gradient(params, (x, y))[1])
    >>> {record.path: jax.tree.map(jnp.shape, record.value) for record in found}
    {'Serial[0] Dense': (4,), 'Serial[1] Tanh': (), 'Serial[2] Dense': (4,)}
    """
    found = tuple(_records_in(collected))
    return found if name is None else tuple(record.named(name) for record in found)


def _records_in(tree: Any) -> Iterator[Record]:
    ends = (Record, RewiredParams)
    for leaf in jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, ends)):
        if isinstance(leaf, RewiredParams):  # of a composite: its feedback has no records
            yield from _records_in(leaf.params)
            continue
        if not is_record(leaf):
            raise TypeError(
                f"{spell(leaf)} is no record: give what the backward of collect(model, rule) "
                "returned; that of a rule like `gradient` is a tree like the parameters"
            )
        yield leaf


def values(collected: Any, name: str | None = None) -> Any:
    """The records' values where they stand: of `gradient`, a tree like the parameters.

    collected  what a collected model's backward returned
    name       under `collect_all`, the rule whose values are meant

    raises  ValueError for an unknown name

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> rules = fp.collect_all(gradient=fp.collectors.gradient, moment=fp.collectors.second_moment)
    >>> gradient = fp.backprop(fp.collect(model, rules), fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, found = gradient(params, (x, y))
    >>> jax.tree.map(jnp.shape, fp.collectors.values(found, "moment"))
    (Affine(w=(2, 3), b=(3,)), (), Affine(w=(3, 2), b=(2,)))
    """

    def value(record: Any) -> Any:
        if not is_record(record):
            return record
        return record.value if name is None else record.named(name).value

    return jax.tree.map(value, collected, is_leaf=is_record)
