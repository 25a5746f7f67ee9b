"""What was found about the rules of a program, as a value."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from funcprop.sheets import Line, Sheet, html

OK, WRONG, CANNOT, LEFT_OUT = "ok", "WRONG", "cannot be judged", "left out"


ORDER = (WRONG, OK, CANNOT, LEFT_OUT)  # of rows in a table, and what outweighs what


HEADINGS = ("module", "rule", "where", "calls", "verdict", "worst leaf", "seconds", "found")


ESSENTIAL = ("rule", "where", "verdict", "found")


MEANINGS = {
    "rule": "the jax.custom_vjp or jax.custom_jvp function",
    "where": "the file and line of the function, or of its decorator",
    "calls": "how often Python called it: a program that is compiled calls it once",
    "verdict": "ok, WRONG, cannot be judged, or left out",
    "worst leaf": "the argument whose gradient is wrong, or furthest off in float64, and the norm "
    "of the error relative to the gradient",
    "seconds": "what the comparison took",
    "found": "what is wrong in words, or why it cannot be judged",
}


@dataclass(frozen=True)
class RuleRow:
    """A rule, and what was found about it.

    module, name  of its function, the name qualified: "Layer.attend"
    file, line    where that stands
    calls         how often it was called while it was watched
    verdict       "ok", "WRONG", "cannot be judged" or "left out"
    worst         the leaf with the largest error, and that error: "dx 3e-01"
    seconds       that the comparisons took
    words         what is wrong, or why it cannot be judged
    notes         what else is to be known: that values were drawn, that examples were left out
    report        the wrong rows of the comparison as a table

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> with fp.watch() as rules:
    ...     y = jax.nn.relu(jnp.arange(-1.5, 2.0))
    >>> row = rules.compare(skip=["jax.*"]).rows[0]
    >>> row.name, row.calls, row.verdict, row.ok
    ('relu', 1, 'left out', True)
    """

    module: str
    name: str
    file: str
    line: int
    calls: int
    verdict: str
    worst: str = ""
    seconds: float = 0.0
    words: str = ""
    notes: tuple[str, ...] = ()
    report: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is not wrong."""
        return self.verdict != WRONG

    @property
    def where(self) -> str:
        """`layers/norm.py:31`: from the working directory, or from where packages are installed."""
        file = self.file
        for folder in (os.getcwd(), "site-packages", "dist-packages"):
            head, found, tail = file.partition(folder + os.sep)
            if found and (head == "" or not os.path.isabs(folder)):
                file = tail
                break
        return f"{file or '?'}:{self.line}"

    def cells(self) -> tuple[str, ...]:
        """In words, one a heading."""
        found = "; ".join(filter(None, (self.words, *self.notes)))
        took = f"{self.seconds:.1f}" if self.seconds else "-"
        return (self.module, self.name, self.where, str(self.calls), self.verdict,
                self.worst or "-", took, found or "-")  # fmt: skip


@dataclass(frozen=True)
class RulesComparison:
    """The derivative rules that a program called, each compared. It prints itself as a table.

    rows    a `RuleRow` each, the wrong ones first

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> @jax.custom_jvp
    ... def cube(x):
    ...     return x**3
    >>> cube.defjvps(lambda dx, y, x: 2 * x**2 * dx)
    >>> with fp.watch() as rules:
    ...     y = cube(jnp.arange(1.0, 4.0))
    >>> found = rules.compare()
    >>> found.ok, [(row.name, row.verdict) for row in found.rows]
    (False, [('cube', 'WRONG')])
    """

    rows: tuple[RuleRow, ...]

    @property
    def ok(self) -> bool:
        """Whether no rule is wrong; of those that cannot be judged, nothing is known."""
        return all(row.ok for row in self.rows)

    @property
    def wrong(self) -> tuple[RuleRow, ...]:
        """The rows that are wrong."""
        return tuple(row for row in self.rows if not row.ok)

    @property
    def headline(self) -> str:
        """How many there are of each verdict."""
        verdicts = [row.verdict for row in self.rows]
        counts = [f"{verdicts.count(each)} {each}" for each in ORDER if each in verdicts]
        if not counts:
            return "no derivative rule was called"
        word = "rule" if len(verdicts) == 1 else "rules"
        return f"{len(verdicts)} derivative {word} called: {', '.join(counts)}"

    @property
    def sheet(self) -> Sheet:
        """A line for each rule."""
        lines = tuple(Line(row.cells(), row.ok) for row in self.rows)
        drawn = any("values drawn" in row.notes for row in self.rows)
        notes = (
            "values drawn: seen in traces alone, as under jit, which tell shapes and dtypes, or "
            "not finite: floats are from N(0, 1), or nearer to 1 where the function needs that",
        )
        return Sheet(self.headline, HEADINGS, lines, notes[: int(drawn)], ESSENTIAL, MEANINGS)

    def __str__(self) -> str:
        title, *rest = str(self.sheet).splitlines()
        table = [title, *rest] if self.rows else [title]
        return "\n".join([*table, *(f"\n{row.report}" for row in self.wrong)])

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """A rich table, followed by the report of every wrong rule."""
        yield self.sheet.as_rich(options.max_width)
        yield from (row.report for row in self.wrong)

    def as_list(self) -> list[dict[str, Any]]:
        """Plain values, a dictionary for each row."""
        return [dataclasses.asdict(row) | {"notes": list(row.notes)} for row in self.rows]

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.as_list(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """A page of its own: a line for each rule, and the reports of the wrong ones under it."""
        names = [f"rule-{i}" for i in range(len(self.rows))]
        parts = [f"<h1>{escape(self.headline)}</h1>", html.rows_and_notes(self.sheet)]
        for name, row in zip(names, self.rows, strict=True):
            if row.report:
                title = escape(f"{row.module}.{row.name}")
                parts.append(f'<h2 id="{name}">{title}</h2>{html.preformatted(row.report)}')
        return html.document(self.headline, [*parts, html.legend(MEANINGS)])

    def _repr_html_(self) -> str:
        """The table, for notebooks."""
        title = f"<p><strong>{escape(self.headline)}</strong></p>"
        return html.part([title, html.rows_and_notes(self.sheet)])


def from_json(text: str) -> tuple[RuleRow, ...]:
    """The rows that `RulesComparison.to_json` wrote."""
    return tuple(RuleRow(**row | {"notes": tuple(row["notes"])}) for row in json.loads(text))


def merged(rows: Iterable[RuleRow]) -> RulesComparison:
    """One row for each rule, of several processes that saw it, in order: the worst verdict, and all
    calls and seconds."""
    found: dict[tuple[str, int, str], RuleRow] = {}
    for row in rows:
        where = row.file, row.line, row.name
        old = found.get(where)
        if old is not None:
            first = min(old, row, key=lambda each: ORDER.index(each.verdict))
            calls, seconds = old.calls + row.calls, old.seconds + row.seconds
            row = replace(first, calls=calls, seconds=seconds)
        found[where] = row

    def order(row: RuleRow) -> tuple[int, str, str, int]:
        return ORDER.index(row.verdict), row.module, row.name, row.line

    return RulesComparison(tuple(sorted(found.values(), key=order)))
