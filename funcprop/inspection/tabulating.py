"""trace_table: z, a, δ and ∂C/∂w of every layer in one pass, by hand beside `jax.grad`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.collectors import collect, records, trace
from funcprop.collectors.record import Record
from funcprop.doors import door
from funcprop.gradient import backprop, objective, unpack
from funcprop.inspection.taps import tapped, taps_in
from funcprop.layer import Array, Context, Layer, Params, is_float
from funcprop.sheets import Line, Sheet, Shown
from funcprop.sheets.arrays import numbers, shape_of

SAME = 1e-4  # of ‖automatic‖: what is further off is marked, if rounding does not explain it
ULPS = 4  # roundings that each number of a sum has behind it
ROUNDING = "rounding: apart by no more than what it makes of zero, as of a bias before a BatchNorm."


class TraceRow(NamedTuple):
    """One quantity of one layer.

    path       of the layer: "Serial[0] Dense"; "loss" for the cost itself
    quantity   in the letters of the field: x, z, a, δ = ∂C/∂z, ∂C/∂a, ∂C/∂w, ∂C/∂b, C
    by_hand    the array, by the hand-written backward passes
    automatic  the same by `jax.grad`; None of what no gradient is taken of, inside a composite that
               uses parameters several times, and of a function that was lifted
    rounding   how far two sums of the terms of this gradient may be apart in one entry by rounding
               alone: a gradient may be zero but for that, as that of a bias before a BatchNorm

    >>> import funcprop as fp
    >>> fp.inspection.TraceRow("Serial[0] Dense", "z", 1.0, None).quantity
    'z'
    """

    path: str
    quantity: str
    by_hand: Any
    automatic: Any
    rounding: float = 0.0

    @property
    def difference(self) -> float | None:
        """‖by hand − automatic‖ / ‖automatic‖; None without an automatic one."""
        if self.automatic is None:
            return None
        wide = np.asarray(self.automatic, np.float64)
        off = float(np.linalg.norm(np.asarray(self.by_hand, np.float64) - wide))
        size = float(np.linalg.norm(wide))
        return off / size if size else math.inf if off else 0.0

    @property
    def close(self) -> bool:
        """Whether the difference is small; True without an automatic one to differ from."""
        if self.difference is None:
            return True
        return self.difference <= max(SAME, ULPS * _eps(self.by_hand))

    @property
    def same(self) -> bool:
        """Whether it is small, or no more than rounding makes of zero."""
        if self.close:
            return True
        off = np.asarray(self.by_hand, np.float64) - np.asarray(self.automatic, np.float64)
        return float(np.abs(off).max(initial=0.0)) <= self.rounding


@dataclass(frozen=True, repr=False)
class TraceTable(Shown):
    """One pass as a table: it prints itself, and shows itself in a notebook.

    rows  TraceRows, in the order of the forward pass

    raises  `table[path, quantity]`, KeyError where no row, or more than one, is meant

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, cost = fp.Serial(fp.Sigmoid()), fp.QuadraticCost()
    >>> table = fp.trace_table(model, cost, ((),), (jnp.zeros((1, 1)), jnp.ones((1, 1))))
    >>> [float(row.by_hand.squeeze()) for row in table.rows]
    [0.0, 0.5, -0.5, 0.125]
    """

    rows: tuple[TraceRow, ...]

    def __getitem__(self, name: tuple[str, str]) -> Array:
        """By hand, of the layer whose path has these words: `table["[0]", "∂C/∂w"]`."""
        path, quantity = name
        found = [row for row in self.rows if path in row.path and row.quantity == quantity]
        if len(found) != 1:
            there = ", ".join(f"{row.path}: {row.quantity}" for row in found or self.rows)
            raise KeyError(f"{name} names {len(found)} rows, wanted one of: {there}")
        return found[0].by_hand

    @property
    def sheet(self) -> Sheet:
        """The table in words."""
        lines, above = [], ""
        for row in self.rows:
            off = row.difference
            cells = (
                short(row.path) if row.path != above else "",
                row.quantity,
                shape_of(row.by_hand),
                numbers(row.by_hand),
                "" if row.automatic is None else numbers(row.automatic),
                "" if off is None else f"{off:.0e}" if row.close or not row.same else "rounding",
            )
            lines.append(Line(cells, row.same))
            above = row.path
        known = [row for row in self.rows if row.automatic is not None]
        noise = [row for row in known if row.same and not row.close]
        worst = max((row.difference or 0.0 for row in known if row not in noise), default=0.0)
        compared = f"{len(known)} of {len(self.rows)} also by jax.grad, at most {worst:.0e} apart"
        title = f"One pass, forward from the top, backward from the bottom: {compared}"
        headings = ("layer", "", "shape", "by hand", "jax.grad", "apart")
        return Sheet(title, headings, tuple(lines), (ROUNDING,) if noise else ())


@door
def trace_table(
    model: Layer, loss: Layer | None, params: Params, batch: Any, context: Context = Context()
) -> TraceTable:
    """z, a, δ and ∂C/∂w of every layer in one pass, by hand beside `jax.grad`.

    model, loss  as for `backprop`; a model that is the whole objective has None for a loss
    params       the model's
    batch        (x, target) or (x, target, mask), as for `backprop`
    context      the key of layers that draw

    Returns a TraceTable. Of a layer with parameters the output is z and its cotangent δ = ∂C/∂z; of
    one without it is a, and ∂C/∂a. The automatic δ is the gradient of zeros that are added to the
    layer's output. Arrays are those of the pass, of its shapes and dtypes; under `Repeat` the
    blocks come first.

    raises  what `backprop` raises, and what `jax.grad` raises

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> table = fp.trace_table(model, fp.SoftmaxCrossEntropy(), params, (x, y))
    >>> [row.quantity for row in table.rows if row.path == "Serial[0] Dense"]
    ['x', 'z', 'δ = ∂C/∂z', '∂C/∂w', '∂C/∂b']
    >>> table["Serial[1]", "a"].shape
    (4, 3)
    """
    gradient = backprop(collect(model, trace), loss)
    value, collected = jax.jit(gradient)(params, batch, context)
    every = records(collected)
    peers = _automatic(model, loss, params, batch, context, every)
    kept = [pair for pair in zip(every, peers, strict=True) if pair[0].value is not None]
    found, automatic = [record for record, _ in kept], [peer for _, peer in kept]
    rows: list[TraceRow] = []
    if found and loss is not None:
        x = unpack(batch, context)[0]
        rows += [
            TraceRow(found[0].path, _name("x", place), leaf, None) for place, leaf in _leaves(x)
        ]
    for record, peer, after in zip(found, automatic, [*found[1:], None], strict=True):
        rows += _rows(record, peer, after)
    return TraceTable((*rows, TraceRow("loss", "C", value, None)))


def _automatic(
    model: Layer,
    loss: Layer | None,
    params: Params,
    batch: Any,
    context: Context,
    found: Sequence[Record],
) -> list[Any]:
    """(dparams, δ) of every record by `jax.grad`, or None."""
    outputs = [None if record.value is None else record.value.y for record in found]
    whole, zeros = tapped(model, params, outputs)
    grads = jax.jit(jax.grad(objective(whole, loss), allow_int=True))(zeros, batch, context)
    return taps_in(model, grads)


def _rows(record: Record, peer: Any, after: Record | None) -> Iterator[TraceRow]:
    """What a layer gave, what it was told, and what it tells its parameters; `after` is the record
    of the layer that told it."""
    seen, own = record.value, bool(jax.tree.leaves(record.value.dparams))
    out, cotangent = ("z", "δ = ∂C/∂z") if own else ("a", "∂C/∂a")
    dparams, dy = (None, None) if peer is None else peer
    told = (seen.dy,) if after is None else (seen.dy, after.value.dy)
    scale, count = _largest(told), max((leaf.size for _, leaf in _leaves(seen.dy)), default=0)
    for place, leaf in _leaves(seen.y):
        yield TraceRow(record.path, _name(out, place), leaf, None)
    for (place, leaf), other in zip(_leaves(seen.dy), _others(dy, seen.dy), strict=True):
        least = _rounding(leaf, count, scale)
        yield TraceRow(record.path, _name(cotangent, place), leaf, other, least)
    scale *= max(1.0, _largest(seen.x))
    for (place, leaf), other in zip(
        _leaves(seen.dparams), _others(dparams, seen.dparams), strict=True
    ):
        least = _rounding(leaf, count, scale)
        yield TraceRow(record.path, f"∂C/∂{place or 'w'}", leaf, other, least)


def _rounding(leaf: Any, count: int, scale: float) -> float:
    """How far apart rounding can bring two sums of `count` terms of at most `scale`."""
    return ULPS * _eps(leaf) * count * scale


def _eps(leaf: Any) -> float:
    """One rounding of a number, in the dtype of an array."""
    return float(jnp.finfo(jnp.result_type(leaf)).eps)


def _largest(tree: Any) -> float:
    """The largest absolute number of a tree."""
    found = [np.abs(np.asarray(leaf, np.float64)).max(initial=0.0) for _, leaf in _leaves(tree)]
    return float(max(found, default=0.0))


def _leaves(tree: Any) -> list[tuple[str, Any]]:
    """The float leaves with their place in the tree: "w", or "" of an array alone."""
    found = jax.tree.leaves_with_path(tree)
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in found
        if is_float(leaf)
    ]


def _others(tree: Any, like: Any) -> list[Any]:
    """The float leaves of another such tree; as many None without one."""
    own, other = ([leaf for _, leaf in _leaves(part)] for part in (like, tree))
    return other if len(other) == len(own) else [None] * len(own)  # a rewired layer's are others


def _name(letter: str, place: str) -> str:
    return f"{letter} {place}" if place else letter


def short(path: str) -> str:
    """The last three words of a path."""
    words = path.split()
    return " ".join(["…", *words[-3:]] if len(words) > 4 else words)
