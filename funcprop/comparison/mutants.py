"""Systematically wrong versions of a gradient, one leaf at a time: what a checker must catch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcprop.comparison.row import Mutant
from funcprop.comparison.truth import Grads
from funcprop.comparison.verdict import named_leaves
from funcprop.layer import Array, Context, Layer, Params, Residuals


@dataclass(frozen=True)
class Mutated(Layer):
    """`layer` with the backward of a mutant."""

    layer: Layer
    mutant: Mutant

    def init(self, key: Array, x: Any) -> Params:
        return self.layer.init(key, x)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        return self.layer.forward(params, x, context)

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        return self.mutant.backward(self.layer, params, residuals, dy)


def sign_flipped(leaf: np.ndarray) -> np.ndarray:
    return -leaf


def doubled(leaf: np.ndarray) -> np.ndarray:
    return 2 * leaf


def zeroed(leaf: np.ndarray) -> np.ndarray:
    return np.zeros_like(leaf)


def transposed(leaf: np.ndarray) -> np.ndarray:
    """The last two axes exchanged, where they are of one size."""
    square = leaf.ndim >= 3 and leaf.shape[-1] == leaf.shape[-2]  # the first axis is the probes
    return np.swapaxes(leaf, -1, -2) if square else leaf


def noisy(leaf: np.ndarray) -> np.ndarray:
    """One per cent of random noise on every element."""
    noise = np.random.default_rng(0).normal(size=leaf.shape)
    return leaf * (1 + 0.01 * noise)


def one_wrong_element(leaf: np.ndarray) -> np.ndarray:
    """The largest element of every probe, 5 per cent off."""
    changed = leaf.copy()
    rows = changed.reshape(len(leaf), -1)
    if rows.shape[1]:
        rows[np.arange(len(rows)), np.argmax(np.abs(rows), axis=1)] *= 1.05
    return changed


SYSTEMATIC: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    sign_flipped,
    doubled,
    zeroed,
    transposed,
    noisy,
    one_wrong_element,
)


def systematic(grads: Grads) -> Iterator[tuple[str, Grads]]:
    """(`dw doubled`, gradients) for every leaf [probes, ...] and mutation that changes it."""
    leaves, tree = jax.tree.flatten(grads)
    names = [name for name, _ in named_leaves(grads)]
    for position, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        for mutation in SYSTEMATIC:
            changed = mutation(leaf)
            if np.array_equal(changed, leaf, equal_nan=True):
                continue  # equal to the right rule: no mutant
            words = mutation.__name__.replace("_", " ")
            copy = [*leaves[:position], changed, *leaves[position + 1 :]]
            yield f"{name} {words}", jax.tree.unflatten(tree, copy)
