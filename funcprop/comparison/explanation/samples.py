"""A rule that acts element by element, seen at many points: what `elementwise` and `curve` read.

Such a rule's Jacobian is diagonal: each element of dx hangs on x and dy at that element alone. It
is told by trial: where two inputs are mixed element by element, so are their results.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.explanation.problem import Problem
from funcprop.comparison.programs import named_leaves, program
from funcprop.gradient import autodiff
from funcprop.layer import is_float

ROWS = 8  # inputs to one run of the program


MOST = 100_000  # elements of x: more take long, and tell no more


SAME = 1e-9  # relative: two computations of one number in float64


@dataclass(frozen=True)
class Samples:
    """x, y, dy and dx of one element each; float64, [samples].

    z, a   x and y
    given  dx by hand
    slope  f′(z): dx by automatic differentiation at dy = 1
    """

    z: np.ndarray
    a: np.ndarray
    dy: np.ndarray
    given: np.ndarray
    slope: np.ndarray

    def at(self, which: np.ndarray) -> Self:
        """Some of them."""
        return type(self)(*(values[which] for values in vars(self).values()))

    @property
    def known(self) -> np.ndarray:
        """Where the function has a value and a slope."""
        return np.isfinite(self.slope) & np.isfinite(self.a)

    @property
    def scale(self) -> np.ndarray:
        """What roundings are measured by, beside the numbers themselves."""
        return 1e-3 * SAME * (1 + np.abs(self.slope)) * np.maximum(np.abs(self.dy), 1e-300)

    def fit(self, predicted: np.ndarray) -> bool:
        """Whether dx by hand is the prediction, at every sample."""
        if not np.isfinite(predicted).all():
            return False
        sizes = np.maximum(np.abs(predicted), np.abs(self.given))
        return bool((np.abs(predicted - self.given) <= SAME * sizes + self.scale).all())

    @property
    def right(self) -> np.ndarray:
        """Where dx by hand is right."""
        truth = self.slope * self.dy
        sizes = np.maximum(np.abs(truth), np.abs(self.given))
        return np.abs(truth - self.given) <= SAME * sizes + self.scale


@dataclass(frozen=True)
class Elementwise:
    """A layer or function that acts element by element, with a rule that does so too.

    leaf     its gradient: "dx", or "dx[0]" of a function
    given    at the input that was given, under all cotangents, [probes · elements]
    more     there under others, and at inputs between its elements
    uniform  whether all elements are treated alike: no parameter or mask stands at one of them
    linear   whether dx by hand is linear in dy
    x        the input of that leaf
    run      (xs [ROWS, ...], dys) -> Samples, flat
    """

    leaf: str
    given: Samples
    more: Samples
    uniform: bool
    linear: bool
    x: np.ndarray
    run: Callable[[np.ndarray, np.ndarray], Samples]

    def at_points(self, z: np.ndarray, dy: float) -> Samples:
        """The same at any points [n], under one dy; only where it is uniform."""
        rows = math.ceil(z.size / self.x.size)
        found = []
        for start in range(0, rows, ROWS):
            points = z[start * self.x.size : (start + ROWS) * self.x.size]
            xs = np.resize(points, (ROWS, *self.x.shape))
            found.append(self.run(xs, np.full_like(xs, dy)).at(np.arange(points.size)))
        return joined(found)


def joined(some: Sequence[Samples]) -> Samples:
    """All of them, in order."""
    each = zip(*(vars(samples).values() for samples in some), strict=True)
    return Samples(*map(np.concatenate, each))


def elementwise_rule(problem: Problem) -> Elementwise | None:
    """The problem's rule, where it acts element by element; None where it does not."""
    for leaf, x, put in floats(problem.x):
        try:
            found = tried(problem, leaf, x, put)
        except Exception:  # the layer cannot be given that: it is not known to be elementwise
            continue
        if found is not None:
            return found
    return None


def floats(x: Any) -> Iterator[tuple[str, np.ndarray, Callable[[Any], Any]]]:
    """(`dx[0]`, the leaf, leaf -> x with that leaf in its place) for the float leaves."""
    leaves, tree = jax.tree.flatten(x)
    names = [name for name, _ in named_leaves({"dx": x})]
    for i, leaf in enumerate(leaves):
        if is_float(leaf):
            before, after = leaves[:i], leaves[i + 1 :]

            def put(other: Any, before: Any = before, after: Any = after) -> Any:
                return jax.tree.unflatten(tree, [*before, other, *after])

            yield names[i], np.asarray(leaf), put


