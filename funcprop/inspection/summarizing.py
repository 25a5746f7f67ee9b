"""summary: a model layer by layer, with what it holds, keeps and costs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.collectors import collect, records
from funcprop.collectors.record import Record
from funcprop.collectors.rule import Remembered, Rule
from funcprop.composites import Composite
from funcprop.costs.measuring import built, by_hand, fastest
from funcprop.doors import door
from funcprop.gradient import partition
from funcprop.layer import Context, Layer, Params, Residuals
from funcprop.sheets import Line, Sheet, Shown

SEVERAL = "A parameter that several layers use is in the row of each, and counts once in all."


class Shapes(NamedTuple):
    """What one use of a layer saw and kept."""

    params: Params
    x: Any
    context: Context
    y: Any
    kept: Residuals
    dy: Any


@dataclass(frozen=True)
class Shaping(Rule):
    """The rule that records everything a layer is asked with; run on shapes alone."""

    separate = True
    whole = True

    def remember(
        self, layer: Layer, params: Params, x: Any, context: Context, y: Any, residuals: Residuals
    ) -> Any:
        return x, context, y

    def __call__(
        self, layer: Layer, params: Params, residuals: Remembered, dy: Any
    ) -> tuple[Any, Shapes]:
        kept, (x, context, y) = residuals
        dx, _ = layer.backward(params, kept, dy)
        return dx, Shapes(params, x, context, y, kept, dy)


class SummaryRow(NamedTuple):
    """One layer of a model.

    path        "Serial[0] Dense"
    layer       in words of at most 40 characters
    output      the shapes that come out
    parameters  how many numbers it uses: those of a tied parameter are in the row of every layer
                that uses it
    bytes       of its parameters
    kept        bytes of what it keeps for its backward pass; an array that two layers keep is in
                both rows
    flops       of its forward and backward pass, as XLA counts them: NaN where it has a loop
    seconds     of both passes by themselves, compiled; NaN where nothing was measured

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.summary(fp.Tanh(), jnp.ones((4, 2))).rows[0].kept
    32
    """

    path: str
    layer: str
    output: str
    parameters: int
    bytes: int
    kept: int
    flops: float
    seconds: float


@dataclass(frozen=True, repr=False)
class Summary(Shown):
    """A model layer by layer: it prints itself, and shows itself in a notebook.

    rows        SummaryRows, in the order of the forward pass
    parameters  how many numbers the whole model holds: a parameter that is used several times
                counts once
    bytes       of its parameters
    kept        bytes that the whole model keeps between its passes: an array that two layers keep
                counts once, and what `Remat` computes again does not count

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> found = fp.summary(fp.Serial(fp.Dense(3), fp.Tanh()), jnp.ones((4, 2)))
    >>> found.parameters, found.bytes, found.kept
    (9, 36, 80)
    """

    rows: tuple[SummaryRow, ...]
    parameters: int
    bytes: int
    kept: int

    @property
    def sheet(self) -> Sheet:
        """The table in words."""
        whole = math.fsum(row.seconds for row in self.rows if not math.isnan(row.seconds))
        lines = [
            Line((position(row.path), row.layer, row.output, f"{row.parameters:,}", size(row.kept),
                  counted(row.flops), share(row.seconds, whole)))
            for row in self.rows
        ]  # fmt: skip
        known = [row.flops for row in self.rows if not math.isnan(row.flops)]
        flops = math.fsum(known) if known else math.nan
        lines.append(
            Line(("in all", "", "", f"{self.parameters:,}", size(self.kept), counted(flops),
                  f"{1e3 * whole:.3g} ms" if whole else ""))
        )  # fmt: skip
        headings = ("where", "layer", "output", "parameters", "kept", "flops", "time")
        if not whole:
            headings = headings[:-1]
            lines = [Line(line.cells[:-1]) for line in lines]
        held, kept = size(self.bytes), size(self.kept)
        title = f"{self.parameters:,} parameters in {held}, {kept} kept for backward"
        several = sum(row.parameters for row in self.rows) > self.parameters
        return Sheet(title, headings, tuple(lines), (SEVERAL,) if several else ())


@door
def summary(
    model: Layer,
    x: Any,
    params: Params | None = None,
    context: Context = Context(),
    seconds: float = 0.0,
) -> Summary:
    """A model layer by layer: shapes, parameters, bytes kept for the backward pass, flops.

    model    any layer
    x        a batch, an array or `jax.ShapeDtypeStruct`: nothing is computed with its values
    params   the model's, if not those of `model.init`; shapes are enough
    context  the key of layers that draw, and the mask
    seconds  that every layer is run by itself, for its share of the time; 0 runs nothing

    Returns a Summary, whose text is a table. flops are those of one forward and one backward pass.

    raises  LayerError where the model does not accept x, or draws and is given no key

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> print(fp.summary(fp.Serial(fp.Dense(3), fp.Tanh()), jnp.ones((4, 2))))
    9 parameters in 36 B, 80 B kept for backward
    <BLANKLINE>
    where   layer     output  parameters  kept  flops
    0       Dense(3)  [4, 3]  9           32 B  165
    1       Tanh()    [4, 3]  0           48 B  48
    in all                    9           80 B  213
    """
    if params is None:
        params = jax.eval_shape(model.init, jax.random.key(0), x)
    found = jax.eval_shape(_passes(model), params, x, context)
    seen = [record for record in records(found) if record.value is not None]
    known: dict[Any, tuple[float, float]] = {}
    steps = dict(own_steps(model))
    rows = tuple(_row(record, steps.get(record.path, 1), seconds, known) for record in seen)
    held = jax.tree.leaves(params)
    kept = kept_by(model, params, x, context)
    return Summary(rows, sum(map(numbers_in, held)), sum(map(bytes_of, held)), kept)


def _passes(model: Layer) -> Any:
    """(params, x, context) -> the records of one pass."""
    asked = collect(model, Shaping())

    def passes(params: Params, x: Any, context: Context) -> Any:
        y, residuals = asked.forward(params, x, context)
        return asked.backward(params, residuals, partition(y)[0])[1]

    return passes


def kept_by(model: Layer, params: Params, x: Any, context: Context) -> int:
    """Bytes of what the model keeps between its passes beside params and x, arrays counted once."""
    forward = jax.make_jaxpr(lambda p, v, c: model.forward(p, v, c)[1])(params, x, context)
    own = {id(var) for var in jax.tree.leaves(forward.jaxpr.invars)[: len(jax.tree.leaves(params))]}
    outside = {id(var): var for var in forward.jaxpr.outvars if id(var) not in own}
    return sum(bytes_of(var.aval) for var in outside.values())


def own_steps(
    layer: Layer, place: tuple[str, ...] = (), steps: int = 1
) -> Iterator[tuple[str, int]]:
    """(path, how many steps of loops have parameters of their own) of every leaf: other loops, as
    `OverTime` is one, use the same parameters in each step."""
    if not isinstance(layer, Composite):
        yield " ".join((*place, type(layer).__name__)), steps
        return
    for position, child in enumerate(layer.layers):
        yield from own_steps(child, (*place, layer.place(position)), steps * (layer.stacked or 1))


def _row(
    record: Record, steps: int, seconds: float, known: dict[Any, tuple[float, float]]
) -> SummaryRow:
    """Layers that are alike are counted and measured once."""
    seen, layer = record.value, record.layer
    times = 1
    leaves, tree = jax.tree.flatten(seen)
    stacked = record.stacked
    if stacked:  # all blocks of a Repeat at once: one is looked at
        times = math.prod(leaves[0].shape[:stacked])
        leaves = [jax.ShapeDtypeStruct(leaf.shape[stacked:], leaf.dtype) for leaf in leaves]
    one: Shapes = jax.tree.unflatten(tree, leaves)
    alike = (layer, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    if alike not in known:
        known[alike] = _cost(layer, one, seconds)
    flops, took = known[alike]
    own = jax.tree.leaves(one.params)
    return SummaryRow(
        record.path,
        brief(layer),
        " ".join(str(list(leaf.shape)) for leaf in jax.tree.leaves(seen.y)),
        steps * sum(map(numbers_in, own)),
        steps * sum(map(bytes_of, own)),
        sum(map(bytes_of, jax.tree.leaves(seen.kept))),
        times * flops,
        times * took,
    )


def _cost(layer: Layer, one: Shapes, seconds: float) -> tuple[float, float]:
    """(flops, seconds) of both passes of one layer."""
    given = (one.params, one.x, one.context, one.dy)
    function = by_hand(layer)
    counted = jax.jit(function).lower(*given).cost_analysis() or {}
    flops = float(counted.get("flops", math.nan))
    if not seconds:
        return flops, math.nan
    arrays = jax.device_put(jax.tree.map(filled, given))
    return flops, fastest(built({"by_hand": function}, arrays), seconds)["by_hand"]


def filled(leaf: Any) -> Any:
    """Some values of a shape: what a layer costs does not depend on them."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.split(jax.random.key(0), leaf.shape)
    kind = np.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf.dtype
    return np.random.default_rng(0).random(leaf.shape).astype(kind).astype(leaf.dtype)


