"""Systematically wrong versions of a backward pass.

A mutant is made from a right backward pass: from the gradients that it returned, leaf by leaf
(`LEAVES`), or from what it was given (`GIVEN`): parameters after an update, a mask that hides
nothing, the δ of the next step, a residual that was forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.catalogue.row import Mutant
from funcprop.comparison.evidence import Evidence
from funcprop.comparison.programs import Programs, cast, named_leaves
from funcprop.comparison.witnesses.gradients import Grads, passed, pulled
from funcprop.composites.wrapper import Wrapper
from funcprop.gradient import combine, partition
from funcprop.layer import Context, Layer, Params, Residuals, is_float

SAME = 1e-12  # of a leaf's largest number: in float64, a mutant that differs by less is none


@dataclass(frozen=True)
class Mutated(Wrapper):
    """`layer` with the backward of a mutant."""

    mutant: Mutant

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        return self.mutant.backward(self.layer, params, residuals, dy)


# --- wrong leaves: [probes, ...] -> the same shape ------------------------------------------------


def sign_flipped(leaf: np.ndarray) -> np.ndarray:
    return -leaf


def doubled(leaf: np.ndarray) -> np.ndarray:
    return 2 * leaf


def halved(leaf: np.ndarray) -> np.ndarray:
    return leaf / 2


def averaged(leaf: np.ndarray) -> np.ndarray:
    """Divided by the size of its first axis: a mean where a sum is due."""
    return leaf / leaf.shape[1] if leaf.ndim > 1 else leaf


def zeroed(leaf: np.ndarray) -> np.ndarray:
    return np.zeros_like(leaf)


def transposed(leaf: np.ndarray) -> np.ndarray:
    """The last two axes exchanged, where they are of one size."""
    square = leaf.ndim >= 3 and leaf.shape[-1] == leaf.shape[-2]  # the first axis is the probes
    return np.swapaxes(leaf, -1, -2) if square else leaf


def reversed_axis(leaf: np.ndarray) -> np.ndarray:
    """The last axis backwards."""
    return leaf[..., ::-1] if leaf.ndim > 1 else leaf


def shifted(leaf: np.ndarray) -> np.ndarray:
    """A step late, along the last axis but one: time, in a sequence."""
    return np.roll(leaf, 1, axis=-2) if leaf.ndim > 2 else leaf


def mean_removed(leaf: np.ndarray) -> np.ndarray:
    """Without its mean over the last axis: a term too many."""
    return leaf - leaf.mean(-1, keepdims=True) if leaf.ndim > 1 else leaf


def summed_over_axis(leaf: np.ndarray) -> np.ndarray:
    """Every element the sum over the first axis: the wrong axis summed."""
    return np.broadcast_to(leaf.sum(1, keepdims=True), leaf.shape) if leaf.ndim > 1 else leaf


def noisy(leaf: np.ndarray) -> np.ndarray:
    """One per cent of random noise on every element."""
    noise = np.random.default_rng(0).normal(size=leaf.shape)
    return leaf * (1 + 0.01 * noise)


def one_wrong_element(leaf: np.ndarray) -> np.ndarray:
    """The largest element of every probe, 5 per cent off."""
    changed = np.array(leaf)
    rows = changed.reshape(len(leaf), -1)
    if rows.shape[1]:
        rows[np.arange(len(rows)), np.argmax(np.abs(rows), axis=1)] *= 1.05
    return changed


def low_precision(leaf: np.ndarray) -> np.ndarray:
    """Through bfloat16 and back."""
    return leaf.astype(jnp.bfloat16).astype(leaf.dtype)


LEAVES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    sign_flipped,
    doubled,
    halved,
    averaged,
    zeroed,
    transposed,
    reversed_axis,
    shifted,
    mean_removed,
    summed_over_axis,
    noisy,
    one_wrong_element,
    low_precision,
)


def wrong_leaves(grads: Grads) -> Iterator[tuple[str, Grads]]:
    """(`dw doubled`, gradients) for every leaf [probes, ...] and every function of `LEAVES`, and
    (`dw and dx exchanged`, gradients) for every two leaves of one shape."""
    leaves, tree = jax.tree.flatten(grads)
    names = [name for name, _ in named_leaves(grads)]
    for i, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        for change in LEAVES:
            copy = [*leaves[:i], change(leaf), *leaves[i + 1 :]]
            yield f"{name} {change.__name__.replace('_', ' ')}", jax.tree.unflatten(tree, copy)
        for j in range(i):
            if leaves[j].shape == leaf.shape:
                copy = list(leaves)
                copy[i], copy[j] = leaves[j], leaf
                yield f"{names[j]} and {name} exchanged", jax.tree.unflatten(tree, copy)


# --- what backward was given ----------------------------------------------------------------------


def wrong_inputs(
    params: Params, residuals: Residuals, dys: Any, grads: Grads
) -> Iterator[tuple[str, Params, Residuals, Any]]:
    """(name, params, residuals, dys) of backward passes that are given something wrong."""
    if jax.tree.leaves(partition(params)[0]):
        step = jax.tree.map(lambda leaf: None if leaf is None else leaf[0], grads["dparams"])
        floats, rest = partition(params)
        updated = jax.tree.map(lambda p, dp: p - 0.1 * dp, floats, step)
        yield "updated parameters used", combine(updated, rest), residuals, dys
    leaves, tree = jax.tree.flatten(residuals)
    for i, leaf in enumerate(leaves):
        if getattr(leaf, "dtype", None) == np.dtype(bool):
            changed, told = np.ones_like(leaf), "the mask ignored"
        elif is_float(leaf):
            changed, told = np.zeros_like(leaf), "forgotten"
        else:
            continue
        copy = [*leaves[:i], changed, *leaves[i + 1 :]]
        yield f"residual {i} {told}", params, jax.tree.unflatten(tree, copy), dys
    late = jax.tree.map(lambda dy: np.roll(dy, 1, axis=-2) if dy.ndim > 2 else dy, dys)
    yield "δ of the next step", params, residuals, late


def all_mutants(
    layer: Layer,
    params: Params,
    x: Any,
    context: Context,
    evidence: Evidence,
    mutants: Sequence[Mutant],
    run: Programs,
) -> Iterator[tuple[str, Grads]]:
    """(name, gradients under the cotangents of `evidence`), in float64."""
    right = evidence.exact[0].given
    yield from wrong_leaves(right)

    def forward(params: Params, x: Any, context: Context) -> Any:
        return layer.forward(params, x, context)

    # the program of `evidence`, and so of what it returns
    def backward(params: Params, residuals: Residuals, dys: Any) -> tuple[Any, Grads]:
        return passed(layer, params, residuals, dys)

    def all_wrong(params: Params, residuals: Residuals, dys: Any) -> list[Grads]:
        """Of every mutant, in one program: most of what they compute they have in common."""
        return [pulled(Mutated(layer, mutant), params, residuals, dys) for mutant in mutants]

    with jax.enable_x64(True):
        params, x, context = (cast(tree, jnp.float64) for tree in (params, x, context))
        _, residuals = run("forward", forward, params, x, context)
        for name, *given in wrong_inputs(params, residuals, evidence.dys, right):
            yield name, run("backward", backward, *given)[1]
        if mutants:
            found = run("mutants", all_wrong, params, residuals, evidence.dys)
            yield from zip((mutant.name for mutant in mutants), found, strict=True)


def same(grads: Grads, right: Grads, truth: Grads) -> bool:
    """Whether a mutant computes the right gradient, in float64, but for rounding."""
    if jax.tree.map(np.shape, grads) != jax.tree.map(np.shape, right):
        return False
    largest = max((np.abs(leaf).max(initial=0) for leaf in jax.tree.leaves(truth)), default=0.0)
    return all(
        a is b or np.allclose(a, b, rtol=SAME, atol=SAME * largest, equal_nan=True)
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(right), strict=True)
    )
