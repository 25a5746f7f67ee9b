"""Numbers that a wrong factor may equal, and how they are spelled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from funcprop.layer import Layer, Params

EXPLAINED = 1e-6  # what a pattern may leave over, of the error


# --- numbers --------------------------------------------------------------------------------------


def factors(layer: Layer, params: Params, x: Any, dys: Any) -> Iterator[tuple[float, str]]:
    """Numbers that a factor may equal: sizes, the layer's settings, roots of sizes."""
    outputs = [dy.shape[1:] for dy in jax.tree.leaves(dys)]
    inputs = [np.shape(leaf) for leaf in jax.tree.leaves(x)]
    for letter, size, of in sizes(inputs, outputs):
        if size > 1:
            where = f"({letter} = {size}, {of})"
            yield float(size), f"{letter} {where}, perhaps summed, not averaged"
            yield 1 / size, f"1/{letter} {where}, perhaps averaged, not summed"
            yield 2 / size, f"2/{letter} {where}"
            yield size / 2, f"{letter}/2 {where}"
    yield from settings(layer)
    shapes = [*inputs, *outputs, *(np.shape(leaf) for leaf in jax.tree.leaves(params))]
    for size in sorted({size for shape in shapes for size in shape if size > 1}):
        yield float(size), "the size of an axis"
        yield 1 / size, f"1/{size}, {size} the size of an axis"
        yield math.sqrt(size), f"√{size}, {size} the size of an axis"
        yield 1 / math.sqrt(size), f"1/√{size}, {size} the size of an axis"


def sizes(inputs: Sequence[Any], outputs: Sequence[Any]) -> Iterator[tuple[str, int, str]]:
    """(`B`, 5, `axis 0 of x`), ... of the first input and the first output that have axes."""
    inputs, outputs = ([shape for shape in some if shape][:1] for some in (inputs, outputs))
    for shape in inputs:
        yield "B", shape[0], "axis 0 of x"
    for of, some in (("the output", outputs), ("x", inputs)):
        for shape in some:
            yield "n", shape[-1], f"the last axis of {of}"
            yield "R", math.prod(shape[:-1]), f"the rows of {of}"
            yield "N", math.prod(shape), f"all elements of {of}"


def settings(layer: Layer) -> Iterator[tuple[float, str]]:
    """The float fields of a layer and of those inside it: 1 − rate and its like."""
    for name, value in vars(layer).items():
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, Layer):
                yield from settings(part)
        if isinstance(value, float) and value not in (0.0, 1.0) and math.isfinite(value):
            forms = (value, name), (1 / value, f"1/{name}"), (1 - value, f"1 − {name}")
            yield from ((abs(number), words) for number, words in forms)
            yield abs(1 / (1 - value)), f"1/(1 − {name})"


def spelled(size: float, numbers: Sequence[tuple[float, str]], alone: bool) -> str | None:
    """`2`, `0.2 = 1/B (B = 5, axis 0 of x), ...`, `3.7`; None where a number would prove nothing.

    numbers  what a factor may equal, with words for it
    alone    whether any two such leaves have a constant ratio

    2 and 1/2 are said alone: too much equals them.
    """
    for value, words in ((1.0, "1"), (2.0, "2"), (0.5, "1/2")):
        if np.isclose(size, value, rtol=EXPLAINED, atol=0):
            return words
    for value, words in numbers:
        if np.isclose(size, value, rtol=EXPLAINED, atol=0):
            return f"{size:.4g} = {words}"
    return None if alone else f"{size:.4g}"
