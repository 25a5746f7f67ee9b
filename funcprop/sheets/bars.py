"""Bars on a logarithmic scale as inline SVG: how far something is off."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

LOW, HIGH = -18, 1  # powers of ten, from the left edge to the right one
LEFT, WIDTH, ROW = 260, 760, 20
RIGHT_COLOR, WRONG_COLOR = "#2f81c7", "#dc2626"


def svg(title: str, bars: Sequence[tuple[str, float, bool]]) -> str:
    """One `<svg>` with a bar a row.

    title  what is drawn, for those who do not see it
    bars   (name, how far it is off, whether that is right); a number that is not finite fills it
    """
    height = ROW * len(bars) + 34
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(title)}" '
        'style="max-width: 100%; height: auto; font: 12px system-ui, sans-serif">',
        "<desc>" + escape("; ".join(f"{name}: {size:.1e}" for name, size, _ in bars)) + "</desc>",
    ]
    for power in range(LOW + 2, HIGH, 4):
        at = _place(10.0**power)
        parts.append(
            f'<path d="M{at:.1f} 0V{height - 24}" stroke="currentColor" opacity="0.2"></path>'
        )
        parts.append(_text(at, height - 8, f"1e{power}", "middle"))
    for row, (name, size, right) in enumerate(bars):
        top = ROW * row
        color = RIGHT_COLOR if right else WRONG_COLOR
        length = max(2.0, _place(size) - LEFT)
        parts.append(_text(LEFT - 8, top + 14, name if len(name) < 40 else f"…{name[-38:]}", "end"))
        parts.append(
            f'<rect x="{LEFT}" y="{top + 4}" width="{length:.1f}" height="{ROW - 8}" '
            f'fill="{color}"></rect>'
        )
    return "".join([*parts, "</svg>"])


def _place(size: float) -> float:
    """Where a number is on the scale."""
    power = math.log10(size) if math.isfinite(size) and size > 0 else (LOW if size == 0 else HIGH)
    share = (min(max(power, LOW), HIGH) - LOW) / (HIGH - LOW)
    return LEFT + share * (WIDTH - LEFT - 20)


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor">'
        f"{escape(words)}</text>"
    )
