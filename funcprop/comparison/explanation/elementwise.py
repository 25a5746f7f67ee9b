"""What is wrong with the derivative of an activation, in words: `1 − z² in the place of 1 − a²`.

z is the input, a = f(z) the output, and dx = dy · f′(z) was wanted. A formula is said where it
makes the numbers that were given, at every element, under every cotangent, and at inputs in
between; the plainest of those that do.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from funcprop.comparison.explanation.cases import Guess, screened
from funcprop.comparison.explanation.derivatives import (
    any_multiple,
    in_its_place,
    of_slopes,
    of_the_right_one,
)
from funcprop.comparison.explanation.factors import settings
from funcprop.comparison.explanation.formulas import Constants
from funcprop.comparison.explanation.kinks import exchanged_sides, flat, of_side, on_one_side
from funcprop.comparison.explanation.linearity import not_linear
from funcprop.comparison.explanation.mish import of_mish
from funcprop.comparison.explanation.samples import Elementwise, Samples, joined
from funcprop.layer import Layer


def formula_of(rule: Elementwise, layer: Layer) -> tuple[str, np.ndarray] | None:
    """Words, and the leaf they predict, [probes, ...], zero where the truth is not known.

    None where no formula fits, or too little was seen.
    """
    constants = tuple((abs(value), name) for value, name in settings(layer) if name.isidentifier())
    seen = joined([rule.given, rule.more])
    seen = seen.at(seen.known)
    if not np.isfinite(seen.given).all() or seen.right.all():
        return None
    for words, predict in guesses(rule, seen, constants):
        with np.errstate(all="ignore"):
            if seen.fit(predict(seen)):
                known = rule.given.known
                predicted = np.zeros_like(rule.given.z)
                predicted[known] = predict(rule.given.at(known))
                return words + letters(words), predicted.reshape(-1, *rule.x.shape)
    return None


def guesses(rule: Elementwise, seen: Samples, constants: Constants) -> Iterator[Guess]:
    """All that a screening leaves."""
    if not rule.linear:
        if (case := screened(seen, constants)) is not None:
            yield from not_linear(case)
        return
    yield from on_one_side(seen, constants, flat)
    case = screened(seen, constants)
    if case is not None:
        yield from of_slopes(case, in_its_place)
    yield from on_one_side(seen, constants, of_side)
    yield from exchanged_sides(seen, constants)
    if case is not None:
        for explain in (of_mish, of_the_right_one, any_multiple):
            yield from of_slopes(case, explain)


def letters(words: str) -> str:
    """What z and a are, where the words speak of them."""
    spoken = [re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", words) for letter in "za"]
    told = {(True, False): "z is the input", (False, True): "a is the output",
            (True, True): "z is the input, a the output"}  # fmt: skip
    said = told.get((spoken[0] is not None, spoken[1] is not None))
    return f"; {said}" if said else ""
