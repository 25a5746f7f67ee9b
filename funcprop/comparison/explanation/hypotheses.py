"""Wrong gradients that only the layer can tell: what would have come out, had it been so.

Each hypothesis evaluates the truth with something exchanged (the output for the input, no mask,
other weights, another dy), or the layer's own backward with something set right. Most share one
compiled program, and nothing is evaluated before it is asked for.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from funcprop.comparison.explanation.arrays import (
    MOST,
    along,
    axes_of,
    largest,
    other_ways_round,
    places,
    rearranged,
    spelling,
    stacked,
    subsets,
)
from funcprop.comparison.explanation.problem import Guess, Problem, quickly
from funcprop.comparison.programs import named_leaves
from funcprop.layer import Array, Context, describe

NEAR = 1e-6  # beside an input that a hypothesis puts in: what jumps there stands on a kink
WIDEST = 64  # a longer last axis: its Jacobian's diagonal takes too many cotangents


def hypotheses(problem: Problem) -> Iterator[Guess]:
    """Words and the leaves they predict, in the order in which they are to be believed."""
    for hypothesis in TABLE:
        try:
            yield from hypothesis(problem)
        except Exception:  # the layer cannot be given that: nothing is learnt from this one
            continue


# --- the truth, had it been so --------------------------------------------------------------------


def at_the_output(problem: Problem) -> Iterator[Guess]:
    with jax.enable_x64(True):
        arguments = (problem.params, problem.x, problem.context)
        y = quickly(lambda *given: problem.layer.forward(*given)[0])(*arguments)
    if spelling(y) == spelling(problem.x):
        words = "taken at the output in place of the input, as σ′ of the activation"
        yield words, problem.at(x=jax.tree.map(np.asarray, y))


def mask_ignored(problem: Problem) -> Iterator[Guess]:
    def all_seen(leaf: Any) -> Any:
        return np.ones_like(leaf) if leaf.dtype == bool else leaf

    x, mask = jax.tree.map(all_seen, (problem.x, problem.context.mask))
    if any(leaf.dtype == bool for leaf in jax.tree.leaves((x, mask))):
        context = dataclasses.replace(problem.context, mask=mask)
        yield "the mask is ignored", problem.at(x=x, context=context)


def diagonal_alone(problem: Problem) -> Iterator[Guess]:
    """The Jacobian's diagonal along the last axis, by one cotangent for each index."""
    dy = problem.dy
    if (
        dy is None
        or not dy.ndim > 1
        or dy.shape[-1] > WIDEST
        or np.shape(problem.x) != dy.shape[1:]
    ):
        return
    index = range(dy.shape[-1])
    basis = np.stack([np.broadcast_to(np.eye(len(index))[k], dy.shape[1:]) for k in index])
    dx = problem.at(dys=problem.dys_from(basis))["dx"]
    yield "the Jacobian's diagonal alone", {"dx": np.stack([dx[k][..., k] for k in index], -1) * dy}


def not_transposed(problem: Problem) -> Iterator[Guess]:
    """Right as soon as backward reads the parameter the other way round."""
    for name, leaf, put in places(problem.params, "params"):
        for words, turned in other_ways_round(leaf):
            params = stacked(put(turned), problem.probes)
            yield f"{name} is not {words}", problem.at(params=params)
            yield f"{name} is not {words}", problem.repaired(params)


def left_out(problem: Problem) -> Iterator[Guess]:
    for name, leaf, put in places(problem.x, "x"):
        ones = np.ones_like(leaf)
        found = problem.at(x=put(ones))
        near = problem.at(x=put(ones + NEAR * np.random.default_rng(0).uniform(size=leaf.shape)))
        # where equal elements tie, as for a maximum, ones are a kink and no missing factor
        jumps = {n: largest(near[n] - v) > 1e-3 * largest(v) for n, v in found.items()}
        yield f"as if {name} were 1", {n: v for n, v in found.items() if not jumps[n]}
    for name, leaf, put in places(problem.params, "params"):
        params = stacked(put(np.ones_like(leaf)), problem.probes)
        yield f"as if {name} were 1", problem.at(params=params)


