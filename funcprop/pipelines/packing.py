"""Packing: trees of arrays as one vector a dtype, so that every stage has what any stage needs.

All devices run one program, in which a buffer has one shape, and what stages send and keep differs.
So it travels and waits as vectors that are as long as the longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import Array

Vectors = dict[str, Array]  # dtype -> [size], or with slots or chunks before
Sizes = dict[str, int]


@dataclass(frozen=True)
class Layout:
    """Where the arrays of a tree stand in the vectors. Keys stand there as the numbers they are."""

    tree: Any  # its structure
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    keys: tuple[str | None, ...]  # the kind of generator, of what are keys

    @property
    def sizes(self) -> Sizes:
        """How long each vector has to be."""
        found: Sizes = {}
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            found[dtype] = found.get(dtype, 0) + math.prod(shape)
        return found

    def pack(self, tree: Any, sizes: Sizes) -> Vectors:
        """The vectors of a tree, of these sizes: zeros behind what is there."""
        parts: dict[str, list[Array]] = {dtype: [] for dtype in sizes}
        for leaf, dtype in zip(bare(tree)[0], self.dtypes, strict=True):
            parts[dtype].append(leaf.ravel())
        for dtype, rest in (sizes | {d: sizes[d] - n for d, n in self.sizes.items()}).items():
            parts[dtype].append(jnp.zeros(rest, dtype))
        return {dtype: jnp.concatenate(part) for dtype, part in parts.items()}

    def unpack(self, vectors: Vectors) -> Any:
        """The tree in some vectors."""
        leaves, start = [], dict.fromkeys(vectors, 0)
        for shape, dtype, key in zip(self.shapes, self.dtypes, self.keys, strict=True):
            first, size = start[dtype], math.prod(shape)
            start[dtype] += size
            leaf = vectors[dtype][first : first + size].reshape(shape)
            leaves.append(leaf if key is None else jax.random.wrap_key_data(leaf, impl=key))
        return jax.tree.unflatten(self.tree, leaves)


def layout_of(tree: Any) -> Layout:
    """The layout of a tree of arrays or ShapeDtypeStructs."""
    keys: list[str | None] = []

    def look(tree: Any) -> list[Array]:
        leaves, found = bare(tree)
        keys.extend(found)
        return leaves

    leaves = jax.eval_shape(look, tree)
    shapes = tuple(leaf.shape for leaf in leaves)
    dtypes = tuple(leaf.dtype.name for leaf in leaves)
    return Layout(jax.tree.structure(tree), shapes, dtypes, tuple(keys))


def bare(tree: Any) -> tuple[list[Array], list[str | None]]:
    """The leaves, keys as numbers; and of each the kind of generator, or None."""
    leaves, kinds = [], []
    for leaf in jax.tree.leaves(tree):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        leaves.append(jax.random.key_data(leaf) if is_key else jnp.asarray(leaf))
        kinds.append(str(jax.random.key_impl(leaf)) if is_key else None)
    return leaves, kinds


def longest(layouts: Iterable[Layout | None]) -> Sizes:
    """Sizes that all of the layouts fit in."""
    found: Sizes = {}
    for layout in layouts:
        for dtype, size in ({} if layout is None else layout.sizes).items():
            found[dtype] = max(found.get(dtype, 0), size)
    return found


def zeros(sizes: Sizes, *lead: int) -> Vectors:
    """Vectors of zeros, with axes before."""
    return {dtype: jnp.zeros((*lead, size), dtype) for dtype, size in sizes.items()}


def read(vectors: Vectors, slot: Array) -> Vectors:
    """What waits in a slot of axis 0; the last one where there is none of that number."""
    return {
        dtype: jax.lax.dynamic_index_in_dim(rows, slot, 0, keepdims=False)
        for dtype, rows in vectors.items()
    }


def write(vectors: Vectors, slot: Array, given: Vectors) -> Vectors:
    """The same with other vectors in a slot of axis 0."""
    return {
        dtype: jax.lax.dynamic_update_index_in_dim(rows, given[dtype], slot, 0)
        for dtype, rows in vectors.items()
    }


def add(vectors: Vectors, slot: Array, given: Vectors) -> Vectors:
    """The same with other vectors added in a slot of axis 0."""
    there = read(vectors, slot)
    return write(vectors, slot, {dtype: there[dtype] + part for dtype, part in given.items()})
