"""Counts and bytes with three digits, as a reader takes them in."""

from __future__ import annotations

import math


def size(count: float) -> str:
    """Bytes with three digits: "62.7 kB"."""
    return f"{counted(count)}B" if count >= 1000 else f"{count:.0f} B"


def counted(number: float) -> str:
    """A count with three digits: "1.05 M"; nothing where it is not known."""
    if math.isnan(number):
        return "-"
    for power, letter in ((12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {letter}"
    return f"{number:.0f}"
