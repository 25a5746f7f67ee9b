"""Wrong gradients that the arrays alone tell: `sign flipped`, `transposed`, `zero everywhere`.

Each pattern predicts what would have come out if it were so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from funcprop.comparison.explanation.arrays import (
    along,
    by_chance,
    each_norm,
    largest,
    multiple,
    norm,
    rearranged,
    subsets,
)
from funcprop.comparison.explanation.factors import EXPLAINED, spelled

WRONG = 1e-8  # relative norm: below, a leaf is right
ROUNDING = 1e-12  # of the leaf: two right computations in float64 differ by less
Guess = tuple[str, np.ndarray]  # words, and the leaf that they predict
Leaves = dict[str, np.ndarray]


@dataclass(frozen=True)
class WrongLeaf:
    """One wrong leaf and what its patterns look at: float64, [probes, ...]."""

    given: np.ndarray
    truth: np.ndarray
    others: dict[str, tuple[np.ndarray, np.ndarray]]  # given and truth of leaves of this shape
    dys: tuple[np.ndarray, ...]  # cotangents of this shape
    xs: Leaves  # inputs of this shape, [1, ...]
    numbers: tuple[tuple[float, str], ...]  # what a factor may equal
    imaginary: bool  # the imaginary part of a complex array
    alone: bool  # one number that one cotangent reaches: any two of them have a constant ratio

    @property
    def error(self) -> np.ndarray:
        return self.given - self.truth

    @property
    def axes(self) -> range:
        """All but the probes."""
        return range(1, self.given.ndim)

    def spelled(self, size: float) -> str | None:
        """A factor in words; None where a number would prove nothing."""
        return spelled(size, self.numbers, self.alone)

    def explained(self, predicted: np.ndarray) -> bool:
        """Whether the prediction is what was given, and not merely close to the truth."""
        if predicted.shape != self.given.shape or not np.isfinite(predicted).all():
            return False
        left, off, size = (each_norm(v) for v in (predicted - self.given, self.error, self.truth))
        allowed = EXPLAINED * off + ROUNDING * (size + size.max(initial=0) / 100)
        return bool((left <= allowed).all() and (off > allowed).any())


# --- patterns of arrays ---------------------------------------------------------------------------


def zero(case: WrongLeaf) -> Iterator[Guess]:
    yield "zero everywhere", np.zeros_like(case.truth)


def factor(case: WrongLeaf) -> Iterator[Guess]:
    c = float(multiple(case.given, case.truth))
    words = case.spelled(abs(c))
    if words and c:
        parts = ["sign flipped"] * (c < 0) + [f"a factor of {words}"] * (words != "1")
        yield ", and ".join(parts), c * case.truth


def rounded(case: WrongLeaf) -> Iterator[Guess]:
    """Numbers of a narrower type, near the truth: the leaf went through that type."""
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        near = norm(case.error) <= 16 * float(jnp.finfo(dtype).eps) * norm(case.truth)
        with np.errstate(over="ignore", under="ignore"):
            narrow = case.given.astype(dtype).astype(np.float64)
        if near and np.array_equal(narrow, case.given):
            yield f"rounded to {jnp.dtype(dtype).name}", case.given


def rearrangement(case: WrongLeaf) -> Iterator[Guess]:
    yield from rearranged(case.truth)


def exchanged(case: WrongLeaf) -> Iterator[Guess]:
    for other, (given, truth) in case.others.items():
        both = norm(given - case.truth) <= EXPLAINED * norm(case.truth)
        yield f"exchanged with {other}" if both else f"the gradient of {other}", truth


def spread(case: WrongLeaf) -> Iterator[Guess]:
    for axes in subsets(case.axes):
        for words, over in (("summed", np.sum), ("averaged", np.mean)):
            value = over(case.truth, axes, keepdims=True) if case.truth.size else case.truth
            yield f"{words} over {along(axes)}", np.broadcast_to(value, case.truth.shape)


def dy_itself(case: WrongLeaf) -> Iterator[Guess]:
    for dy in case.dys:
        c = float(multiple(case.given, dy))
        words = case.spelled(abs(c))
        if words == "1" and c > 0:
            yield "dy itself: the layer's derivative is left out", dy
        elif words and dy[0].size > 1:
            sign = "−" if c < 0 else ""
            yield f"dy times {sign}{words}: the rest of the derivative is left out", c * dy
        yield "dy is not added", case.truth - dy
        yield "dy is added once too often", case.truth + dy


def mean_kept(case: WrongLeaf) -> Iterator[Guess]:
    """Given − mean(given) is the truth: it sums to zero over those axes, as a norm's dx does."""
    if len(case.error) > 1 and np.ptp(case.error, axis=0).max() <= WRONG * largest(case.error):
        return  # the same for every dy: no part of a gradient
    for axes in subsets(case.axes) if largest(case.truth) else ():
        words = f"its mean over {along(axes)} is not subtracted, as if a mean were a constant"
        yield words, case.truth + case.given.mean(axes, keepdims=True)
        words = f"its mean over {along(axes)} is subtracted, and should not be"
        yield words, case.truth - case.truth.mean(axes, keepdims=True)


