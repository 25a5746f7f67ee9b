"""What a comparison found, as a value."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from html import escape
from typing import Any

from funcprop.comparison.explanation.curve import Curve
from funcprop.comparison.leaf import NO_PATTERN, Leaf
from funcprop.sheets import Line, Sheet, bars, html

HEADINGS = (
    "where", "shape", "dtype", "max error", "relative", "ulps", "cosine",
    "worst at", "by hand", "automatic", "verdict", "rule",
)  # fmt: skip
NEARLY = 1e-4  # relative: an error below it may be that of a tolerance
LONGEST = 160  # characters of a broken contract in the headline; its row has all
SHAPED = re.compile(r"backward returned (\w+)(\[.*?\]), wanted (\w+)(\[.*?\])")
NO_PAIR = re.compile(r"^backward raised LayerError: .*?: (?=backward returned )")
MOST_BARS = 60  # of a comparison; the table has all
ESSENTIAL = ("where", "relative", "by hand", "automatic", "verdict", "rule")
# How places begin that are a transformation and no layer: "under vmap over argument 1: dx[0]".
TRANSFORMED = ("under ", "with only ", "with integers ", "in the gradient of ", "run a second time")
MEANINGS = {
    "where": "the layer, by its place in the model, and the leaf: dx is the gradient of the cost "
    "with respect to its input, dw and db those with respect to its parameters w and b",
    "max error": "the largest |by hand − automatic| among the elements",
    "relative": "‖by hand − automatic‖ / ‖automatic‖: 1e-16 is rounding in float64, 1 is all wrong",
    "ulps": "max error in units in the last place: how many floating-point numbers lie between",
    "cosine": "of the angle between both gradients: 1 is the same direction, −1 the opposite one",
    "worst at": "the index of the element with the largest error",
    "by hand": "what the hand-written backward says there",
    "automatic": "what automatic differentiation says there",
    "verdict": "ok, or WRONG",
    "rule": "what had to hold",
}


class GradientError(AssertionError):
    """A hand-written gradient is wrong. The text is the report's. An AssertionError.

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> class Half(fp.Tanh):
    ...     def backward(self, params, a, da):
    ...         return 0.5 * da * (1 - a * a), ()
    >>> try:
    ...     fp.assert_gradients(Half(), (), jnp.arange(8.0).reshape(4, 2))
    ... except fp.GradientError as error:
    ...     print(str(error).splitlines()[0])
    Half(): wrong gradient in Half: dx (a factor of 1/2)
    """


@dataclass(frozen=True)
class Comparison:
    """Gradients by hand and by automatic differentiation, compared. It prints itself as a table.

    target  what was compared, in words
    rows    a row per leaf and dtype, the layers inside a composite first: its name, shape, dtype,
            errors as numbers of Python, and whether it is `ok`
    notes   what the other witnesses say, what could not be looked at, and why, and what is not
            finite at large inputs though its value would fit the dtype
    kept    bytes that the backward pass reads beside parameters and dy, in float64
    curve   where a rule that acts element by element is wrong: z, a and the derivative by hand and
            automatic at nine points, as tuples of numbers; else None

    raises  `raise_if_wrong`, GradientError

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> found = fp.compare(fp.Tanh(), (), jnp.arange(8.0).reshape(4, 2))
    >>> found.ok, found.wrong
    (True, ())
    >>> [(row.name, row.shape, row.dtype) for row in found.rows]
    [('Tanh: dx', (4, 2), 'float64'), ('Tanh: dx', (4, 2), 'float32')]
    """

    target: str
    rows: tuple[Leaf, ...]
    notes: tuple[str, ...] = ()
    kept: int | None = None
    curve: Curve | None = None

    @property
    def ok(self) -> bool:
        """Whether every row is right, and was judged: what no witness can judge is not right."""
        return all(row.ok and row.judged for row in self.rows)

    @property
    def unjudged(self) -> tuple[Leaf, ...]:
        """The rows that no witness could judge, at any input."""
        return tuple(row for row in self.rows if row.ok and not row.judged)

    @property
    def wrong(self) -> tuple[Leaf, ...]:
        """The rows that are wrong; the first ones name the deepest wrong layers."""
        return tuple(row for row in self.rows if not row.ok)

    def raise_if_wrong(self, allow_unjudged: bool = False) -> None:
        """Raise GradientError, with the rows concerned in its text, unless all is right.

        allow_unjudged  whether what no witness could judge may pass
        """
        rows = self.wrong or (() if allow_unjudged else self.unjudged)
        if rows:
            table = replace(self, rows=rows).sheet.table
            raise GradientError("\n".join((self.headline, "", *table, *self._points)))

    @property
    def headline(self) -> str:
        """One line: what is wrong, what cannot be judged, or that all agree."""
        if not self.wrong and self.unjudged:
            told = ", ".join(dict.fromkeys(row.name for row in self.unjudged))
            return f"{self.target}: cannot be judged: {told}, at no input that was tried"
        if self.ok:
            exact = [row for row in self.rows if row.dtype == "float64"]
            worst = max(
                (row.relative for row in exact if row.rule.startswith("relative norm")), default=0.0
            )
            return (
                f"{self.target}: {len(self.rows)} gradients agree with automatic differentiation"
                f" (float64: {worst:.0e})"
            )
        if "raised NotImplementedError" in self.wrong[0].rule and self.wrong[0].name.endswith(
            "backward"
        ):
            return (
                f"{self.target}: {self._culprit()} does not define backward: write one, or "
                "fp.autodiff(layer) for JAX's"
            )
        names: dict[str, str] = {}
        for row in self.wrong:
            if row.place == self._culprit():
                known = row.words and row.words != NO_PATTERN
                told = f"{row.name} ({row.words})" if known else unexplained(row)
                if names.get(row.name, row.name) == row.name:
                    names[row.name] = told
        wrong = ", ".join(names.values())
        if self.nearly_right:
            worst = max(row.relative for row in self.wrong)
            granted = 10.0 ** math.ceil(math.log10(worst) + 0.3)
            return (
                f"{self.target}: agrees to {worst:.0e} alone, less accurate or without a small "
                f"term: {wrong} (rtol={granted:g} would grant it)"
            )
        if self.less_accurate:
            dtype = self.wrong[0].dtype
            return f"{self.target}: right in float64, and too inexact in {dtype}: {wrong}"
        where = "" if wrong.startswith(TRANSFORMED) else "in "
        return f"{self.target}: wrong gradient {where}{wrong}"

    @property
    def less_accurate(self) -> bool:
        """Whether all that is wrong is small: float64 agrees and the working dtype does not, or it
        agrees to a relative error of 1e-4 and no pattern says what is missing."""
        wrong = self.wrong
        if self.nearly_right:
            return True
        finite = all(math.isfinite(row.error) and row.dtype != "float64" for row in wrong)
        return bool(wrong) and finite and not any(row.rule.startswith("contract") for row in wrong)

    @property
    def nearly_right(self) -> bool:
        """Whether float64 is off, by little and by nothing that is recognized."""
        exact = [row for row in self.wrong if row.dtype == "float64"]
        return bool(exact) and all(
            0 < row.relative <= NEARLY
            and row.words in ("", NO_PATTERN)
            and row.rule.startswith(("relative norm", "error <="))
            for row in self.wrong
        )

    def _culprit(self) -> str:
        """The place of the first wrong row: layers inside a composite come before it."""
        return self.wrong[0].place

    @property
    def sheet(self) -> Sheet:
        """Every row in words."""
        lines = tuple(Line(cells(row), row.ok and row.judged) for row in self.rows)
        return Sheet(self.headline, HEADINGS, lines, self.notes, ESSENTIAL, MEANINGS)

    def __str__(self) -> str:
        return "\n".join((str(self.sheet), *self._points))

    @property
    def _points(self) -> tuple[str, ...]:
        """The curve as lines of text."""
        return () if self.curve is None else ("", *self.curve.table)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        """A rich table; in a narrow terminal only the columns that say what to correct."""
        yield self.sheet.as_rich(options.max_width)
        yield from self._points

    def as_dict(self) -> dict[str, Any]:
        """Plain values only: target, ok, rows, notes, kept and curve.

        Numbers of rows that are not finite are words.
        """
        rows = [{"name": row.name} | dataclasses.asdict(row) for row in self.rows]
        rows = [{name: _plain(value) for name, value in row.items()} for row in rows]
        curve = None
        if self.curve is not None:
            columns = dataclasses.asdict(self.curve)
            curve = {name: _plain(value) for name, value in columns.items()}
        return {"target": self.target, "ok": self.ok, "rows": rows, "notes": list(self.notes),
                "kept": self.kept, "curve": curve}  # fmt: skip

    def to_json(self) -> str:
        """The same as JSON text."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_html(self) -> str:
        """A page of its own: the headline, every row with the wrong ones first, and the notes."""
        title = f"<h1>{escape(self.headline)}</h1>"
        return html.document(self.headline, [title, self.as_html(), html.legend(MEANINGS)])

    def as_html(self) -> str:
        """The rows, the wrong ones first, the notes and the curve: part of a page."""
        drawn = "" if self.curve is None else f"<figure>{self.curve.as_svg()}</figure>"
        return html.rows_and_notes(self.sheet) + self._bars() + drawn

    def _bars(self) -> str:
        """A bar a gradient of the widest dtype: how far it is off."""
        measured = [row for row in self.rows if not row.rule.startswith("contract")]
        wide = [row for row in measured if row.dtype == "float64"] or measured
        if not wide:
            return ""
        drawn = bars.svg(
            "how far every gradient is off",
            [(row.name, row.relative, row.ok) for row in wide[:MOST_BARS]],
        )
        words = f"‖by hand − automatic‖ / ‖automatic‖, {wide[0].dtype}"
        return f"<figure>{drawn}<figcaption>{words}</figcaption></figure>"

    def _repr_html_(self) -> str:
        """The headline and the table, for notebooks."""
        return html.part([f"<p><strong>{escape(self.headline)}</strong></p>", self.as_html()])


