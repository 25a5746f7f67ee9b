"""Which elements of dy a rule reads for an element of dx, and with what: its whole Jacobian.

Of small arrays only, by one cotangent for each element. Where the wrong Jacobian and the right one
differ in a few places along an axis, or in what a sum is made of, that is said.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.comparison.explanation.arrays import along
from funcprop.comparison.explanation.linearity import NOT_LINEAR
from funcprop.comparison.explanation.problem import Guess, Problem, quickly
from funcprop.comparison.explanation.samples import floats

MOST = 200  # elements of dy
SAME = 1e-9  # of the largest element of a Jacobian
FEW = 4  # places along the axes that a rule reads


def couplings(problem: Problem) -> Iterator[Guess]:
    """Words and the leaves that they predict, of leaves of the shape of the only dy."""
    reproduced = problem.reproduced
    if not reproduced:
        return
    if (curved := nonlinear(problem)) is not None:
        yield f"{NOT_LINEAR}: twice dy gives another gradient than twice this one", curved
        return
    dy = problem.dy
    if dy is None or not 1 < dy[0].size <= MOST:
        return
    names = [name for name in reproduced if problem.truth[name].shape == dy.shape]
    if not names:
        return
    size, shape = dy[0].size, dy.shape[1:]
    basis = problem.dys_from(np.eye(size).reshape(size, *shape))
    own, right = problem.own(dys=basis), problem.at(dys=basis)
    for name in names:
        given, truth = (each[name].reshape(size, size).T for each in (own, right))
        if not (np.isfinite(given).all() and np.isfinite(truth).all()):
            continue
        values = candidates(problem, name, shape)
        for words, matrix in (
            *by_offset(given, truth, shape),
            *by_sum(given, truth, shape, values),
        ):
            yield words, {name: (dy.reshape(len(dy), size) @ matrix.T).reshape(dy.shape)}


def nonlinear(problem: Problem) -> dict[str, np.ndarray] | None:
    """The leaves as they are where they are no linear function of dy; None where all are."""
    doubled = problem.own(dys=jax.tree.map(lambda dy: -2 * dy, problem.dys))
    found = {}
    for name in problem.reproduced:
        wanted = -2 * problem.given[name]
        if np.abs(doubled[name] - wanted).max(initial=0) > 1e-6 * np.abs(wanted).max(initial=0):
            found[name] = problem.given[name]
    return found or None


# --- by the place along the axes ------------------------------------------------------------------


def by_offset(
    given: np.ndarray, truth: np.ndarray, shape: tuple[int, ...]
) -> Iterator[tuple[str, np.ndarray]]:
    """Rules that read dy at a few places beside their own, as a shift or a difference does."""
    size = len(truth)
    places = np.stack(np.unravel_index(np.arange(size), shape), -1)
    steps = (places[None] - places[:, None]) % np.asarray(shape)  # from i to j, round the end
    classes: Any = np.ravel_multi_index(tuple(np.moveaxis(steps, -1, 0)), shape)
    scale = SAME * max(np.abs(truth).max(), np.abs(given).max())

    def reaching(matrix: np.ndarray) -> set[int]:
        return set(classes[np.abs(matrix) > scale].tolist())

    ours, right, wrong = reaching(given), reaching(truth), reaching(given - truth)
    if not wrong or max(len(ours), len(right)) > min(FEW, size // 2) or not right:
        return
    missing, added = sorted(right - ours), sorted(ours - right)
    both = sorted(wrong & ours & right)
    matrix = truth.copy()
    for each in wrong:
        matrix[classes == each] = given[classes == each]
    of = [[told_place(each, shape) for each in some] for some in (missing, added, both)]
    if missing and added and not both:
        yield f"read from dy {joined(of[1])} in the place of dy {joined(of[0])}", matrix
    elif missing and not added and not both:
        yield f"the part from dy {joined(of[0])} is missing", matrix
    elif added and not missing and not both:
        yield f"a part from dy {joined(of[1])} that should not be there", matrix
    elif len(both) == 1 and not missing and not added:
        (there,) = both
        one, other = given[classes == there], truth[classes == there]
        c = float(one @ other) / float(other @ other)
        if np.abs(one - c * other).max() <= scale:
            wrong_by = "the wrong sign" if abs(c + 1) < SAME else f"a factor of {c:.4g}"
            yield f"the part from dy {of[2][0]} has {wrong_by}", matrix


def told_place(number: int, shape: tuple[int, ...]) -> str:
    """`at the same place`, `one before along axis 1`."""
    steps = np.unravel_index(number, shape)
    parts = []
    for axis, (step, size) in enumerate(zip(steps, shape, strict=True)):
        signed = int(step) - (size if step > size // 2 else 0)
        if signed:
            count = "one" if abs(signed) == 1 else str(abs(signed))
            parts.append(f"{count} {'after' if signed > 0 else 'before'} along axis {axis}")
    return " and ".join(parts) or "at the same place"


def joined(places: list[str]) -> str:
    return " and ".join(places)


# --- by what is summed ----------------------------------------------------------------------------


class Sum(NamedTuple):
    """times · b · Σ c · dy over the axes: what stands off the diagonal of a Jacobian."""

    axes: tuple[int, ...]
    times: float
    b: str
    c: str
    matrix: np.ndarray  # on the diagonal too

    @property
    def words(self) -> str:
        sign = "−" if self.times < 0 else ""
        size = abs(self.times)
        number = "" if abs(size - 1) < 1e-6 else f"{size:.4g} "
        inner = "dy" if self.c == "1" else f"{self.c} dy"
        outer = "" if self.b == "1" else f"{self.b} "
        where = along([axis + 1 for axis in self.axes])
        return f"{sign}{number}{outer}Σ {inner} along {where}"


def by_sum(
    given: np.ndarray, truth: np.ndarray, shape: tuple[int, ...], values: dict[str, np.ndarray]
) -> Iterator[tuple[str, np.ndarray]]:
    """Rules that add to their own element a sum over others, as a softmax and a norm do."""
    ours, right = axes_mixed(given, shape), axes_mixed(truth, shape)
    if not ours or not right:
        return
    one, other = sum_of(given, ours, shape, values), sum_of(truth, right, shape, values)
    if one is not None and other is not None and one.words != other.words:
        matrix = truth - other.matrix + one.matrix
        if np.abs(matrix - given).max() <= SAME * np.abs(given).max():
            yield f"{one.words}, in the place of {other.words}{letters(one, other)}", matrix
            return
    if ours != right:
        names = [along([axis + 1 for axis in axes]) for axes in (ours, right)]
        if set(ours) & set(right):  # what is wrong may be a product as well as a sum: what is seen
            yield f"an element reads dy along {names[0]}, and should along {names[1]}", given
        else:
            yield f"sums over {names[0]} in the place of {names[1]}", given


def letters(one: Sum, other: Sum) -> str:
    """What x and y are, where the words speak of them."""
    spoken = "".join((one.b, one.c, other.b, other.c))
    told = [
        f"{name} is the {what}"
        for name, what in (("x", "input"), ("y", "output"))
        if name in spoken
    ]
    return f"; {', '.join(told)}" if told else ""


def axes_mixed(matrix: np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which an element reads others."""
    i, j = np.nonzero(np.abs(matrix) > SAME * np.abs(matrix).max())
    one, other = (np.stack(np.unravel_index(each, shape)) for each in (i, j))
    return tuple(np.flatnonzero((one != other).any(1)).tolist())


