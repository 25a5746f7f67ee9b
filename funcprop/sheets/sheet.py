"""A table with a title and notes: data, shown as text, in a terminal, as HTML or as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from funcprop.extras import require

WIDE = 140  # columns of a terminal that hold all of a sheet that has essential ones


@dataclass(frozen=True)
class Line:
    """Cells in words, one a heading; what is not `ok` is marked."""

    cells: tuple[str, ...]
    ok: bool = True


@dataclass(frozen=True)
class Sheet:
    """A table.

    title      one line: what it comes to
    headings   of the columns
    lines      the rows
    notes      what stands below
    essential  headings that are shown where a terminal is narrow; all of them where it is empty
    meanings   what headings mean, for a legend
    """

    title: str
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    essential: tuple[str, ...] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)

    @property
    def table(self) -> list[str]:
        """Lines of aligned text, headings first; no title and no notes."""
        return aligned([self.headings, *(line.cells for line in self.lines)])

    def __str__(self) -> str:
        return "\n".join([self.title, "", *self.table, *self.notes])

    def as_rich(self, width: int) -> Any:
        """A rich table for a terminal of so many columns."""
        every = width >= WIDE or not self.essential
        shown = [i for i, word in enumerate(self.headings) if every or word in self.essential]
        caption = "\n".join(self.notes) or None
        table = require("rich.table", "train").Table(title=self.title, caption=caption)
        for i in shown:
            table.add_column(self.headings[i], overflow="fold")
        for line in self.lines:
            style = None if line.ok else "bold red"
            table.add_row(*(line.cells[i] for i in shown), style=style)
        return table

    def as_markdown(self) -> str:
        """A Markdown table alone."""
        rows = [self.headings, *(line.cells for line in self.lines)]
        texts = [" | ".join(cell.replace("|", "\\|") for cell in cells) for cells in rows]
        rule = "---|" * len(self.headings)
        return "\n".join([f"| {texts[0]} |", f"|{rule}", *(f"| {text} |" for text in texts[1:])])


def aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Cells padded to columns."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
