"""What is wrong with a gradient, in words: `sign flipped`, `transposed`, `the mask is ignored`.

Each pattern predicts what would have come out if it were so. It is said only where its prediction
is the given leaf, under every cotangent; what nothing explains is NO_PATTERN. The plainest come
first, and those that need the layer again (`hypotheses`) only where nothing simpler explains.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from funcprop.comparison.explanation.arrays import along, axes_told, largest, norm, places, subsets
from funcprop.comparison.explanation.couplings import couplings
from funcprop.comparison.explanation.elementwise import formula_of
from funcprop.comparison.explanation.factors import EXPLAINED, factors
from funcprop.comparison.explanation.hypotheses import hypotheses
from funcprop.comparison.explanation.patterns import (
    LAST,
    SIMPLE,
    WRONG,
    Leaves,
    WrongLeaf,
    first,
)
from funcprop.comparison.explanation.problem import Problem
from funcprop.comparison.explanation.samples import Elementwise, elementwise_rule
from funcprop.comparison.explanation.slopes import slopes
from funcprop.comparison.explanation.terms import terms
from funcprop.comparison.leaf import NO_PATTERN
from funcprop.comparison.programs import named_leaves
from funcprop.comparison.verdict.rules import ZERO
from funcprop.comparison.witnesses.gradients import Grads
from funcprop.layer import Context, Layer, Params


def diagnose(
    layer: Layer,
    params: Params,
    x: Any,
    context: Context,
    dys: Any,
    given: Grads,
    truth: Grads,
    peer: Layer | None = None,
) -> dict[str, str]:
    """Words for every wrong leaf of a gradient: {"dw": "sign flipped"}; {} where all are right.

    params, x     what the layer was given, NumPy arrays in float64
    dys           the cotangents, leaves [probes, ...]
    given, truth  {"dx": ..., "dparams": ...}, leaves [probes, ...]: what the layer's backward
                  returned, and what is right
    peer          a layer whose forward JAX can differentiate, where it cannot `layer`'s

    A leaf is wrong where its relative norm is above 1e-8, and named as `named_leaves` does; words
    number its axes without the probes. Leaves of another shape go to `diagnose_shape`.

    Raises ValueError where the trees of `given` and `truth` differ.
    """
    problem = problem_of(layer, params, x, context, dys, given, truth, peer)
    return diagnosed(problem, lambda: elementwise_rule(problem))


def problem_of(
    layer: Layer,
    params: Params,
    x: Any,
    context: Context,
    dys: Any,
    given: Grads,
    truth: Grads,
    peer: Layer | None = None,
) -> Problem:
    """What `diagnose` is given, as one value. Raises ValueError as it does."""
    returned, right = dict(named_leaves(given)), dict(named_leaves(truth))
    if returned.keys() != right.keys():
        raise ValueError(
            f"given has the leaves {list(returned)} and truth {list(right)}, wanted the same: "
            'write diagnose(..., {"dx": dx, "dparams": dparams}, truth)'
        )
    return Problem(layer, peer or layer, params, x, context, dys, returned, right)


def diagnosed(problem: Problem, rule: Callable[[], Elementwise | None]) -> dict[str, str]:
    """The same of a problem; `rule()` is the elementwise rule in it, looked for where needed."""
    layer, params, x, dys = problem.layer, problem.params, problem.x, problem.dys
    returned, right = problem.given, problem.truth
    found: dict[str, str] = {}
    cases: dict[str, WrongLeaf] = {}
    numbers = tuple(factors(layer, params, x, dys))
    for name, leaf, wanted in wrong_leaves(returned, right):
        if leaf.shape != wanted.shape:
            found[name] = diagnose_shape(leaf, wanted)
        elif not np.isfinite(leaf).all():
            broken = [tuple(map(int, place[1:])) for place in np.argwhere(~np.isfinite(leaf))]
            found[name] = f"not finite where the truth is, first at {broken[0]}"
        else:
            others = {
                other: (returned[other], value)
                for other, value in right.items()
                if other != name and value.shape == wanted.shape == returned[other].shape
            }
            cotangents = jax.tree.leaves(dys)
            cases[name] = WrongLeaf(
                leaf,
                wanted,
                others,
                tuple(dy for dy in cotangents if dy.shape == wanted.shape),
                {word: v[None] for word, v, _ in places(x, "x") if v.shape == wanted.shape[1:]},
                numbers,
                name.endswith(".imag"),
                alone=wanted[0].size < 2 and all(dy[0].size < 2 for dy in cotangents),
            )
    found |= {name: words for name, case in cases.items() if (words := first(case, SIMPLE))}
    waiting = {name: case for name, case in cases.items() if name not in found}
    if waiting and (alone := rule()) is not None and alone.leaf in waiting:
        told = formula_of(alone, layer)
        if told and waiting[alone.leaf].explained(told[1]):
            found[alone.leaf] = told[0]
            del waiting[alone.leaf]
    found |= settled(waiting, hypotheses(problem) if waiting else ())
    found |= {name: words for name, case in waiting.items() if (words := first(case, LAST))}
    waiting = {name: case for name, case in waiting.items() if name not in found}
    found |= settled(waiting, looked_into(problem) if waiting else ())
    found |= dict.fromkeys(waiting, NO_PATTERN)
    return {name: found[name] for name in right if name in found}


def looked_into(problem: Problem) -> Iterator[tuple[str, Leaves]]:
    """What takes longer than all before: the derivative term by term, and the whole Jacobian."""
    for hypothesis in (slopes, terms, couplings):
        with contextlib.suppress(Exception):  # a layer that cannot be given that tells nothing
            yield from hypothesis(problem)


def settled(waiting: dict[str, WrongLeaf], guesses: Iterable[tuple[str, Leaves]]) -> dict[str, str]:
    """Words for the leaves that a guess explains, which are taken out of those that wait."""
    found: dict[str, str] = {}
    for words, predicted in guesses:
        explained = [n for n in waiting if n in predicted and waiting[n].explained(predicted[n])]
        explained = [n for n in explained if other_part(n) not in set(waiting) - set(explained)]
        found |= dict.fromkeys(explained, words)
        for name in explained:
            del waiting[name]
        if not waiting:
            break
    return found


def other_part(name: str) -> str:
    """The imaginary part of a complex leaf for its real one, and the other way round."""
    stem, _, part = name.rpartition(".")
    return {"real": f"{stem}.imag", "imag": f"{stem}.real"}.get(part, "")


def wrong_leaves(given: Leaves, truth: Leaves) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, given and truth of the leaves that are off; 0 in both where the truth is not finite."""
    zero = ZERO * float(np.finfo(np.float64).eps) * max(map(largest, truth.values()), default=0.0)
    for name, wanted in truth.items():
        leaf = given[name]
        if leaf.shape != wanted.shape:
            yield name, leaf, wanted
            continue
        known = np.isfinite(wanted)
        leaf, wanted = np.where(known, leaf, 0.0), np.where(known, wanted, 0.0)
        if np.isfinite(leaf).all():
            off = leaf - wanted
            share = [norm(e) > WRONG * norm(t) for e, t in zip(off, wanted, strict=True)]
            if largest(off) <= zero or not any(share):
                continue
        yield name, leaf, wanted if largest(wanted) > zero else np.zeros_like(wanted)


