"""Slips in the derivative of Mish, a = z t with t = tanh(softplus(z)): t + z (1 − t²) σ(z)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from funcprop.comparison.explanation.cases import Case, Guess
from funcprop.comparison.explanation.formulas import sigma
from funcprop.comparison.explanation.samples import Samples

FIRST = ("t", "tanh z", "σ(z)")
MIDDLE = (" (1 − t²)", " (1 − t)", " (1 − a²)", " (1 − tanh² z)", "")
LAST = (" σ(z)", " σ′(z)", " (1 − σ(z))", "")


def of_mish(case: Case) -> Iterator[Guess]:
    """g = first + z · middle · last, with another of them; in words."""
    if not case.same(case.f, slope(case.seen, FIRST[0], MIDDLE[0], LAST[0])):
        return
    for parts in itertools.product(FIRST, MIDDLE, LAST):
        words = "{} + z{}{}".format(*parts)
        told = f"{words} in the place of t + z (1 − t²) σ(z), t = tanh(softplus(z))"
        yield told, lambda s, parts=parts: slope(s, *parts)


def slope(seen: Samples, first: str, middle: str, last: str) -> np.ndarray:
    """The value of one choice."""
    z, a, s = seen.z, seen.a, sigma(seen.z)
    t = np.tanh(np.logaddexp(0, z))
    values = {
        "t": t, "tanh z": np.tanh(z), "σ(z)": s,
        " (1 − t²)": 1 - t * t, " (1 − t)": 1 - t, " (1 − a²)": 1 - a * a,
        " (1 − tanh² z)": 1 - np.tanh(z) ** 2, "": 1.0,
        " σ(z)": s, " σ′(z)": s * (1 - s), " (1 − σ(z))": 1 - s,
    }  # fmt: skip
    return values[first] + z * values[middle] * values[last]
