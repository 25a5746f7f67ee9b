"""A target that JAX cannot trace, run as Python runs it: gradients, and finite differences.

Such a function reads its arguments as numbers, by `float(x)` or NumPy. A rule of its own can still
give it a derivative, under `jax.vjp` outside of `jit`. Nothing is compiled here, and no cotangents
are batched.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import cast, generator
from funcprop.comparison.subject.subject import Subject
from funcprop.comparison.witnesses.gradients import STEP, Grads
from funcprop.gradient import combine, partition
from funcprop.layer import Layer, is_float

COORDINATES = 64  # of the arguments, each of which takes twelve runs: of more some are drawn
STEPS = (1.0, 2.7, 7.3)  # of differences: a staircase gives each another slope
AGREE = 1e-5  # of the largest slope: how far the steps may be apart


class Eager(NamedTuple):
    """What was measured. Gradients have leaves [probes, ...].

    values   of the target and of its peer, in float64
    given    by hand in float64
    rounded  by hand in the working dtype; None where that is float64
    truth    finite differences: NaN where none were taken, and where the steps disagree
    steps    how many coordinates were looked at, of how many, and at how many the steps agree
    """

    values: tuple[Any, Any]
    given: Grads
    rounded: Grads | None
    truth: Grads
    steps: tuple[int, int, int]


def measured(subject: Subject, probes: int) -> Eager:
    """All of it, at the given input. Raises what the target does."""
    rounded = None
    with jax.enable_x64(True):
        wide = subject.in_float64()
        y, peer_y = values(wide, wide.layer), values(wide, wide.peer)
        draw = generator(subject.key).normal
        dys = jax.tree.map(lambda leaf: draw(size=(probes, *np.shape(leaf))), y)
        given = by_hand(wide, dys)
        truth, steps = differences(wide, dys)
    floats = jax.tree.leaves(partition((subject.params, subject.x))[0])
    if not all(leaf.dtype == np.float64 for leaf in floats):
        like = values(subject, subject.layer)
        rounded = by_hand(subject, jax.tree.map(lambda dy, leaf: dy.astype(leaf.dtype), dys, like))
    return Eager((y, peer_y), given, rounded, truth, steps)


def values(subject: Subject, layer: Layer) -> Any:
    """The floats of the output."""
    y = layer.forward(*jax.tree.map(as_array, subject.given))[0]
    return partition(jax.tree.map(jnp.asarray, y))[0]


def by_hand(subject: Subject, dys: Any) -> Grads:
    """The gradients under every cotangent, one after the other."""
    params, x, context = jax.tree.map(as_array, subject.given)
    y, residuals = subject.layer.forward(params, x, context)
    like, found = partition(y)[0], []
    for i in range(len(jax.tree.leaves(dys)[0])):
        dy = jax.tree.map(lambda leaf, own, i=i: jnp.asarray(leaf[i], own.dtype), dys, like)
        dx, dparams = subject.layer.backward(params, residuals, dy)
        found.append({"dx": dx, "dparams": dparams})
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *found)


def differences(subject: Subject, dys: Any) -> tuple[Grads, tuple[int, int, int]]:
    """Central differences of fourth order with several steps, coordinate by coordinate."""
    floats, rest = partition((subject.params, subject.x))
    start, unravel = jax.flatten_util.ravel_pytree(cast(floats, np.float64))
    start = np.asarray(start)
    size = float(np.sqrt(np.mean(np.square(start)))) if start.size else 0.0
    usual = 0.1 * size or 1.0
    draw = generator(subject.key)
    some = np.arange(start.size)
    if start.size > COORDINATES:
        some = np.sort(draw.choice(start.size, COORDINATES, replace=False))

    def value(v: np.ndarray) -> np.ndarray:  # ⟨dy, y⟩ for every probe
        params, x = combine(unravel(jnp.asarray(v)), rest)
        y = values(replace(subject, params=params, x=x), subject.peer)
        pairs = zip(jax.tree.leaves(dys), jax.tree.leaves(y), strict=True)
        each = [np.tensordot(dy, np.asarray(y, np.float64), np.ndim(y)) for dy, y in pairs]
        return np.sum(each, 0)

    def slope(i: Any, h: float) -> np.ndarray:
        at = [value(start + h * step * (np.arange(start.size) == i)) for step in (1, -1, 2, -2)]
        return (8 * (at[0] - at[1]) - (at[2] - at[3])) / (12 * h)

    count = len(jax.tree.leaves(dys)[0])
    slopes = np.full((len(STEPS), start.size, count), np.nan)
    step = max(STEP, 0.5 * subject.rtol**0.25)
    for i in some:
        h = step * max(usual, abs(start[i]))
        slopes[:, i] = [slope(i, h * times) for times in STEPS]
    largest = np.abs(slopes[0, some]).max(initial=0.0)
    agree = np.ptp(slopes, 0) <= max(AGREE, subject.rtol) * largest
    truth = np.where(agree, slopes[0], np.nan)
    leaves = [unravel(jnp.asarray(column)) for column in truth.T]
    dparams, dx = jax.tree.map(lambda *each: np.stack([np.asarray(a) for a in each]), *leaves)
    known = int(agree.all(1).sum())
    return {"dx": dx, "dparams": dparams}, (len(some), start.size, known)


def as_array(leaf: Any) -> Any:
    """A JAX array: what a function that is not traced is called with."""
    return jnp.asarray(leaf) if is_float(leaf) else leaf
