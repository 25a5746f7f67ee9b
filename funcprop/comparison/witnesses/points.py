"""Where gradients are compared, and under which cotangents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax.flatten_util
import numpy as np

from funcprop.comparison.programs import generator
from funcprop.comparison.subject.subject import Subject
from funcprop.gradient import partition
from funcprop.layer import Array, Context, is_float, is_integer

SCALES = (1e6, 1e-6)  # of cotangents: backward is linear in dy


class Point(NamedTuple):
    """Where gradients are compared: `name` says how the input differs from what was given."""

    name: str
    x: Any
    context: Context


def cotangents(subject: Subject, probes: int) -> Any:
    """Random cotangents of the output, [probes, ...]: N(0, 1) in the output's dtype."""
    draw = generator(subject.key).normal
    return jax.tree.map(
        lambda leaf: draw(size=(probes, *leaf.shape)).astype(leaf.dtype),
        partition(subject.output())[0],
    )


def spread(dys: Any, key: Array) -> Any:
    """The cotangents, and three more: one number alone, another one, and of very uneven sizes."""
    random = generator(key)
    leaves, tree = jax.tree.flatten(dys)
    sizes = np.array([math.prod(leaf.shape[1:]) for leaf in leaves])
    ends = np.cumsum(sizes)
    alone = random.integers(ends[-1], size=2) if ends.size and ends[-1] else ()
    added = []
    for leaf, size, end in zip(leaves, sizes, ends, strict=True):
        shape = leaf.shape[1:]
        rows = [(np.arange(end - size, end) == place).reshape(shape) for place in alone]
        rows.append(random.normal(size=shape) * np.exp(2 * random.normal(size=shape)))
        added.append(np.concatenate([leaf, np.stack(rows).astype(leaf.dtype)]))
    return jax.tree.unflatten(tree, added)


def is_mask(leaf: Any) -> bool:
    """Whether a leaf is an array of truth values."""
    return getattr(leaf, "dtype", None) == np.dtype(bool)


def points(x: Any, context: Context) -> list[Point]:
    """The input itself, scaled, all zeros, and with ties; masks that hide nothing, some, and all;
    integers moved along their first axis, and another key.

    All of the same shapes and dtypes: no program is compiled for them.
    """

    def changed(change: Callable[[np.ndarray], np.ndarray]) -> Any:
        def one(leaf: Any) -> Any:
            if not is_float(leaf):
                return leaf
            return change(np.asarray(leaf, np.float64)).astype(leaf.dtype)

        return jax.tree.map(one, x)

    def masked(pattern: Callable[[np.ndarray], np.ndarray]) -> tuple[Any, Context]:
        """Every mask seen where `pattern` of the last axis's index is True."""

        def changed(leaf: Any) -> Any:
            if not is_mask(leaf) or not leaf.ndim:
                return leaf
            return pattern(np.sum(np.indices(leaf.shape), axis=0))  # another one in every row

        mask = None if context.mask is None else changed(np.asarray(context.mask))
        return jax.tree.map(changed, x), replace(context, mask=mask)

    found = [Point("", x, context)]
    if any(is_float(leaf) for leaf in jax.tree.leaves(x)):
        found += [
            Point("0.02 x", changed(lambda a: 0.02 * a), context),
            Point("30 x", changed(lambda a: 30 * a), context),
            Point("zeros", changed(np.zeros_like), context),
            Point("ties", changed(np.round), context),
        ]
    if any(is_integer(leaf) and leaf.ndim for leaf in jax.tree.leaves(x)):
        moved = jax.tree.map(
            lambda leaf: np.roll(leaf, 1, 0) if is_integer(leaf) and leaf.ndim else leaf, x
        )
        found.append(Point("integers moved", moved, context))
    if context.key is not None:
        other = replace(context, key=jax.random.fold_in(context.key, 1))
        found.append(Point("another key", x, other))
    masks = [context.mask, *jax.tree.leaves(x)]
    if any(map(is_mask, masks)):
        found += [
            Point("nothing masked", *masked(lambda index: index >= 0)),
            Point("every third masked", *masked(lambda index: index % 3 != 1)),
            Point("all masked", *masked(lambda index: index < 0)),
        ]
    return found


def times(scale: float, tree: Any) -> Any:
    """The leaves, scaled."""
    return jax.tree.map(lambda leaf: scale * leaf, tree)
