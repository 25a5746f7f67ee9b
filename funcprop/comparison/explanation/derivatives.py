"""Another slope in the place of f′: `1 − a in the place of 1 − a²`, a term that is forgotten."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from funcprop.comparison.explanation.cases import QUOTIENTS, Case, Guess
from funcprop.comparison.explanation.formulas import formula
from funcprop.comparison.explanation.samples import Samples


def of_slopes(case: Case, explain: Callable[[Case], Iterator[Guess]]) -> Iterator[Guess]:
    """dx = dy · g, where g is no f′."""
    for words, slope in explain(case):
        yield words, lambda s, slope=slope: slope(s) * s.dy


def in_its_place(case: Case) -> Iterator[Guess]:
    """g in words, or f′ = h(z) + z · h′(z) with a slip in it."""
    product = inner_of(case)
    if case.same(case.g, case.f**2):
        yield "the derivative is applied twice", lambda s: s.slope**2
    if case.same(case.g, case.seen.a) and case.right != "a":
        words = "the activation itself in the place of its derivative"
        yield f"{words} {case.right}".rstrip(), lambda s: s.a
    if product is not None and product.name != "h":
        yield from of_product(case, product)
    found = case.called(case.g)
    if found and case.right:
        yield told_apart(case, found[0]), found[1]
    elif found and not (product is not None and found[0] in QUOTIENTS):
        with np.errstate(all="ignore"):
            factor, term = case.called(case.f / case.g), case.called(case.f - case.g)
        for kind, part in (("factor", factor), ("term", term)):
            if part:
                yield f"the {kind} {part[0]} is missing: {found[0]} alone", found[1]
        yield f"{found[0]} in the place of the derivative", found[1]
    if product is not None and product.name == "h":
        yield from of_product(case, product)


def told_apart(case: Case, words: str) -> str:
    """`1 − z² in the place of 1 − a²`; by names that differ by a square, where there are such."""
    for given, right in itertools.product(case.names(case.g), case.names(case.f)):
        squares = [i for i, letter in enumerate(right) if letter == "²"]
        without = [right[:i] + right[i + 1 :] for i in squares]
        if given in without or f"({given})" in without:
            return f"{given} in the place of {right}: the square is forgotten"
    return f"{words} in the place of {case.right}"


def of_the_right_one(case: Case) -> Iterator[Guess]:
    """f′ with a factor or term too many, or one missing."""
    g, f = case.g, case.f
    with np.errstate(all="ignore"):
        for words, term in case.terms:
            if words != "1" and case.same(g, f * term):
                yield (
                    f"one factor {words} too many",
                    lambda s, t=case.anywhere(words): s.slope * t(s),
                )
            if words != "1" and case.same(g * term, f) and np.all(term):
                told = f"the factor {words} of the derivative is missing"
                yield told, lambda s, t=case.anywhere(words): s.slope / t(s)
        for factor, told in ((1, "is missing"), (-1, "is added, and should not be")):
            if found := case.called(factor * (f - g)):
                term = found[1]
                words = f"the term {found[0]} {told}"
                yield words, lambda s, t=term, c=factor: s.slope - c * t(s)
        if case.same(g * f, np.ones_like(f)):
            yield "the reciprocal of the derivative", lambda s: 1 / s.slope
        if case.same(g * g, f) and (g >= 0).all():
            yield "the square root of the derivative", lambda s: np.sqrt(s.slope)


def any_multiple(case: Case) -> Iterator[Guess]:
    """A formula times some number."""
    if found := case.scaled(case.g):
        yield f"{found[0]} in the place of {case.right or 'the derivative'}", found[1]


@dataclass(frozen=True)
class Product:
    """a = z · h(z), so that f′ = h(z) + z · h′(z)."""

    name: str  # of h
    h: np.ndarray


def inner_of(case: Case) -> Product | None:
    """h, where a is z times something that is no plainer said otherwise."""
    z, a, f = case.seen.z, case.seen.a, case.f
    h = inner(case.seen)
    if not np.isfinite(h).all() or case.same(h, f):
        return None
    for name in ("σ(z)", "Φ(z)", "tanh z"):
        if case.same(h, formula(name, z, a, ())):
            return Product(name.partition("(")[0].partition(" ")[0], h)
    return None if case.right else Product("h", h)


def inner(seen: Samples) -> np.ndarray:
    """a / z; where both are 0, its limit f′(0)."""
    with np.errstate(all="ignore"):
        return np.where((seen.z == 0) & (seen.a == 0), seen.slope, seen.a / seen.z)


def of_product(case: Case, product: Product) -> Iterator[Guess]:
    """A slip in h(z) + z · h′(z)."""
    name, h, g, z = product.name, product.h, case.g, case.seen.z
    rest = case.f - h
    one, two = f"{name}(z)", f"z · {name}′(z)"
    of = "" if name != "h" else ", where a = z · h(z)"
    if case.same(g, h):
        yield f"the term {two} is missing{of}", inner
    if case.same(g, rest):
        yield f"the term {one} is missing{of}", lambda s: s.slope - inner(s)
    if case.same(g, h - rest):
        yield f"the term {two} has the wrong sign{of}", lambda s: 2 * inner(s) - s.slope
    if case.same(g, rest - h):
        yield f"the term {one} has the wrong sign{of}", lambda s: s.slope - 2 * inner(s)
    with np.errstate(all="ignore"):
        if case.same((g - h) * z, rest):
            told = f"the factor z is missing in the term {two}{of}"
            yield told, lambda s: np.where(s.z == 0, np.nan, inner(s) + (s.slope - inner(s)) / s.z)
    if case.same(g, h * rest):
        yield (
            f"{one} times {two} in the place of their sum{of}",
            lambda s: inner(s) * (s.slope - inner(s)),
        )
    if found := case.called(g - h):
        words, term = found
        yield f"{words} in the place of the term {two}{of}", lambda s, t=term: inner(s) + t(s)
    if found := case.called(g - rest):
        words, term = found
        told = f"{words} in the place of the term {one}{of}"
        yield told, lambda s, t=term: s.slope - inner(s) + t(s)
