"""Arguments whose gradient is not judged: by the names that a caller has for them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from funcprop.comparison.programs import named_leaves
from funcprop.comparison.subject.functions import Function, Pair
from funcprop.comparison.subject.subject import Subject
from funcprop.layer import is_float, spell


def ignored_in(subject: Subject, target: Any, ignore: Any) -> frozenset[str]:
    """The leaves, as rows call them, that `ignore` names: `x`, `dx[1]`, `w`, `dparams[0].w`, or an
    argument of a function by its name.

    Raises TypeError for what is no name, ValueError for one that there is not, and where nothing is
    left.
    """
    names = (ignore,) if isinstance(ignore, str) else ignore
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"ignore is {spell(ignore)}, wanted names: write ignore=('scale',)")
    leaves = [
        name
        for name, leaf in named_leaves({"dx": subject.x, "dparams": subject.params})
        if is_float(leaf)
    ]
    by_name = dict(arguments_by_name(subject, target))
    found: set[str] = set()
    for name in names:
        wanted = {by_name[name]} if name in by_name else {name, f"d{name}"}
        own = {leaf for leaf in leaves if any(is_part(leaf, each) for each in wanted)}
        if not own:
            known = ", ".join([*by_name, *leaves])
            raise ValueError(f"ignore has {name!r}, wanted some of: {known}")
        found |= own
    if leaves and found == set(leaves):
        raise ValueError(f"ignore={ignore!r} leaves no gradient to compare: leave one out")
    return frozenset(found)


def is_part(leaf: str, of: str) -> bool:
    """Whether a leaf is that, or in it: `dx[1].w` in `dx[1]`."""
    return leaf == of or (leaf.startswith(of) and leaf[len(of)] in ".[")


def arguments_by_name(subject: Subject, target: Any) -> Iterator[tuple[str, str]]:
    """(`scale`, `dx[1]`) for the arguments of a function."""
    if not isinstance(subject.layer, (Pair, Function)):
        return
    function = target[0] if isinstance(target, tuple) else target
    count = len(subject.x)
    last = subject.x[-1] if count else None
    if isinstance(last, dict):  # those by keyword
        yield from ((name, f"dx[{count - 1}]['{name}']") for name in last)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # a builtin does not tell
        return
    places = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    yield from ((name, f"dx[{i}]") for i, name in enumerate(places[:count]))