def unexplained(row: Leaf) -> str:
    """The name of a row without words; of a broken contract with what was asked and given."""
    if not row.rule.startswith("contract: "):
        return row.name
    rule = row.rule.removeprefix("contract: ").partition("\n")[0]
    if found := SHAPED.fullmatch(rule):
        dtype, shape, wanted_dtype, wanted = found.groups()
        if dtype == wanted_dtype:
            return f"{row.name} has shape {shape}, wanted {wanted}"
        return f"{row.name} is {dtype}{shape}, wanted {wanted_dtype}{wanted}"
    rule = NO_PAIR.sub("", rule)  # the layer's name stands before it
    rule = rule.replace(f"backward returned {row.path} as ", f"{row.path} is ", 1)
    rule = rule if len(rule) <= LONGEST else f"{rule[:LONGEST]}…"
    if rule.startswith(row.path):
        return f"{row.place}: {rule}" if row.place else rule
    return f"{row.name}: {rule}"


def cells(row: Leaf) -> tuple[str, ...]:
    """A row in words, one a heading."""
    if row.rule.startswith("contract"):  # nothing was measured
        shape = f"[{', '.join(map(str, row.shape))}]" if row.dtype else "-"
        rule = f"{row.rule} ({row.words})" if row.words else row.rule
        return row.name, shape, row.dtype or "-", *["-"] * 7, "WRONG", rule
    return (
        row.name,
        f"[{', '.join(map(str, row.shape))}]",
        row.dtype,
        f"{row.error:.1e}",
        f"{row.relative:.1e}",
        f"{row.ulps:.2g}",
        f"{row.cosine:.6g}",
        str(list(row.index)) + (f" of {row.at}" if row.at else ""),
        f"{row.by_hand:.6g}",
        f"{row.expected:.6g}",
        ("ok" if row.judged else "not judged") if row.ok else "WRONG",
        (f"{row.words}: wanted {row.rule}" if row.words else row.rule) + redone(row),
    )


def redone(row: Leaf) -> str:
    """`, at x = 0.731, dy = -1.2`, where they are known."""
    return "" if row.x is None or row.dy is None else f", at x = {row.x:.6g}, dy = {row.dy:.6g}"


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return list(map(_plain, value)) if isinstance(value, tuple) else value
