"""What a comparison found, as a value that prints itself."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from funcprop.comparison.verdict import Leaf
from funcprop.extras import require

HEADINGS = (
    "where", "shape", "dtype", "max error", "relative",
    "worst at", "by hand", "automatic", "verdict", "rule",
)  # fmt: skip


class GradientError(AssertionError):
    """A hand-written gradient is wrong. The text is the report's."""


@dataclass(frozen=True)
class Comparison:
    """Gradients by hand and by automatic differentiation, compared.

    target  what was compared, in words
    rows    a row per leaf and dtype, the layers inside a composite first
    notes   what could not be looked at, and why
    """

    target: str
    rows: tuple[Leaf, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every row is right."""
        return all(row.ok for row in self.rows)

    @property
    def wrong(self) -> tuple[Leaf, ...]:
        """The rows that are wrong; the first ones name the deepest wrong layers."""
        return tuple(row for row in self.rows if not row.ok)

    def raise_if_wrong(self) -> None:
        """Raise GradientError, with the wrong rows in its text, unless all is right."""
        if not self.ok:
            raise GradientError("\n".join((self.headline(), "", *plain_table(self.wrong))))

    def headline(self) -> str:
        """One line: what is wrong, or that nothing is."""
        if self.ok:
            worst = max((row.relative for row in self.rows if row.dtype == "float64"), default=0.0)
            return (
                f"{self.target}: {len(self.rows)} gradients agree with automatic differentiation"
                f" (float64: {worst:.0e})"
            )
        names = list(dict.fromkeys(row.name for row in self.wrong if row.place == self._culprit()))
        return f"{self.target}: wrong gradient in {', '.join(names)}"

    def _culprit(self) -> str:
        """The place of the first wrong row: layers inside a composite come before it."""
        return self.wrong[0].place

    def __str__(self) -> str:
        return "\n".join((self.headline(), "", *plain_table(self.rows), *self.notes))

    def __rich__(self) -> Any:
        """A rich table."""
        table = require("rich.table", "train").Table(
            title=self.headline(), caption="\n".join(self.notes) or None
        )
        for heading in HEADINGS:
            table.add_column(heading, overflow="fold")
        for row in self.rows:
            table.add_row(*cells(row), style=None if row.ok else "bold red")
        return table

    def as_dict(self) -> dict[str, Any]:
        """Plain values only: target, ok, rows, notes. Numbers that are not finite are words."""
        rows = [{"name": row.name} | dataclasses.asdict(row) for row in self.rows]
        rows = [{name: _plain(value) for name, value in row.items()} for row in rows]
        return {"target": self.target, "ok": self.ok, "rows": rows, "notes": list(self.notes)}

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)


def cells(row: Leaf) -> tuple[str, ...]:
    """A row in words, one a heading."""
    return (
        row.name,
        f"[{', '.join(map(str, row.shape))}]",
        row.dtype,
        f"{row.error:.1e}",
        f"{row.relative:.1e}",
        str(list(row.index)),
        f"{row.by_hand:.6g}",
        f"{row.expected:.6g}",
        "ok" if row.ok else "WRONG",
        row.rule,
    )


def plain_table(rows: Sequence[Leaf]) -> list[str]:
    """Lines of aligned text, headings first."""
    return aligned([HEADINGS, *map(cells, rows)])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells padded to columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return list(value) if isinstance(value, tuple) else value
