"""A wrong derivative of an activation beside the right one, at nine points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funcprop.comparison.explanation.samples import SAME, Elementwise
from funcprop.sheets import aligned
from funcprop.sheets.curves import svg

POINTS = 9


DIGITS = 3  # of z, so that it can be written down


@dataclass(frozen=True)
class Curve:
    """An elementwise rule by hand and by automatic differentiation, in float64.

    place, path  where: "Serial[2] Tanh", "dx"
    dy           what dx was made with: 1, or 2 where the rule is not linear in dy
    z, a         input and output, at points of the range of x, ascending
    by_hand      dx / dy as the hand-written backward has it
    automatic    f′(z)
    """

    place: str
    path: str
    dy: float
    z: tuple[float, ...]
    a: tuple[float, ...]
    by_hand: tuple[float, ...]
    automatic: tuple[float, ...]

    @property
    def name(self) -> str:
        """`Serial[2] Tanh: dx / dy at dy = 1`."""
        where = f"{self.place}: {self.path}" if self.place else self.path
        return f"{where} / dy at dy = {self.dy:g}"

    @property
    def table(self) -> list[str]:
        """Lines of aligned text, headings first."""
        columns = self.z, self.a, self.by_hand, self.automatic
        rows = [[f"{value:.6g}" for value in row] for row in zip(*columns, strict=True)]
        return [f"{self.name}:", *aligned([["z", "a", "by hand", "automatic"], *rows])]

    def as_svg(self) -> str:
        """Both curves over z, drawn."""
        lines = {"by hand": self.by_hand, "automatic": self.automatic}
        return svg(f"{self.name}, by hand and automatic", self.z, lines, "z", "dx / dy")


def curve_of(rule: Elementwise, place: str) -> Curve | None:
    """The curve of a wrong rule; None where its elements are not alike, or it shows no error."""
    known = np.isfinite(rule.x.ravel())
    if not rule.uniform or not known.any():
        return None
    z = points(rule)
    dy = 1.0 if rule.linear else 2.0
    seen = rule.at_points(z, dy)
    seen = seen.at(seen.known)
    off = np.abs(seen.given / dy - seen.slope)
    if not (~(off <= SAME * np.maximum(1e-3, np.abs(seen.slope)))).any():
        return None
    columns = seen.z, seen.a, seen.given / dy, seen.slope
    return Curve(place, rule.leaf, dy, *(tuple(map(float, column)) for column in columns))


def points(rule: Elementwise) -> np.ndarray:
    """Nine points of the range of x, with few digits: its ends, quantiles, the ones around 0, and
    the one with the largest error."""
    x = np.sort(rule.x[np.isfinite(rule.x)].ravel())
    off = np.abs(rule.given.given - rule.given.slope * rule.given.dy)
    worst = rule.given.z[np.argmax(np.where(np.isfinite(off), off, -1))]
    around = [x[x < 0][-1:], x[x > 0][:1]]
    wanted = [x[0], x[-1], worst, *np.concatenate(around)]
    wanted += list(np.quantile(x, (0.5, 0.25, 0.75, 0.125, 0.875, 0.375, 0.625), method="nearest"))
    wanted += list(np.linspace(x[0], x[-1], 4 * POINTS))
    found: list[float] = []
    for value in (float(f"{value:.{DIGITS}g}") for value in wanted):
        if value not in found and len(found) < POINTS:
            found.append(value)
    return np.sort(np.array(found))