def diagnose_shape(given_leaf: Any, wanted_leaf: Any) -> str:
    """Words for a leaf of another shape than wanted: `not summed over axis 0`.

    Both [probes, ...]; axes are numbered without the probes. NO_PATTERN where nothing explains it.
    """
    given, wanted = np.asarray(given_leaf, np.float64), np.asarray(wanted_leaf, np.float64)
    for words, one, other in reshaped(given, wanted):
        if one.shape == other.shape and norm(one - other) <= EXPLAINED * norm(other):
            return words
    return NO_PATTERN


def reshaped(given: np.ndarray, wanted: np.ndarray) -> Iterator[tuple[str, Any, Any]]:
    """Words, and two arrays that are equal where the words are true."""
    one, other = ([size for size in leaf.shape if size > 1] for leaf in (given, wanted))
    if one == other:
        yield "axes of size 1 too many or too few", given.reshape(wanted.shape), wanted
    for axes in subsets(range(1, given.ndim)):
        yield f"not summed over {along(axes)}", given.sum(axes), wanted
        yield f"not averaged over {along(axes)}", given.mean(axes), wanted
    for order in itertools.permutations(range(1, wanted.ndim)):
        told = "transposed" if len(order) == 2 else f"its axes in the order {axes_told(order)}"
        yield told, given, wanted.transpose(0, *order)
    for axes, keep in itertools.product(subsets(range(1, wanted.ndim)), (False, True)):
        yield f"summed over {along(axes)} too", given, wanted.sum(axes, keepdims=keep)
        yield f"averaged over {along(axes)} too", given, wanted.mean(axes, keepdims=keep)
    if given.size == wanted.size:
        yield "the right numbers in another shape", given.reshape(wanted.shape), wanted