def sum_of(
    matrix: np.ndarray, axes: tuple[int, ...], shape: tuple[int, ...], values: dict[str, np.ndarray]
) -> Sum | None:
    """What is off the diagonal, as a product of a value at i and one at j; the plainest."""
    size = len(matrix)
    places = np.stack(np.unravel_index(np.arange(size), shape), -1)
    kept = [axis for axis in range(len(shape)) if axis not in axes]
    together = (places[:, None, kept] == places[None, :, kept]).all(-1)
    off = together & ~np.eye(size, dtype=bool)
    if not off.any():
        return None
    pairs = sorted(itertools.product(enumerate(values), repeat=2), key=lambda p: p[0][0] + p[1][0])
    for (_, b), (_, c) in pairs:
        product = np.outer(values[b], values[c]) * together
        below = float(np.sum(product[off] ** 2))
        times = float(np.sum(matrix[off] * product[off])) / below if below else 0.0
        if times and np.abs(matrix - times * product)[off].max() <= SAME * np.abs(matrix).max():
            return Sum(axes, times, b, c, times * product)
    return None


def candidates(problem: Problem, name: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """By words, flat: 1, x and the output y, their squares and products."""
    x = next(np.asarray(leaf) for own, leaf, _ in floats(problem.x) if own == name)
    found = {"1": np.ones(x.size), "x": x.ravel()}
    given = problem.params, problem.x, problem.context
    with jax.enable_x64(True):
        y = quickly(lambda *given: problem.peer.forward(*given)[0])(*given)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(y) if np.shape(leaf) == shape]
    if len(leaves) == 1:
        found["y"] = leaves[0].ravel()
    powers: dict[str, Any] = {
        f"{letter}²": found[letter] ** 2 for letter in ("x", "y") if letter in found
    }
    if "y" in found:
        powers["x y"] = found["x"] * found["y"]
    return found | powers | {f"{v}³": found[v] ** 3 for v in ("x", "y") if v in found}
