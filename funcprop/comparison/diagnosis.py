"""What is wrong with a gradient, in words: `sign flipped`, `transposed`, `the mask is ignored`.

Each pattern predicts what would have come out if it were so. It is said only where its prediction
is the given leaf, under every cotangent; what nothing explains is NO_PATTERN. The plainest come
first, and those that need the layer again (`hypotheses`) only where nothing simpler explains.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.hypotheses import Problem, along, hypotheses, places, rearranged, subsets
from funcprop.comparison.programs import named_leaves
from funcprop.comparison.truth import Grads
from funcprop.comparison.verdict import NO_PATTERN as NO_PATTERN
from funcprop.comparison.verdict import ZERO
from funcprop.layer import Context, Layer, Params

WRONG = 1e-8  # relative norm: below, a leaf is right
EXPLAINED = 1e-6  # what a pattern may leave over, of the error
ROUNDING = 1e-12  # of the leaf: two right computations in float64 differ by less

Guess = tuple[str, np.ndarray]  # words, and the leaf that they predict
Leaves = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One wrong leaf and what its patterns look at: float64, [probes, ...]."""

    given: np.ndarray
    truth: np.ndarray
    others: dict[str, tuple[np.ndarray, np.ndarray]]  # given and truth of leaves of this shape
    dys: tuple[np.ndarray, ...]  # cotangents of this shape
    xs: Leaves  # inputs of this shape, [1, ...]
    numbers: tuple[tuple[float, str], ...]  # what a factor may equal
    alone: bool  # one number that one cotangent reaches: any two of them have a constant ratio

    @property
    def error(self) -> np.ndarray:
        return self.given - self.truth

    @property
    def axes(self) -> range:
        """All but the probes."""
        return range(1, self.given.ndim)

    def explained(self, predicted: np.ndarray) -> bool:
        """Whether the prediction is what was given, and not merely close to the truth."""
        if predicted.shape != self.given.shape or not np.isfinite(predicted).all():
            return False
        left, off, size = (each_norm(v) for v in (predicted - self.given, self.error, self.truth))
        allowed = EXPLAINED * off + ROUNDING * (size + size.max(initial=0) / 100)
        return bool((left <= allowed).all() and (off > allowed).any())


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
    returned, right = dict(named_leaves(given)), dict(named_leaves(truth))
    if returned.keys() != right.keys():
        raise ValueError(
            f"given has the leaves {list(returned)} and truth {list(right)}, wanted the same: "
            'write diagnose(..., {"dx": dx, "dparams": dparams}, truth)'
        )
    found: dict[str, str] = {}
    cases: dict[str, Case] = {}
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
            cases[name] = Case(
                leaf,
                wanted,
                others,
                tuple(dy for dy in cotangents if dy.shape == wanted.shape),
                {word: v[None] for word, v, _ in places(x, "x") if v.shape == wanted.shape[1:]},
                numbers,
                alone=wanted[0].size < 2 and all(dy[0].size < 2 for dy in cotangents),
            )
    found |= {name: words for name, case in cases.items() if (words := first(case, SIMPLE))}
    waiting = {name: case for name, case in cases.items() if name not in found}
    problem = Problem(layer, peer or layer, params, x, context, dys, returned, right)
    for words, predicted in hypotheses(problem) if waiting else ():
        explained = [n for n in waiting if n in predicted and waiting[n].explained(predicted[n])]
        found |= dict.fromkeys(explained, words)
        waiting = {name: case for name, case in waiting.items() if name not in explained}
        if not waiting:
            break
    found |= {name: first(case, LAST) or NO_PATTERN for name, case in waiting.items()}
    return {name: found[name] for name in right if name in found}


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


# --- patterns of arrays ---------------------------------------------------------------------------


def zero(case: Case) -> Iterator[Guess]:
    yield "zero everywhere", np.zeros_like(case.truth)


