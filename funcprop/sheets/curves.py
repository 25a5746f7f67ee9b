"""Curves as inline SVG: without scripts, in the colors of the page, light or dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 560, 300


LEFT, RIGHT, TOP, BOTTOM = 64, 16, 34, 44  # of the frame: numbers and names stand outside


# (color, dashes): told apart without colors too, and seen on white and on black
STYLES = (("#dc2626", ""), ("#2f81c7", "7 4"), ("#8b5cf6", "2 3"))


def svg(
    title: str, x: Sequence[float], lines: Mapping[str, Sequence[float]], over: str, of: str
) -> str:
    """Lines through points with the same x, as one `<svg>` element.

    title  what is drawn, for those who do not see it
    x      [n], ascending
    lines  up to three, y [n] by name; what is not finite is left out
    over   what x is
    of     what y is

    Raises ValueError where there is no point, and for more lines than can be told apart.
    """
    if not len(x) or not lines or len(lines) > len(STYLES):
        raise ValueError(
            f"{len(x)} points and {len(lines)} lines were given, wanted at least one point and "
            f"1 to {len(STYLES)} lines: draw the others in a picture of their own"
        )
    across = ticks(x)
    up = ticks([value for line in lines.values() for value in line])
    horizontal = _Axis(across, LEFT, WIDTH - RIGHT)
    vertical = _Axis(up, HEIGHT - BOTTOM, TOP)
    text = "; ".join(
        f"{name}: " + ", ".join(f"{y:.4g} at {at:.4g}" for at, y in zip(x, line, strict=True))
        for name, line in lines.items()
    )
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{escape(title)}" '
        f'style="max-width: 100%; height: auto; font: 12px system-ui, sans-serif">',
        f"<desc>{escape(text)}</desc>",
    ]
    for value in across:
        at = horizontal(value)
        parts.append(_line(at, TOP, at, HEIGHT - BOTTOM, 0.9 if value == 0 else 0.2))
        parts.append(_text(at, HEIGHT - BOTTOM + 16, number(value), "middle"))
    for value in up:
        at = vertical(value)
        parts.append(_line(LEFT, at, WIDTH - RIGHT, at, 0.9 if value == 0 else 0.2))
        parts.append(_text(LEFT - 6, at + 4, number(value), "end"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 8, over, "end"))
    parts.append(_text(8, 16, of, "start"))
    for place, ((name, line), (color, dashes)) in enumerate(
        zip(lines.items(), STYLES, strict=False)
    ):
        known = [(at, y) for at, y in zip(x, line, strict=True) if math.isfinite(y)]
        points = [(f"{horizontal(at):.1f}", f"{vertical(y):.1f}") for at, y in known]
        stroke = f'stroke="{color}" stroke-width="2" stroke-dasharray="{dashes or "none"}"'
        path = " ".join(map(",".join, points))
        parts.append(f'<polyline points="{path}" fill="none" {stroke}></polyline>')
        parts += [f'<circle cx="{a}" cy="{b}" r="3" fill="{color}"></circle>' for a, b in points]
        end = WIDTH - RIGHT - 120 * (len(lines) - 1 - place)
        parts.append(f'<path d="M{end - 110} 12h24" fill="none" {stroke}></path>')
        parts.append(_text(end - 80, 16, name, "start"))
    return "".join([*parts, "</svg>"])


def ticks(values: Sequence[float]) -> list[float]:
    """About five round numbers, in even steps, that hold all finite values between them."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        size = abs(high) or 1.0
        low, high = low - 0.5 * size, high + 0.5 * size
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """A tick's number."""
    return f"{value:.4g}".replace("-", "−")


class _Axis:
    """Where on the page a value lies."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        self.low, self.high, self.start, self.end = values[0], values[-1], start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


def _line(x1: float, y1: float, x2: float, y2: float, strength: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-opacity="{strength}"></line>'
    )


def _text(x: float, y: float, words: str, anchor: str) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="currentColor">{escape(words)}</text>'
