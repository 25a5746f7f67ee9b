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

JITTER = 0.05  # of the root mean square: no symmetry of the input is left
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


def points(subject: Subject) -> list[Point]:
    """The input itself; others that were given; and the input changed, where it may be."""
    x, context = subject.x, subject.context
    found = [Point("", x, context)]
    found += [Point(f"inputs {i}", other, context) for i, other in enumerate(subject.others, 1)]
    return [*found, *changed(x, context, subject.key)] if subject.changed else found


def changed(x: Any, context: Context, key: Array) -> list[Point]:
    """The input scaled, all zeros, with ties, jittered, and with a slice of zeros; masks that hide
    nothing, some, and all; integers moved along their first axis, and repeated; and another key.

    All of the same shapes and dtypes: no program is compiled for them.
    """
    random = generator(key)

    def floats(change: Callable[[np.ndarray], np.ndarray]) -> Any:
        def one(leaf: Any) -> Any:
            if not is_float(leaf):
                return leaf
            return change(np.asarray(leaf, np.float64)).astype(leaf.dtype)

        return jax.tree.map(one, x)

    def integers(change: Callable[[np.ndarray], np.ndarray]) -> Any:
        def one(leaf: Any) -> Any:
            return change(np.asarray(leaf)) if is_integer(leaf) and leaf.ndim else leaf

        return jax.tree.map(one, x)

    def masked(pattern: Callable[[np.ndarray], np.ndarray]) -> tuple[Any, Context]:
        """Every mask seen where `pattern` of the last axis's index is True."""

        def one(leaf: Any) -> Any:
            if not is_mask(leaf) or not leaf.ndim:
                return leaf
            return pattern(np.sum(np.indices(leaf.shape), axis=0))  # another one in every row

        mask = None if context.mask is None else one(np.asarray(context.mask))
        return jax.tree.map(one, x), replace(context, mask=mask)

    def jittered(a: np.ndarray) -> np.ndarray:
        size = np.sqrt(np.mean(np.square(a))) if a.any() else 1.0
        return a + JITTER * size * random.normal(size=a.shape)

    def sliced(a: np.ndarray) -> np.ndarray:
        return np.where(np.indices(a.shape)[0] == 0, 0, a) if a.ndim else a

    found = []
    if any(is_float(leaf) for leaf in jax.tree.leaves(x)):
        found += [
            Point("0.02 x", floats(lambda a: 0.02 * a), context),
            Point("30 x", floats(lambda a: 30 * a), context),
            Point("zeros", floats(np.zeros_like), context),
            Point("ties", floats(np.round), context),
            Point("jittered x", floats(jittered), context),
            Point("a slice of zeros", floats(sliced), context),
        ]
    if any(is_integer(leaf) and leaf.ndim for leaf in jax.tree.leaves(x)):
        found.append(Point("integers moved", integers(lambda a: np.roll(a, 1, 0)), context))
        repeated = integers(lambda a: np.broadcast_to(a[:1], a.shape).copy() if a.size else a)
        found.append(Point("repeated integers", repeated, context))
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