def factor(case: Case) -> Iterator[Guess]:
    c = float(multiple(case.given, case.truth))
    words = spelled(abs(c), case)
    if words and c:
        parts = ["sign flipped"] * (c < 0) + [f"a factor of {words}"] * (words != "1")
        yield ", and ".join(parts), c * case.truth


def rounded(case: Case) -> Iterator[Guess]:
    """Numbers of a narrower type, near the truth: the leaf went through that type."""
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        near = norm(case.error) <= 16 * float(jnp.finfo(dtype).eps) * norm(case.truth)
        with np.errstate(over="ignore", under="ignore"):
            narrow = case.given.astype(dtype).astype(np.float64)
        if near and np.array_equal(narrow, case.given):
            yield f"rounded to {jnp.dtype(dtype).name}", case.given


def rearrangement(case: Case) -> Iterator[Guess]:
    yield from rearranged(case.truth)


def exchanged(case: Case) -> Iterator[Guess]:
    for other, (given, truth) in case.others.items():
        both = norm(given - case.truth) <= EXPLAINED * norm(case.truth)
        yield f"exchanged with {other}" if both else f"the gradient of {other}", truth


def spread(case: Case) -> Iterator[Guess]:
    for axes in subsets(case.axes):
        for words, over in (("summed", np.sum), ("averaged", np.mean)):
            value = over(case.truth, axes, keepdims=True) if case.truth.size else case.truth
            yield f"{words} over {along(axes)}", np.broadcast_to(value, case.truth.shape)


def dy_itself(case: Case) -> Iterator[Guess]:
    for dy in case.dys:
        c = float(multiple(case.given, dy))
        words = spelled(abs(c), case)
        if words == "1" and c > 0:
            yield "dy itself: the layer's derivative is left out", dy
        elif words and dy[0].size > 1:
            sign = "−" if c < 0 else ""
            yield f"dy times {sign}{words}: the rest of the derivative is left out", c * dy
        yield "dy is not added", case.truth - dy
        yield "dy is added once too often", case.truth + dy


def mean_kept(case: Case) -> Iterator[Guess]:
    """Given − mean(given) is the truth: it sums to zero over those axes, as a norm's dx does."""
    if len(case.error) > 1 and np.ptp(case.error, axis=0).max() <= WRONG * largest(case.error):
        return  # the same for every dy: no part of a gradient
    for axes in subsets(case.axes) if largest(case.truth) else ():
        words = f"its mean over {along(axes)} is not subtracted, as if a mean were a constant"
        yield words, case.truth + case.given.mean(axes, keepdims=True)
        words = f"its mean over {along(axes)} is subtracted, and should not be"
        yield words, case.truth - case.truth.mean(axes, keepdims=True)


SIMPLE = (zero, factor, rounded, rearrangement, exchanged, spread, dy_itself, mean_kept)


# --- patterns that are said only where nothing sharper explains -----------------------------------


