"""What a watch keeps of the calls of a rule: enough to make them again, and no more."""

from __future__ import annotations

import inspect
import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.core import Tracer

from funcprop.testing.leaves import NUMBERS, Unusable, holds_tracer, is_known, kept, type_of
from funcprop.testing.places import Place, token

SIGNATURES = 3  # examples of a rule: of shapes, dtypes, trees and options


VARIANTS = 8  # closures of one function that are told apart, such as a factory makes


Slot = int | str  # the position of an argument, or its keyword


@dataclass(frozen=True)
class Example:
    """A call of a rule.

    rule    the `jax.custom_vjp` or `jax.custom_jvp` function
    static  the arguments that nondiff_argnums names, as they were
    leaves  of the others: values on the host, numbers of Python, keys, or `Unseen`
    tree    of the others, None in the places of those that are static: (args, kwargs)
    paths   of the leaves: the position or keyword of the argument, and the place in it
    x64     whether jax_enable_x64 was set
    """

    rule: Any
    static: dict[Slot, Any]
    leaves: tuple[Any, ...]
    tree: Any
    paths: tuple[tuple[Slot, str], ...]
    x64: bool

    @property
    def unseen(self) -> int:
        """How many arrays have no values, or such as are not finite."""
        return sum(not is_known(leaf) for leaf in self.leaves)

    @property
    def size(self) -> int:
        """Elements of all arrays."""
        return sum(math.prod(getattr(leaf, "shape", ())) for leaf in self.leaves)


@dataclass
class Seen:
    """A rule, and what was seen of it.

    variants  by what its function closes over, then by signature: an example of each
    reasons   why calls could not be kept
    """

    place: Place
    calls: int = 0
    variants: dict[Hashable, dict[Hashable, Example]] = field(default_factory=dict)
    reasons: dict[str, None] = field(default_factory=dict)

    def called(self, rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keeps the call where it says more than those before it. Never raises."""
        self.calls += 1
        try:
            self._keep(rule, args, kwargs)
        except Exception as error:
            words = (
                str(error) if isinstance(error, Unusable) else f"{type(error).__name__}: {error}"
            )
            self.reasons[words.partition("\n")[0]] = None

    def _keep(self, rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        static, dynamic = split(rule, args, kwargs)
        leaves, tree = jax.tree.flatten(dynamic)
        x64 = bool(jax.config.jax_enable_x64)  # type: ignore[attr-defined]
        options = tuple((slot, token(value)) for slot, value in static.items())
        signature = (tree, tuple(map(_kind, leaves)), options, x64)
        variant = token(rule.fun)
        examples = self.variants.get(variant, {})
        if not examples and len(self.variants) == VARIANTS:
            return
        full = signature not in examples and len(examples) == SIGNATURES
        old = signature if signature in examples else None
        if full:  # the one of which least was seen may go
            old = max(examples, key=lambda each: examples[each].unseen)
        if old is not None and not examples[old].unseen:
            return
        new = Example(rule, static, tuple(map(kept, leaves)), tree, paths(dynamic), x64)
        if old is not None and new.unseen >= examples[old].unseen:
            return
        if holds_tracer(rule, tree, *static.values()):
            raise Unusable("it closes over values of a trace that is over")
        if old is not None:
            del examples[old]
        examples[signature] = new
        self.variants[variant] = examples

    def examples(self) -> Iterator[Example]:
        """One of each variant, then further ones; those whose values were seen and small ones
        first."""
        ranked = [
            sorted(each.values(), key=lambda example: (example.unseen > 0, example.size))
            for each in self.variants.values()
        ]
        for i in range(SIGNATURES):
            yield from (each[i] for each in ranked if i < len(each))


def split(
    rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[dict[Slot, Any], tuple[list[Any], dict[str, Any]]]:
    """-> the arguments that are no arrays by nondiff_argnums, and all, without these."""
    nondiff = set(rule.nondiff_argnums)
    names = parameters(rule.fun) if nondiff else ()
    static: dict[Slot, Any] = {}
    given, named = list(args), dict(kwargs)
    for i in nondiff & set(range(len(given))):
        if not _is_traced(given[i]):  # jax.custom_jvp allows that
            static[i], given[i] = given[i], None
    for name in [name for name in named if name in names and names.index(name) in nondiff]:
        if not _is_traced(named[name]):
            static[name], named[name] = named[name], None
    return static, (given, named)


def paths(dynamic: tuple[list[Any], dict[str, Any]]) -> tuple[tuple[Slot, str], ...]:
    """Of every leaf: its argument, and where it is in it, `w` or `0.w`."""
    found = []
    for (which, first, *rest), _ in jax.tree.leaves_with_path(dynamic):
        slot = first.key if which.idx else first.idx
        found.append((slot, jax.tree_util.keystr(tuple(rest), simple=True, separator=".")))
    return tuple(found)


def parameters(function: Any) -> tuple[str, ...]:
    """The names of a function's parameters, none where it does not say."""
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


def _is_traced(value: Any) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value))


def _kind(leaf: Any) -> Hashable:
    """What makes two arguments alike."""
    if isinstance(leaf, NUMBERS):
        return type(leaf).__name__
    shape, dtype = type_of(leaf)
    return shape, str(dtype)
