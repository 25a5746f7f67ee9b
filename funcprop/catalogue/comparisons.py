"""The whole catalogue compared: one line a layer."""

from __future__ import annotations

import itertools
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.catalogue.row import Row
from funcprop.catalogue.table import ROWS
from funcprop.comparison.programs import Programs, cast
from funcprop.comparison.report.comparison import MEANINGS, Comparison
from funcprop.comparison.subject.door import granted
from funcprop.comparison.trial import compare_subject
from funcprop.costs.cost import Costs
from funcprop.layer import Context, Params
from funcprop.sheets import Line, Sheet, html

MANY = 16  # rows, from which on further processes pay for starting
HEADINGS = ("layer", "gradients", "float64", "float32", "verdict")


@dataclass(frozen=True)
class Effort:
    """How rows and functions are compared.

    thorough       compiled as a training step is, under four times as many cotangents
    order, rtol, ignore   as `compare` has them
    """

    thorough: bool = False
    order: int = 1
    rtol: float = 0.0
    ignore: tuple[str, ...] = ()

    @property
    def of_function(self) -> dict[str, Any]:
        """Options of `compare`."""
        probes = {"probes": 20} if self.thorough else {}
        return probes | {"order": self.order, "rtol": self.rtol, "ignore": self.ignore}

    @property
    def of_row(self) -> dict[str, Any]:
        """Options of `compare_row`."""
        return self.of_function | {"thorough": self.thorough}


@dataclass(frozen=True)
class CatalogueComparison:
    """Rows of the catalogue with what `compare` found. `ok` where every gradient is right.

    entries   (row, Comparison) each, as `compare_catalogue` returns them

    >>> import funcprop as fp
    >>> table = fp.catalogue.CatalogueComparison(tuple(fp.catalogue.compare_catalogue(["Tanh"])))
    >>> table.headline
    '1 of 1 rows agree with automatic differentiation'
    """

    entries: tuple[tuple[Row, Comparison], ...]

    @property
    def ok(self) -> bool:
        return all(comparison.ok for _, comparison in self.entries)

    @property
    def headline(self) -> str:
        """How many agree with automatic differentiation."""
        good = sum(comparison.ok for _, comparison in self.entries)
        return f"{good} of {len(self.entries)} rows agree with automatic differentiation"

    @property
    def sheet(self) -> Sheet:
        """A line for each row."""
        lines = tuple(Line(cells(*entry), entry[1].ok) for entry in self.entries)
        return Sheet(self.headline, HEADINGS, lines)

    @property
    def wrong(self) -> tuple[Comparison, ...]:
        """The comparisons that found something wrong."""
        return tuple(comparison for _, comparison in self.entries if not comparison.ok)

    def __str__(self) -> str:
        return "\n".join([*self.sheet.table, *(f"\n{comparison}" for comparison in self.wrong)])

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """A rich table, followed by the full report of every wrong row."""
        yield self.sheet.as_rich(options.max_width)
        yield from self.wrong

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

    def to_html(self, costs: Costs | None = None) -> str:
        """A page of its own: a line for each row, and every report under it."""
        names = [f"target-{i}" for i in range(len(self.entries))]
        parts = [f"<h1>{escape(self.headline)}</h1>", html.table(self.sheet, names)]
        if costs is not None:
            parts += ["<h2>What it costs</h2>", html.preformatted(str(costs))]
        parts.append("<h2>Every gradient</h2>")
        reports = zip(names, self.entries, strict=True)
        for name, (row, found) in sorted(reports, key=lambda report: report[1][1].ok):
            opened, verdict = ("", "") if found.ok else (" open", ": WRONG")
            # a link to what stands inside opens it
            parts.append(
                f"<details{opened}><summary>{escape(row.name + verdict)}</summary>"
                f'<p id="{name}">{escape(found.headline)}</p>{found.as_html()}</details>'
            )
        return html.document(self.headline, [*parts, html.legend(MEANINGS)])


def compare_catalogue(
    names: Sequence[str] | None = None,
    progress: Callable[[Row, Comparison], None] | None = None,
) -> list[tuple[Row, Comparison]]:
    """Rows of the catalogue by name, all by default, each with its comparison.

    names     a name stands for the row of that name and for all rows that add something to it after
              a comma: "Dense" means "Dense, square" too
    progress  called with (row, comparison) after each row

    Returns a list of (row, Comparison), in order.

    raises  ValueError for an unknown name, with the nearest one

    >>> import funcprop as fp
    >>> [(row.name, found.ok) for row, found in fp.catalogue.compare_catalogue(["Tanh"])]
    [('Tanh', True)]
    """
    return compare_rows(ROWS if names is None else chosen(names), progress)


