"""A model as a table: what comes out of each layer, and how many parameters it has."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax

from funcprop.composites import Serial
from funcprop.composites.composite import Composite
from funcprop.layer import Layer, Params, output_shape


class SummaryRow(NamedTuple):
    """One layer of a model."""

    place: str  # "1", or "2.0" inside a nested Serial
    layer: str
    output: str  # its shape, without the batch axis
    parameters: int


def summary(model: Layer, params: Params, x: Any) -> list[SummaryRow]:
    """One row a layer, each Serial opened; x is a batch, as an array or ShapeDtypeStruct.

    params may be abstract: `jax.eval_shape(model.init, key, x)`. Raises LayerError where the
    model does not accept x.
    """
    return list(_rows(model, params, x, ""))


def _rows(layer: Layer, params: Params, x: Any, place: str) -> Iterator[SummaryRow]:
    if not isinstance(layer, Serial):
        y = output_shape(layer, params, x)
        yield SummaryRow(place or "0", brief(layer), _shapes(y), count_parameters(params))
        return
    for position, child in enumerate(layer.layers):
        inner = f"{place}.{position}" if place else str(position)
        yield from _rows(child, params[position], x, inner)
        x = output_shape(child, params[position], x)


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


def count_parameters(params: Params) -> int:
    """How many numbers the tree holds."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _shapes(y: Any) -> str:
    return " ".join(str(list(leaf.shape[1:])) for leaf in jax.tree.leaves(y))


def format_summary(rows: list[SummaryRow]) -> str:
    """The rows as aligned text, one line each, with the sum below."""
    cells = [(row.place, row.layer, row.output, f"{row.parameters:,}") for row in rows]
    total = f"{sum(row.parameters for row in rows):,}"
    cells = [("", "layer", "output", "parameters"), *cells, ("", "in all", "", total)]
    width = [max(len(row[column]) for row in cells) for column in range(4)]
    lines = (
        f"  {a:>{width[0]}}  {b:<{width[1]}}  {c:<{width[2]}}  {d:>{width[3]}}"
        for a, b, c, d in cells
    )
    return "\n".join(lines)
