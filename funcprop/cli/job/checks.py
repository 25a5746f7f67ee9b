"""What a recipe may say: names that there are, and numbers in their bounds."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any


class RecipeError(ValueError):
    """A recipe cannot be followed: the message names the option, its value and what is wanted."""


def choose(option: str, name: str, names: Iterable[str]) -> None:
    """`name` is one of `names`; the error suggests the nearest."""
    names = list(names)
    if name not in names:
        raise RecipeError(
            f"--{option}: unknown {name!r}: {nearest(name, names)}the names are {', '.join(names)}"
        )


def nearest(name: str, names: Iterable[str]) -> str:
    """`did you mean 'sigmoid'? `, or nothing where no name is near."""
    near = difflib.get_close_matches(str(name).lower().replace("_", "-"), list(names), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def whole(option: str, value: Any, low: int, high: int) -> None:
    """A whole number from low to high."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RecipeError(f"--{option} is {value!r}, wanted a whole number from {low} to {high}")


def number(
    option: str,
    value: Any,
    low: float,
    high: float,
    open_below: bool = False,
    open_above: bool = False,
) -> None:
    """None, or a finite number from low (or above it) to high (or below it)."""
    if value is None:
        return
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    outside = not fits or not low <= value <= high
    if outside or (open_below and value == low) or (open_above and value == high):
        bound = f"above {low:g} and at most {high:g}" if open_below else f"from {low:g} to {high:g}"
        bound = f"from {low:g} to below {high:g}" if open_above else bound
        raise RecipeError(f"--{option} is {value!r}, wanted a number {bound}")
