"""A backward that is not linear in dy: dy squared, a term that is not multiplied by it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from funcprop.comparison.explanation.cases import Case, Guess, Slopes
from funcprop.comparison.explanation.derivatives import inner, inner_of

NOT_LINEAR = "backward is not linear in dy"


def not_linear(case: Case) -> Iterator[Guess]:
    """dx is not dy times something."""
    s = case.seen
    of_dy: tuple[tuple[str, Slopes], ...] = (
        ("dy squared", lambda s: s.dy**2),
        ("|dy| in the place of dy", lambda s: np.abs(s.dy)),
        ("the sign of dy in its place", lambda s: np.sign(s.dy)),
        ("dy · |dy| in the place of dy", lambda s: s.dy * np.abs(s.dy)),
        ("dy cubed", lambda s: s.dy**3),
        ("dy only where it is positive", lambda s: np.maximum(s.dy, 0)),
        ("dy is left out: the derivative alone", lambda s: np.ones_like(s.dy)),
        ("√|dy| in the place of dy", lambda s: np.sqrt(np.abs(s.dy))),
        ("tanh(dy) in the place of dy", lambda s: np.tanh(s.dy)),
        ("dy clipped to [−1, 1]", lambda s: np.clip(s.dy, -1, 1)),
    )
    for words, of in of_dy:
        yield f"{words}: {NOT_LINEAR}", lambda s, of=of: s.slope * of(s)
    yield f"dy plus the derivative, not times it: {NOT_LINEAR}", lambda s: s.slope + s.dy
    if found := case.called(s.given):
        yield f"{found[0]} alone, without dy: {NOT_LINEAR}", found[1]
    for words, of in of_dy[:2]:
        if found := called_where(case, s.given, of(s)):
            end = f", and {found[0]} in the place of {case.right or 'the derivative'}"
            yield f"{words}{end}: {NOT_LINEAR}", lambda s, of=of, t=found[1]: t(s) * of(s)
    yield from term_without_dy(case)
    yield f"{NOT_LINEAR}: twice dy gives another dx than twice dx", lambda s: s.given


def called_where(case: Case, value: np.ndarray, factor: np.ndarray) -> Guess | None:
    """value / factor in words."""
    return case.called(value / np.where(factor == 0, np.nan, factor))


def term_without_dy(case: Case) -> Iterator[Guess]:
    """dx = dy (f′ − t) + t: right at dy = 1."""
    s = case.seen
    apart = np.abs(s.dy - 1) > 1e-3
    part = Case(s.at(apart), case.constants)
    t = (part.seen.given - part.f * part.seen.dy) / (1 - part.seen.dy)
    words, term = "", None
    product = inner_of(part)
    if product is not None:
        rest = part.f - product.h
        if part.same(t, rest):
            words, term = f"z · {product.name}′(z)", lambda s: s.slope - inner(s)
        elif part.same(t, product.h):
            words, term = f"{product.name}(z)", inner
    if term is None and (found := part.called(t)):
        words, term = found
    if term is not None:
        known = term
        told = f"the term {words} is not multiplied by dy: {NOT_LINEAR}"
        yield told, lambda s: s.dy * (s.slope - known(s)) + known(s)