def conjugated(problem: Problem) -> Iterator[Guess]:
    """Complex arrays go through a comparison as two real ones."""
    for name, leaf, put in places(problem.x, "x"):
        if name.endswith(".imag"):
            yield f"as if {name[:-5]} were conjugated", problem.at(x=put(-leaf))
    for name, leaf, put in places(problem.dys, "dy"):
        if name == "imag" or name.endswith(".imag"):
            words = f"as if {name[:-5] or 'dy'} were conjugated"
            yield words, problem.at(dys=put(-leaf))


def several_outputs(problem: Problem) -> Iterator[Guess]:
    """The cotangent of one output with another sign, in the place of another's, or as zero."""
    leaves, tree = jax.tree.flatten(problem.dys)
    if not 1 < len(leaves) <= MOST:
        return
    for i, leaf in enumerate(leaves):
        for words, other in (
            ("the sign of its cotangent is flipped", -leaf),
            ("dropped", 0 * leaf),
        ):
            dys = jax.tree.unflatten(tree, [*leaves[:i], other, *leaves[i + 1 :]])
            yield f"output {i}: {words}", problem.at(dys=dys)
    for i, j in itertools.combinations(range(len(leaves)), 2):
        if leaves[i].shape == leaves[j].shape:
            moved = list(leaves)
            moved[i], moved[j] = leaves[j], leaves[i]
            words = f"the cotangents of outputs {i} and {j} are exchanged"
            yield words, problem.at(dys=jax.tree.unflatten(tree, moved))


def another_dy(problem: Problem) -> Iterator[Guess]:
    dy = problem.dy
    if dy is None:
        return
    mean = np.broadcast_to(dy.mean(axes_of(dy), keepdims=True), dy.shape)
    yield "as if dy were its mean everywhere", problem.at(dys=problem.dys_from(mean))
    yield "as if dy were 1 everywhere", problem.at(dys=problem.dys_from(np.ones_like(dy)))
    for axes in subsets(axes_of(dy)):
        for what, over in (("mean", np.mean), ("sum", np.sum)):
            value = np.broadcast_to(over(dy, axes, keepdims=True), dy.shape)
            told = f"as if dy were its {what} along {along(axes)}"
            yield told, problem.at(dys=problem.dys_from(value))
    if "dx" in problem.truth and problem.truth["dx"].shape == dy.shape:
        twice = problem.at(dys=problem.dys_from(problem.truth["dx"]))
        yield "the derivative is applied twice", twice
    for axis, (end, index) in itertools.product(axes_of(dy), (("first", 0), ("last", -1))):
        alone = np.zeros_like(dy)
        np.moveaxis(alone, axis, 0)[index] = np.moveaxis(dy, axis, 0)[index]
        words = f"from the {end} index of axis {axis - 1} of dy alone"
        yield words, problem.at(dys=problem.dys_from(alone))


def weights_updated(problem: Problem) -> Iterator[Guess]:
    """The error is a multiple of what a step along the gradient changes: the learning rate."""
    leaves, tree = jax.tree.flatten(problem.params)
    names = [name for name, _ in named_leaves({"dparams": problem.params})]
    for grads in (problem.truth, problem.given):
        steps = [grads.get(name, np.zeros(())) for name in names]
        if not leaves or any(
            np.shape(s)[1:] != np.shape(p) for s, p in zip(steps, leaves, strict=True)
        ):
            continue
        stepped = [leaf - step for leaf, step in zip(leaves, steps, strict=True)]
        for name, after in problem.at(params=jax.tree.unflatten(tree, stepped)).items():
            truth, given = problem.truth[name], problem.given[name]
            change = after - truth
            size = float(np.sum(np.square(change)))
            if given.shape == truth.shape and size > 0 and given.size > 2:
                rate = float(np.sum((given - truth) * change)) / size
                words = f"by weights already updated, with a learning rate of {rate:.4g}"
                yield words, {name: truth + rate * change}