def brief(layer: Layer) -> str:
    """The layer in at most 40 characters: without its initializers, or by its name alone."""
    words, name = repr(layer), type(layer).__name__
    if len(words) > 40 and dataclasses.is_dataclass(layer) and not isinstance(layer, Composite):
        arguments = []
        for position, field in enumerate(dataclasses.fields(layer)):
            value = getattr(layer, field.name)
            if field.init and value != field.default and isinstance(value, (int, float, str)):
                arguments.append(f"{field.name}={value!r}" if position else repr(value))
        words = f"{name}({', '.join(arguments)})"
    return words if len(words) <= 40 else f"{name}(...)"


def numbers_in(leaf: Any) -> int:
    """How many an array holds, or one of its shape."""
    return math.prod(leaf.shape)


def bytes_of(leaf: Any) -> int:
    """Of an array or its shape; those of a random key too."""
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def size(count: float) -> str:
    """Bytes with three digits: "62.7 kB"."""
    return f"{counted(count)}B" if count >= 1000 else f"{count:.0f} B"


def counted(number: float) -> str:
    """A count with three digits: "1.05 M"; nothing where it is not known."""
    if math.isnan(number):
        return "-"
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {letter}"
    return f"{number:.0f}"


def position(path: str) -> str:
    """ "Serial[2] Skip[0] Dense" as "2.0"."""
    return ".".join(re.findall(r"\[([^\]]+)\]", path)) or "0"


def share(seconds: float, whole: float) -> str:
    """Of the time of all layers, in percent."""
    return "" if not whole or math.isnan(seconds) else f"{100 * seconds / whole:.0f} %"