def compare_rows(
    rows: Sequence[Row] = ROWS, progress: Callable[[Row, Comparison], None] | None = None
) -> list[tuple[Row, Comparison]]:
    """Every row with its comparison, in order."""
    entries = []
    for row, comparison in zip(rows, comparisons(rows), strict=True):
        entries.append((row, comparison))
        if progress is not None:
            progress(row, comparison)
    return entries


def comparisons(
    rows: Sequence[Row], how: Effort = Effort(), processes: int = 1
) -> Iterator[Comparison]:
    """The comparisons of rows, in order, as they are done.

    how        thorough or not, and what is granted
    processes  for many rows of the catalogue: nearly all of the time is tracing and compiling. The
               program that asks for several needs `if __name__ == "__main__":`
    """
    if processes == 1 or len(rows) < MANY or any(row not in ROWS for row in rows):
        yield from (compare_row(row, **how.of_row) for row in rows)
        return
    names = [row.name for row in rows]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_compare_name, names, itertools.repeat(how))


def _compare_name(name: str, how: Effort) -> Comparison:
    (row,) = (row for row in ROWS if row.name == name)
    return compare_row(row, **how.of_row)


def compare_row(
    row: Row,
    key: jax.Array | None = None,
    probes: int = 5,
    dtype: Any = jnp.float32,
    thorough: bool = False,
    programs: Programs | None = None,
    order: int = 1,
    rtol: float = 0.0,
    ignore: Any = (),
) -> Comparison:
    """One row of the catalogue, at arguments drawn from `key`; `order`, `rtol` and `ignore` are
    those of `compare`."""
    key = jax.random.key(0) if key is None else key
    run = Programs(thorough) if programs is None else programs
    subject = granted(row.subject(drawn(row, key, dtype, run), key), row.layer, rtol, ignore)
    return compare_subject(subject, probes, row.floor, run, order)


def drawn(
    row: Row, key: jax.Array, dtype: Any = jnp.float32, programs: Programs | None = None
) -> tuple[Params, Any, Context]:
    """The row's arguments, its parameters by one small program: op by op they would take longer.

    One for all dtypes: in float32, and rounded.
    """
    run = Programs() if programs is None else programs
    layer = row.layer

    def init(key: jax.Array, x: Any) -> Params:
        wanted = run.once(f"params in {jnp.dtype(dtype)}", jax.eval_shape, layer.init, key, x)
        if not jax.tree.leaves(wanted):
            return wanted
        made = run.on_device("init", layer.init, key, cast(x, jnp.float32))
        return jax.tree.map(lambda leaf, like: leaf.astype(like.dtype), made, wanted)

    return row.arguments(key, dtype, init)


def chosen(names: Sequence[str]) -> list[Row]:
    """The rows that the names stand for, in upper or lower case."""
    rows: dict[str, Row] = {}
    by_name = {row.name.casefold(): row for row in ROWS}
    for name in names:
        wanted = name.casefold()
        found = {
            row.name: row
            for folded, row in by_name.items()
            if folded == wanted or folded.startswith(wanted + ",")
        }
        if not found:
            near = get_close_matches(wanted, by_name, 1, 0.4)
            hint = f": did you mean {by_name[near[0]].name!r}?" if near else ""
            raise ValueError(f"no row of the catalogue is called {name!r}{hint}")
        rows |= found
    return list(rows.values())


def markdown(rows: Sequence[Row] = ROWS) -> str:
    """The catalogue as a Markdown table, for the docs."""
    headings = ("row", "layer", "promise", "mutants", "why")
    lines = []
    for row in rows:
        mutants = "; ".join(mutant.name for mutant in row.mutants)
        promise = ", ".join(row.promise)
        lines.append(Line((row.name, f"`{row.layer!r}`", promise, mutants, row.reason)))
    return Sheet("the catalogue", headings, tuple(lines)).as_markdown()


def cells(row: Row, comparison: Comparison) -> tuple[str, ...]:
    """A line: the worst relative error in float64 and in the working dtype."""

    def worst(exact: bool) -> str:
        found = [leaf.relative for leaf in comparison.rows if (leaf.dtype == "float64") == exact]
        return f"{max(found):.1e}" if found else "-"

    verdict = "ok" if comparison.ok else f"WRONG: {comparison.wrong[0].name}"
    return row.name, str(len(comparison.rows)), worst(True), worst(False), verdict