def another_key(problem: Problem) -> Iterator[Guess]:
    key, dy = problem.context.key, problem.dy
    if key is None:
        return
    usual = [*jax.random.split(key), *(jax.random.fold_in(key, data) for data in (0, 1))]
    draws = False
    for other in (*usual, jax.random.key(0), jax.random.key(1)):
        leaves = problem.at(context=dataclasses.replace(problem.context, key=other))
        draws |= any(not np.array_equal(leaf, problem.truth[n]) for n, leaf in leaves.items())
        yield "drawn from another key", leaves
    for name in problem.truth if draws else ():
        given, truth = problem.given[name], problem.truth[name]
        if dy is not None and given.shape == truth.shape == dy.shape:
            for words, predicted in dropped(given, truth, dy):
                yield words, {name: predicted}


def dropped(given: np.ndarray, truth: np.ndarray, dy: np.ndarray) -> Iterator[Any]:
    """Where the truth is c · dy times a mask, and given c · dy times another one."""
    one, other = given != 0, truth != 0
    c = float(np.sum(truth * dy) / max(np.sum(np.square(dy * other)), 1e-300))
    if one.any() and not one.all() and np.allclose(c * dy * other, truth, 1e-9, 0):
        words = "other elements are dropped than in forward, as if drawn from another key"
        yield (
            words if (one == other)[dy != 0].any() else "kept and dropped are exchanged",
            c * dy * one,
        )


def another_axis(problem: Problem) -> Iterator[Guess]:
    """Right as soon as the layer's own backward sees its residuals and dy transposed."""

    def turned(x: Any, context: Context, dys: Array) -> Array:
        _, residuals = problem.layer.forward(problem.params, x, context)
        residuals, dys = jax.tree.map(lambda leaf: leaf.mT, (residuals, dys))
        return jax.vmap(lambda dy: problem.layer.backward((), residuals, dy)[0])(dys).mT

    dy = problem.dy
    if jax.tree.leaves(problem.params) or dy is None or dy.ndim < 3:
        return
    with jax.enable_x64(True):
        dx = np.asarray(quickly(turned)(problem.x, problem.context, dy))
    if "dx" in problem.reproduced and dx.shape == problem.truth["dx"].shape:
        words = "a sum over the last axis but one in place of the last"
        yield words, {"dx": problem.as_prediction("dx", dx)}


def another_setting(problem: Problem) -> Iterator[Guess]:
    """The same layer with a flag turned, or a field at its default."""
    fields = dataclasses.fields(problem.peer) if dataclasses.is_dataclass(problem.peer) else ()
    for field in fields:
        value = getattr(problem.peer, field.name)
        other = (not value) if isinstance(value, bool) else field.default
        if not field.init or other is dataclasses.MISSING or other == value:
            continue
        try:
            layer = dataclasses.replace(problem.peer, **{field.name: other})  # type: ignore
            leaves = dataclasses.replace(problem, peer=layer).at()
        except Exception:  # no such layer, or not for this input: the other fields may do
            continue
        yield f"the gradient of {describe(layer)}", leaves


def rearranged_arguments(problem: Problem) -> Iterator[Guess]:
    for words, moved in rearranged(problem.dy) if problem.dy is not None else ():
        yield f"as if dy were {words}", problem.at(dys=problem.dys_from(moved))
    for name, leaf, put in places(problem.x, "x"):
        for words, moved in rearranged(leaf[None]):
            yield f"as if {name} were {words}", problem.at(x=put(moved[0]))


TABLE: tuple[Callable[[Problem], Iterator[Guess]], ...] = (
    at_the_output,
    mask_ignored,
    diagonal_alone,
    not_transposed,
    conjugated,
    several_outputs,
    left_out,
    another_dy,
    weights_updated,
    another_key,
    another_axis,
    another_setting,
    rearranged_arguments,
)