def conjugated(case: WrongLeaf) -> Iterator[Guess]:
    if case.imaginary:
        yield "conjugated: the sign of the imaginary part is flipped", -case.truth


def transformed(case: WrongLeaf) -> Iterator[Guess]:
    """Index n holds what belongs to −n: so it is where a Fourier transform is conjugated, or its
    inverse stands in its place."""
    for axes in subsets(case.axes):
        moved = np.roll(np.flip(case.truth, axes), [1] * len(axes), axes)
        c = float(multiple(case.given, moved))
        size = math.prod(case.truth.shape[axis] for axis in axes)
        where = f"index n holds what belongs to −n along {along(axes)}"
        if math.isclose(c, 1, rel_tol=EXPLAINED):
            yield f"{where}, as if a Fourier transform were conjugated", moved
        elif any(math.isclose(c, other, rel_tol=EXPLAINED) for other in (size, 1 / size)):
            words = f"{where}, and a factor of {c:.4g}"
            yield (
                f"{words}: an inverse Fourier transform in the place of one, or the other way",
                (c * moved),
            )
        elif (words := case.spelled(abs(c))) and c:
            sign = "a flipped sign, and " if c < 0 else ""
            yield f"{where}, with {sign}a factor of {words}", c * moved


SIMPLE = (
    zero,
    conjugated,
    factor,
    rounded,
    rearrangement,
    exchanged,
    spread,
    dy_itself,
    mean_kept,
    transformed,
)


# --- patterns that are said only where nothing sharper explains -----------------------------------


def few_elements(case: WrongLeaf) -> Iterator[Guess]:
    """At most four of a probe are off, and no more than a quarter."""
    off = np.abs(case.error) > WRONG * largest(case.truth)
    count = int(off.reshape(len(off), -1).sum(1).max(initial=0))
    if count <= min(4, max(1, off[0].size // 4)) and off[0].size > 1:
        each = [[tuple(map(int, place)) for place in np.argwhere(probe)] for probe in off]
        told = next((places for places in each if places), [])
        end = "" if all(places in ([], told) for places in each) else ", elsewhere for another dy"
        yield f"wrong at {', '.join(map(str, told))} alone{end}", case.given


def one_slice(case: WrongLeaf) -> Iterator[Guess]:
    """All that is off stands at one index of an axis."""
    off = np.abs(case.error) > WRONG * largest(case.truth)
    for axis in case.axes:
        indices = np.flatnonzero(off.any(tuple(set(range(off.ndim)) - {axis})))
        if off.shape[axis] > 2 and len(indices) == 1:
            end = "" if case.given.take(indices[0], axis).any() else ", and zero there"
            yield f"wrong at index {indices[0]} of axis {axis - 1} alone{end}", case.given


def elementwise(case: WrongLeaf) -> Iterator[Guess]:
    """Given / dy does not depend on dy, truth / dy does."""
    for dy in case.dys if len(case.given) > 1 else ():
        own, right = (multiple(leaf, dy, 0) * dy for leaf in (case.given, case.truth))
        if norm(right - case.truth) > EXPLAINED * norm(case.truth):
            yield (
                "each element from its own dy alone: sums over the other elements are missing",
                own,
            )


def off_along_x(case: WrongLeaf) -> Iterator[Guess]:
    """The error is a multiple of x, or of its deviations, group by group."""
    for (name, x), axes in itertools.product(case.xs.items(), subsets(case.axes)):
        if math.prod(x.shape[axis] for axis in axes) >= 4:
            centered = x - x.mean(axes, keepdims=True)
            for words, values in ((name, x), (f"{name} − its mean", centered)):
                d = np.broadcast_to(values, case.given.shape)
                told = f"off by a multiple of {words} along {along(axes)}"
                predicted = case.truth + multiple(case.error, d, axes) * d
                yield f"{told}: the derivative of a norm or deviation is wrong", predicted


def noise(case: WrongLeaf) -> Iterator[Guess]:
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


def nothing_due(case: WrongLeaf) -> Iterator[Guess]:
    if not largest(case.truth):
        yield "not zero, where the truth is zero everywhere", case.given


LAST = (few_elements, one_slice, elementwise, off_along_x, noise, nothing_due)


def first(
    case: WrongLeaf, patterns: Sequence[Callable[[WrongLeaf], Iterator[Guess]]]
) -> str | None:
    """The words of the first pattern that explains the leaf."""
    guesses = itertools.chain.from_iterable(pattern(case) for pattern in patterns)
    return next((words for words, predicted in guesses if case.explained(predicted)), None)
