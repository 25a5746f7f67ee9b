"""Samples of a wrong rule that acts element by element, and the formulas that fit them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from funcprop.comparison.explanation.formulas import (
    MULTIPLES,
    Constants,
    formula,
    formulas,
    multiplied,
)
from funcprop.comparison.explanation.samples import SAME, Samples

SCREENED = 1000  # samples that every formula is tried at; what is left is tried at all


FEWEST = 4  # different z: what fits fewer proves nothing


QUOTIENTS = ("a/z", "z/a")


Slopes = Callable[[Samples], np.ndarray]
Guess = tuple[str, Slopes]  # words, and what they predict: dx, or a slope


@dataclass(frozen=True)
class Case:
    """Some samples, and what is known of the function there.

    g  dx / dy by hand, in the place of f′
    """

    seen: Samples
    constants: Constants

    @cached_property
    def g(self) -> np.ndarray:
        return self.seen.given / self.seen.dy

    @cached_property
    def f(self) -> np.ndarray:
        return self.seen.slope

    @cached_property
    def terms(self) -> list[tuple[str, np.ndarray]]:
        return list(formulas(self.seen.z, self.seen.a, self.constants))

    @cached_property
    def right(self) -> str:
        """f′ in words; "" where it has none, or none but a / z, as a piecewise linear f has."""
        return next(iter(self.names(self.f)), "")

    def names(self, value: np.ndarray) -> list[str]:
        """All formulas that are this, the plainest first; quotients of z and a tell nothing."""
        found = self.called(value)
        if found is None or found[0] in QUOTIENTS:
            return []
        others = [words for words, term in self.terms if self.same(value, term)]
        return [found[0], *(words for words in others if words not in (found[0], *QUOTIENTS))]

    def same(self, one: np.ndarray, two: np.ndarray) -> bool:
        """Whether these are one thing, at every sample."""
        allowed = SAME * np.maximum(np.abs(one), np.abs(two)) + 1e-3 * SAME * (1 + np.abs(self.f))
        return bool((np.abs(one - two) <= allowed).all())

    def called(self, value: np.ndarray) -> Guess | None:
        """The formula that is this, in words, and its value at other samples."""
        if not np.isfinite(value).all():
            return None
        for words, term in self.terms:
            if self.same(value, term):
                return words, self.anywhere(words)
        for words, term in self.terms:
            below = float(term @ term)
            c = float(value @ term) / below if below else 0.0
            for times, told in MULTIPLES:
                if abs(c - times) <= SAME * abs(times) and self.same(value, times * term):
                    return multiplied(told, words), self.anywhere(words, times)
        return None

    def scaled(self, value: np.ndarray) -> Guess | None:
        """Any multiple of a formula that is this."""
        for words, term in self.terms:
            below = float(term @ term)
            c = float(value @ term) / below if below else 0.0
            if c and self.same(value, c * term) and words not in QUOTIENTS:
                told = multiplied(f"{c:.6g}", words) if words != "1" else f"{c:.6g}"
                return told, self.anywhere(words, c)
        return None

    def anywhere(self, words: str, times: float = 1.0) -> Slopes:
        return lambda s: times * formula(words, s.z, s.a, self.constants)


def screened(seen: Samples, constants: Constants) -> Case | None:
    """Some of the samples that are to be explained; None where they are too few."""
    seen = seen.at(np.abs(seen.dy) > 1e-6 * np.abs(seen.dy).max(initial=0))
    if len(np.unique(seen.z)) < FEWEST:
        return None
    draw = np.random.default_rng(0)
    count = seen.z.size
    which = np.arange(count) if count <= SCREENED else draw.choice(count, SCREENED, replace=False)
    return Case(seen.at(which), constants)
