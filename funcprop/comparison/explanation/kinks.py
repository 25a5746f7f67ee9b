"""A derivative that is wrong on one side of a kink alone: the slope or α forgotten below 0."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from funcprop.comparison.explanation.cases import Case, Guess, Slopes, screened
from funcprop.comparison.explanation.derivatives import (
    any_multiple,
    in_its_place,
    of_slopes,
    of_the_right_one,
)
from funcprop.comparison.explanation.formulas import Constants
from funcprop.comparison.explanation.samples import SAME, Samples
from funcprop.layers.activations import SELU_ALPHA, SELU_SCALE

Side = Callable[[np.ndarray], np.ndarray]


SIDES: tuple[tuple[str, float, Side], ...] = (  # words, where |z| is the kink's, and what is inside
    ("z < 0", 0, lambda z: z < 0),
    ("z > 0", 0, lambda z: z > 0),
    ("|z| < 1", 1, lambda z: np.abs(z) < 1),
    ("|z| > 1", 1, lambda z: np.abs(z) > 1),
)


def on_one_side(
    seen: Samples,
    constants: Constants,
    explain: Callable[[Case], Iterator[Guess]],
) -> Iterator[Guess]:
    """Right on the other side of a kink. At the kink itself either side's slope may stand."""
    for where, kink, side in SIDES:
        inside = side(seen.z)
        if not seen.right[~inside & (np.abs(seen.z) != kink)].all():
            continue
        known = (*constants, *of_selu(seen))
        case = screened(seen.at(inside), known)
        for words, predict in explain(case) if case is not None else ():

            def both(
                s: Samples, side: Side = side, kink: float = kink, predict: Slopes = predict
            ) -> np.ndarray:
                here = side(s.z) | ((np.abs(s.z) == kink) & ~s.right)
                predicted = s.slope * s.dy
                predicted[here] = predict(s.at(here))
                return predicted

            yield words.replace("{where}", where), both


def of_selu(seen: Samples) -> Constants:
    """Its constants, where the slope above 0 is λ."""
    above = seen.slope[seen.z > 0]
    if not above.size or np.abs(above - SELU_SCALE).max() > SAME:
        return ()
    return ((SELU_SCALE * SELU_ALPHA, "λα"), (SELU_ALPHA, "α"), (SELU_SCALE, "λ"))


def flat(case: Case) -> Iterator[Guess]:
    """One constant slope in the place of another; words with {where} in them."""
    g, f = case.g, case.f
    if all(case.same(values, np.full_like(values, values[0])) for values in (g, f)):
        value, right = float(g[0]), float(f[0])
        words = f"{value:.6g} in the place of {right:.6g} for {{where}}"
        if value in (0, 1) and right not in (0, 1):
            name = next((n for v, n in case.constants if abs(v - right) <= SAME * v), "slope")
            words = f"the {name} {right:.6g} for {{where}} is forgotten: {value:.6g} there"
        yield words, lambda s: value * s.dy


def of_side(case: Case) -> Iterator[Guess]:
    """The same of slopes that are not constant."""
    g, f = case.g, case.f
    known = (*case.constants, (SELU_ALPHA, "α = 1.673"), (SELU_SCALE, "λ = 1.051"))
    if not g.any():
        of = f", in the place of {case.right}" if case.right else ""
        yield f"zero for {{where}}{of}", lambda s: 0 * s.dy
        return
    below = float(f @ f)
    c = float(g @ f) / below if below else 0.0
    if c and case.same(g, c * f):
        words = f"{c:.4g} times the derivative for {{where}}"
        if abs(1 / c - round(1 / c, 3)) <= SAME < abs(c - round(c, 3)):
            words = f"the factor {round(1 / c, 3):g} is forgotten for {{where}}"
        if abs(c + 1) <= SAME:
            words = "sign flipped for {where}"
        for value, name in known:
            if value and abs(c * value - 1) <= SAME:
                words = f"the factor {with_value(name, value)} is forgotten for {{where}}"
            elif abs(c / value - 1) <= SAME:
                words = f"one factor {with_value(name, value)} too many for {{where}}"
        yield words, lambda s: c * s.slope * s.dy
    for explain in (in_its_place, of_the_right_one, any_multiple):
        for words, predict in of_slopes(case, explain):
            yield f"{words} for {{where}}", predict


def with_value(name: str, value: float) -> str:
    return name if "=" in name else f"{name} = {value:.6g}"


def exchanged_sides(seen: Samples, constants: Constants) -> Iterator[Guess]:
    """Two formulas of which each stands on the side of the other."""
    sides = [screened(seen.at(side), constants) for side in (seen.z < 0, seen.z > 0)]
    if None in sides:
        return
    below, above = (case for case in sides if case is not None)
    found = [case.scaled(case.g) for case in (below, above)]
    if found[0] is None or found[1] is None:
        return
    (one, left), (two, right) = found  # type: ignore[misc]
    if below.same(right(below.seen), below.f) and above.same(left(above.seen), above.f):
        yield (
            f"the sides are exchanged: {one} for z < 0 and {two} for z > 0",
            lambda s: np.where(s.z == 0, s.given, s.dy * np.where(s.z < 0, left(s), right(s))),
        )
