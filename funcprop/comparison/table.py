"""The whole catalogue compared: one line a layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.comparison.catalogue import ROWS
from funcprop.comparison.compare import compare
from funcprop.comparison.profile import Costs
from funcprop.comparison.report import Comparison, aligned
from funcprop.comparison.row import Row
from funcprop.comparison.truth import compiled
from funcprop.extras import require
from funcprop.layer import Context, Params

HEADINGS = ("layer", "gradients", "float64", "float32", "verdict")


@dataclass(frozen=True)
class Table:
    """Rows of the catalogue with what `compare` found. `ok` where every gradient is right."""

    entries: tuple[tuple[Row, Comparison], ...]

    @property
    def ok(self) -> bool:
        return all(comparison.ok for _, comparison in self.entries)

    def __str__(self) -> str:
        lines = [HEADINGS, *(_cells(*entry) for entry in self.entries)]
        wrong = [comparison for _, comparison in self.entries if not comparison.ok]
        return "\n".join([*aligned(lines), *(f"\n{comparison}" for comparison in wrong)])

    def __rich__(self) -> Any:
        """A rich table, followed by the full report of every wrong row."""
        good = sum(comparison.ok for _, comparison in self.entries)
        title = f"{good} of {len(self.entries)} rows agree with automatic differentiation"
        table = require("rich.table", "train").Table(title=title)
        for heading in HEADINGS:
            table.add_column(heading, overflow="fold")
        for row, comparison in self.entries:
            table.add_row(*_cells(row, comparison), style=None if comparison.ok else "bold red")
        wrong = [comparison for _, comparison in self.entries if not comparison.ok]
        return require("rich.console", "train").Group(table, *wrong)

    def as_list(self, costs: Costs | None = None) -> list[dict[str, Any]]:
        """Plain values: a row's name, what `Comparison.as_dict` says, and its cost where given."""
        given = {} if costs is None else costs.as_dict()
        return [
            {"name": row.name} | comparison.as_dict() | given.get(row.name, {})
            for row, comparison in self.entries
        ]

    def to_json(self, costs: Costs | None = None) -> str:
        """The same as JSON text."""
        return json.dumps(self.as_list(costs), indent=2, ensure_ascii=False, allow_nan=False)


def compare_catalogue(
    names: Sequence[str] | None = None,
    progress: Callable[[Row, Comparison], None] | None = None,
) -> list[tuple[Row, Comparison]]:
    """Rows of the catalogue by name, all by default, each with its comparison.

    A name stands for the row of that name and for all rows that add something to it after a
    comma: "Dense" means "Dense, square" too. `progress` is called after each row.
    Raises ValueError for an unknown name, with the nearest one.
    """
    return compare_rows(ROWS if names is None else chosen(names), progress)


def compare_rows(
    rows: Sequence[Row] = ROWS, progress: Callable[[Row, Comparison], None] | None = None
) -> list[tuple[Row, Comparison]]:
    """Every row with its comparison, in order."""
    entries = []
    for row in rows:
        comparison = compare_row(row)
        entries.append((row, comparison))
        if progress is not None:
            progress(row, comparison)
    return entries


def compare_row(row: Row, key: jax.Array | None = None, probes: int = 5) -> Comparison:
    """One row of the catalogue, at arguments drawn from `key`."""
    key = jax.random.key(0) if key is None else key
    return compare(row.layer, *drawn(row, key), probes=probes, key=key, floor=row.floor)


def drawn(row: Row, key: jax.Array, dtype: Any = jnp.float32) -> tuple[Params, Any, Context]:
    """The row's arguments by one small program: op by op they would take longer to compile."""
    return compiled(lambda key: row.arguments(key, dtype), key, quick=True)


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows that the names stand for."""
    rows: dict[str, Row] = {}
    for name in names:
        found = {
            row.name: row for row in ROWS if row.name == name or row.name.startswith(name + ",")
        }
        if not found:
            near = get_close_matches(name, [row.name for row in ROWS], 1, 0.4)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"no row of the catalogue is called {name!r}{hint}")
        rows |= found
    return list(rows.values())


def markdown(rows: Sequence[Row] = ROWS) -> str:
    """The catalogue as a Markdown table, for the docs."""
    lines = ["| row | layer | promise | mutants | why |", "|---|---|---|---|---|"]
    for row in rows:
        mutants = "; ".join(mutant.name for mutant in row.mutants)
        cells = (row.name, f"`{row.layer!r}`", ", ".join(row.promise), mutants, row.reason)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines)


def _cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    """A line: the worst relative error in float64 and in the working dtype."""

    def worst(exact: bool) -> str:
        found = [leaf.relative for leaf in comparison.rows if (leaf.dtype == "float64") == exact]
        return f"{max(found):.1e}" if found else "-"

    verdict = "ok" if comparison.ok else f"WRONG: {comparison.wrong[0].name}"
    return row.name, str(len(comparison.rows)), worst(True), worst(False), verdict
