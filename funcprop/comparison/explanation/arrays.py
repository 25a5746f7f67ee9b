"""Arrays of gradients [probes, ...]: put elsewhere, summed, scaled, and how large they are."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from funcprop.layer import is_float

# --- arrays and trees -----------------------------------------------------------------------------


def rearranged(array: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """The elements of [probes, ...] put elsewhere in every simple way, and words for it.

    `shifted by +1` says that each stands where the one after it belongs.
    """
    axes = axes_of(array)
    for i, j in reversed(list(itertools.combinations(axes, 2))):
        if array.shape[i] == array.shape[j]:
            last = (i, j) == (array.ndim - 2, array.ndim - 1)
            words = "transposed" if last else f"with axes {i - 1} and {j - 1} exchanged"
            yield words, np.swapaxes(array, i, j)
    for some in subsets(axes):
        yield f"reversed along {along(some)}", np.flip(array, some)
    for axis, step in itertools.product(axes if array.size else (), (1, -1)):
        words, rolled = f"shifted by {step:+d} along axis {axis - 1}", np.roll(array, step, axis)
        yield f"{words}, round its end", rolled
        filled = rolled.copy()
        np.moveaxis(filled, axis, 0)[0 if step > 0 else -1] = 0
        yield words, filled
    for count in (2, 3, 4) if axes else ():
        if array.shape[-1] % count == 0:
            parts = np.split(array, count, -1)
            for order in list(itertools.permutations(range(count)))[1:]:
                words = f"with the blocks of its last axis in the order {order}"
                yield words, np.concatenate([parts[k] for k in order], -1)


def other_ways_round(leaf: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """A matrix transposed, its square blocks transposed, a kernel reversed."""
    if leaf.ndim >= 2 and leaf.shape[-1] == leaf.shape[-2]:
        yield "transposed", leaf.swapaxes(-1, -2)
    elif leaf.ndim == 2 and leaf.shape[0] and leaf.shape[1] % leaf.shape[0] == 0:
        blocks = np.split(leaf, leaf.shape[1] // leaf.shape[0], 1)
        yield "transposed, block by block", np.concatenate([block.T for block in blocks], 1)
    if leaf.ndim >= 3:
        axes = tuple(range(leaf.ndim - 2))
        yield f"reversed along {along([axis + 1 for axis in axes])}", np.flip(leaf, axes)


def places(tree: Any, name: str) -> Iterator[tuple[str, np.ndarray, Callable[[Any], Any]]]:
    """(`w`, the leaf, leaf -> the tree with that leaf in its place) for its float leaves."""
    leaves, structure = jax.tree.flatten(tree)
    for position, (path, leaf) in enumerate(jax.tree.leaves_with_path(tree)):
        if is_float(leaf) and len(leaves) <= MOST:

            def put(other: Any, position: int = position) -> Any:
                kept = [*leaves[:position], other, *leaves[position + 1 :]]
                return jax.tree.unflatten(structure, kept)

            words = jax.tree_util.keystr(path)
            yield words[1:] if words.startswith(".") else name + words, np.asarray(leaf), put


def stacked(tree: Any, count: int) -> Any:
    """Every leaf [...] as [count, ...]."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (count, *np.shape(leaf))), tree)


def spelling(tree: Any) -> Any:
    """Tree, shapes and dtypes, to be compared."""
    return jax.tree.structure(tree), [(np.shape(v), v.dtype) for v in jax.tree.leaves(tree)]


def axes_of(array: np.ndarray) -> tuple[int, ...]:
    """All axes but the probes."""
    return tuple(range(1, array.ndim))


def subsets(axes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Some of the axes: each alone first, then two together, ..."""
    for count in range(1, len(axes) + 1):
        yield from itertools.combinations(axes, count)


def along(axes: Sequence[int]) -> str:
    """`axis 0`, `axes 0 and 1`, numbered without the probes."""
    numbers = [str(axis - 1) for axis in axes]
    return f"axis {numbers[0]}" if len(numbers) == 1 else "axes " + " and ".join(numbers)


MOST = 16  # more leaves of a tree: trying them one by one takes too long


def multiple(a: np.ndarray, b: np.ndarray, axes: Any = None) -> Any:
    """c with a ≈ c · b, by least squares: one number, or one for each group along the axes."""
    peak = largest(b) or 1.0
    above = np.sum(a / peak * (b / peak), axes, keepdims=axes is not None)
    below = np.sum(np.square(b / peak), axes, keepdims=axes is not None)
    return above / np.where(below == 0, 1, below)


def norm(values: np.ndarray) -> float:
    """The Euclidean norm, of numbers scaled to 1 first: squares must not underflow."""
    peak = largest(values)
    return peak * float(np.sqrt(np.sum(np.square(values / peak)))) if peak else 0.0


def each_norm(values: np.ndarray) -> np.ndarray:
    """[probes, ...] -> [probes]."""
    return np.array([norm(probe) for probe in values])


def largest(values: np.ndarray) -> float:
    """The largest size of a finite element."""
    return float(np.max(np.abs(values), initial=0.0, where=np.isfinite(values)))


def axes_told(order: Sequence[int]) -> tuple[int, ...]:
    """Numbers of axes without the probes."""
    return tuple(axis - 1 for axis in order)


def by_chance(values: np.ndarray) -> bool:
    """Whether the mean over any of the axes is as small as that of independent numbers."""
    total = float(np.mean(np.square(values))) or 1.0
    for axes in subsets(range(values.ndim)):
        means = values.mean(axes)
        expected = means.size * total / values.size
        if np.mean(np.square(means)) > expected * (1 + 4 * math.sqrt(2 / means.size)):
            return False
    return True