def tried(
    problem: Problem, leaf: str, x: np.ndarray, put: Callable[[Any], Any]
) -> Elementwise | None:
    """The rule by one leaf of x, where it acts element by element."""
    dys, truth, given = problem.dy, problem.truth.get(leaf), problem.given.get(leaf)
    if dys is None or truth is None or given is None or not 0 < x.size <= MOST:
        return None
    if not dys.shape == truth.shape == given.shape == (len(dys), *x.shape):
        return None
    if not is_diagonal(truth, dys):
        return None
    draw = np.random.default_rng(0)
    run = samples_of(problem, leaf, put, x)
    other = between(x, draw)
    dy, twice = (draw.choice((-1, 1), x.shape) * draw.uniform(0.5, 2, x.shape) for _ in "12")
    mixed = draw.permutation(np.arange(x.size) % 2 == 0).reshape(x.shape)
    # r: as given, another, two mixtures, the other one with its elements moved, scaled, negated
    xs = [x, other, np.where(mixed, x, other), np.where(mixed, other, x)]
    ds = [dy, twice, np.where(mixed, dy, twice), np.where(mixed, twice, dy)]
    xs += [np.roll(other.ravel(), 1).reshape(x.shape), other, other, other]
    ds += [np.roll(twice.ravel(), 1).reshape(x.shape), 2 * twice, -twice, np.ones_like(x)]
    more = run(np.stack(xs), np.stack(ds))
    rows = [more.at(np.arange(i * x.size, (i + 1) * x.size)) for i in range(ROWS)]
    chosen = mixed.ravel()
    apart = all(
        alike(np.where(chosen, one, two), three) and alike(np.where(chosen, two, one), four)
        for one, two, three, four in zip(*(results(row) for row in rows[:4]), strict=True)
    )
    if not apart:
        return None
    moved = zip(results(rows[1]), results(rows[4]), strict=True)
    uniform = all(alike(np.roll(one, 1), two) for one, two in moved)
    linear = all(
        alike(factor * rows[1].given, row.given)
        for factor, row in ((2, rows[5]), (-1, rows[6]), (1 / twice.ravel(), rows[7]))
    )
    z, a, slope = (np.tile(v, len(dys)) for v in (rows[0].z, rows[0].a, rows[0].slope))
    dy, dx = (np.asarray(v, np.float64).reshape(-1) for v in (dys, given))
    here = Samples(z, a, dy, dx, slope)
    return Elementwise(leaf, here, more, uniform, linear, x, run)


def is_diagonal(truth: np.ndarray, dys: np.ndarray) -> bool:
    """Whether truth / dy is the same under every cotangent; [probes, ...]."""
    known = np.isfinite(truth)
    truth = np.where(known, truth, 0)
    largest = np.argmax(np.abs(dys), 0, keepdims=True)
    there = np.take_along_axis(dys, largest, 0)
    slope = np.take_along_axis(truth, largest, 0) / np.where(there == 0, 1, there)
    scale = 1e-3 * SAME * np.abs(truth).max(initial=0)
    return bool((np.abs(slope * dys - truth) <= SAME * np.abs(truth) + scale).all())


def between(x: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Inputs between elements of x, which the layer takes if it takes them; of x alone, near it."""
    flat = x[np.isfinite(x)].ravel()
    if flat.size and np.ptp(flat) > 0:
        one, two = draw.choice(flat, x.shape), draw.choice(flat, x.shape)
        return one + draw.uniform(0, 1, x.shape) * (two - one)
    return x * draw.uniform(0.5, 1.5, x.shape)


def results(row: Samples) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What comes out."""
    return row.a, row.given, row.slope


def alike(one: np.ndarray, two: np.ndarray) -> bool:
    """Equal but for rounding, where both are finite."""
    known = np.isfinite(one) & np.isfinite(two)
    one, two = np.where(known, one, 0), np.where(known, two, 0)
    scale = 1e-3 * SAME * np.abs(one).max(initial=0)
    return bool((np.abs(one - two) <= SAME * np.abs(one) + scale).all())


def samples_of(
    problem: Problem, leaf: str, put: Callable[[Any], Any], x: np.ndarray
) -> Callable[[np.ndarray, np.ndarray], Samples]:
    """(xs [ROWS, ...], dys) -> Samples, by one program: the layer's own rule, and the truth's."""

    def dx(layer: Any, x: Any, dy: Any) -> tuple[Any, Any]:
        y, residuals = layer.forward(problem.params, put(x), problem.context)
        dx, _ = layer.backward(problem.params, residuals, problem.dys_from(dy))
        (y,) = [leaf for leaf in jax.tree.leaves(y) if is_float(leaf)]
        return y, dict(named_leaves({"dx": dx}))[leaf]

    def one(pair: Any) -> Any:
        x, dy = pair
        a, given = dx(problem.layer, x, dy)
        _, slope = dx(autodiff(problem.peer), x, jnp.ones_like(dy))
        return a, given, slope

    @functools.cache
    def made() -> Any:
        both = np.zeros((2, ROWS, *x.shape))
        return program(lambda *pair: jax.lax.map(one, pair), *both)

    def run(xs: np.ndarray, dys: np.ndarray) -> Samples:
        with jax.enable_x64(True):
            a, given, slope = made()(xs.astype(np.float64), dys.astype(np.float64))
        flat = (np.asarray(v, np.float64).reshape(-1) for v in (xs, a, dys, given, slope))
        return Samples(*flat)

    return run