def few_elements(case: Case) -> Iterator[Guess]:
    """At most four of a probe are off, and no more than a quarter."""
    off = np.abs(case.error) > WRONG * largest(case.truth)
    count = int(off.reshape(len(off), -1).sum(1).max(initial=0))
    if count <= min(4, max(1, off[0].size // 4)) and off[0].size > 1:
        each = [[tuple(map(int, place)) for place in np.argwhere(probe)] for probe in off]
        told = next((places for places in each if places), [])
        end = "" if all(places in ([], told) for places in each) else ", elsewhere for another dy"
        yield f"wrong at {', '.join(map(str, told))} alone{end}", case.given


def one_slice(case: Case) -> Iterator[Guess]:
    """All that is off stands at one index of an axis."""
    off = np.abs(case.error) > WRONG * largest(case.truth)
    for axis in case.axes:
        indices = np.flatnonzero(off.any(tuple(set(range(off.ndim)) - {axis})))
        if off.shape[axis] > 2 and len(indices) == 1:
            end = "" if case.given.take(indices[0], axis).any() else ", and zero there"
            yield f"wrong at index {indices[0]} of axis {axis - 1} alone{end}", case.given


def elementwise(case: Case) -> Iterator[Guess]:
    """Given / dy does not depend on dy, truth / dy does."""
    for dy in case.dys if len(case.given) > 1 else ():
        own, right = (multiple(leaf, dy, 0) * dy for leaf in (case.given, case.truth))
        if norm(right - case.truth) > EXPLAINED * norm(case.truth):
            yield (
                "each element from its own dy alone: sums over the other elements are missing",
                own,
            )


def off_along_x(case: Case) -> Iterator[Guess]:
    """The error is a multiple of x, or of its deviations, group by group."""
    for (name, x), axes in itertools.product(case.xs.items(), subsets(case.axes)):
        if math.prod(x.shape[axis] for axis in axes) >= 4:
            centered = x - x.mean(axes, keepdims=True)
            for words, values in ((name, x), (f"{name} − its mean", centered)):
                d = np.broadcast_to(values, case.given.shape)
                told = f"off by a multiple of {words} along {along(axes)}"
                predicted = case.truth + multiple(case.error, d, axes) * d
                yield f"{told}, as if a norm or deviation were a constant", predicted


def noise(case: Case) -> Iterator[Guess]:
    """Every element off by a small share of its own, at random: none stands out, none is right."""
    some = case.truth != 0
    share = np.divide(case.error, case.truth, out=np.zeros_like(case.error), where=some)
    off = np.abs(share[some])
    size = float(np.sqrt(np.mean(np.square(off)))) if off.size else 0.0
    few = len(np.unique(off.round(12))) < 100  # too few to tell chance from structure
    if few or not 1e-4 <= size <= 0.1 or case.error[~some].any() or not off.all():
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        link = abs(np.corrcoef(np.log(off), np.log(np.abs(case.truth[some])))[0, 1])
    even = off.max() < 5 * size and np.median(off) > 0.45 * size
    spread_out = by_chance(share) and by_chance(np.where(some, np.abs(share) - off.mean(), 0))
    if even and spread_out and link < 4 / math.sqrt(off.size):
        yield f"every element is off by about {100 * size:.1g} %", case.given


def nothing_due(case: Case) -> Iterator[Guess]:
    if not largest(case.truth):
        yield "not zero, where the truth is zero everywhere", case.given


LAST = (few_elements, one_slice, elementwise, off_along_x, noise, nothing_due)


def first(case: Case, patterns: Sequence[Callable[[Case], Iterator[Guess]]]) -> str | None:
    """The words of the first pattern that explains the leaf."""
    guesses = itertools.chain.from_iterable(pattern(case) for pattern in patterns)
    return next((words for words, predicted in guesses if case.explained(predicted)), None)


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


def spelled(size: float, case: Case) -> str | None:
    """`2`, `0.2 = 1/B (B = 5, axis 0 of x), ...`, `3.7`; None where a number would prove nothing.

    2 and 1/2 are said alone: too much equals them.
    """
    for value, words in ((1.0, "1"), (2.0, "2"), (0.5, "1/2")):
        if np.isclose(size, value, rtol=EXPLAINED, atol=0):
            return words
    for value, words in case.numbers:
        if np.isclose(size, value, rtol=EXPLAINED, atol=0):
            return f"{size:.4g} = {words}"
    return None if case.alone else f"{size:.4g}"


def by_chance(values: np.ndarray) -> bool:
    """Whether the mean over any of the axes is as small as that of independent numbers."""
    total = float(np.mean(np.square(values))) or 1.0
    for axes in subsets(range(values.ndim)):
        means = values.mean(axes)
        expected = means.size * total / values.size
        if np.mean(np.square(means)) > expected * (1 + 4 * math.sqrt(2 / means.size)):
            return False
    return True


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
