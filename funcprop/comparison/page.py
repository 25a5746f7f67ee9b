"""A comparison as HTML: one file without scripts that fetches nothing, in light and in dark."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from funcprop.comparison import table as catalogue
from funcprop.comparison.costs import Costs
from funcprop.comparison.report import HEADINGS, Comparison, cells

# Colors of the page are the page's; a report alone takes those of the notebook around it.
PAGE_STYLE = """
:root { color-scheme: light dark; }
body { margin: 2rem auto; max-width: 96rem; padding: 0 1rem; background: #fff; color: #1b1f24; }
@media (prefers-color-scheme: dark) { body { background: #15181d; color: #e4e7eb; } }
"""
STYLE = """
.funcprop { font: 15px/1.5 system-ui, sans-serif; }
.funcprop h1 { font-size: 1.4rem; }
.funcprop h2 { font-size: 1.15rem; }
.funcprop a { color: inherit; }
.funcprop .scroll { overflow-x: auto; }
.funcprop table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.funcprop th, .funcprop td { padding: .3em .8em; text-align: left; vertical-align: top;
  border-bottom: 1px solid rgb(128 128 128 / .35); }
.funcprop th { white-space: nowrap; }
.funcprop tr.wrong { background: rgb(220 38 38 / .16); }
.funcprop tr.wrong td:first-child { box-shadow: inset 4px 0 #dc2626; font-weight: 600; }
.funcprop summary { cursor: pointer; margin: .4em 0; }
.funcprop dt { font-weight: 600; }
"""
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


def html_page(comparison: Comparison) -> str:
    """A whole page: the headline, the rows with the wrong ones first, the notes, a legend."""
    parts = [f"<h1>{escape(comparison.headline)}</h1>", _rows_and_notes(comparison), _legend()]
    return _document(comparison.headline, _part(parts))


def html_report(comparison: Comparison) -> str:
    """The headline, the rows and the notes: a part of a page, with its style."""
    title = f"<p><strong>{escape(comparison.headline)}</strong></p>"
    return _part([title, _rows_and_notes(comparison)])


def html_catalogue(table: catalogue.Table, costs: Costs | None = None) -> str:
    """A whole page: a line for each target, the wrong ones first, and under each its report."""
    entries = sorted(table.entries, key=lambda entry: entry[1].ok)
    lines = [catalogue.cells(*entry) for entry in entries]
    parts = [f"<h1>{escape(table.headline)}</h1>"]
    parts.append(_table(catalogue.HEADINGS, lines, [found.ok for _, found in entries], link=True))
    if costs is not None:
        parts += ["<h2>What it costs</h2>", _costs(costs)]
    parts.append("<h2>Every gradient</h2>")
    for i, (row, found) in enumerate(entries):
        opened, verdict = ("", "") if found.ok else (" open", ": WRONG")
        # a link to what stands inside opens it
        parts.append(
            f"<details{opened}><summary>{escape(row.name + verdict)}</summary>"
            f'<p id="target-{i}">{escape(found.headline)}</p>{_rows_and_notes(found)}</details>'
        )
    return _document(table.headline, _part([*parts, _legend()]))


def _rows_and_notes(comparison: Comparison) -> str:
    """The rows, the wrong ones first, and the notes."""
    parts = []
    rows = sorted(comparison.rows, key=lambda row: row.ok)  # stable: the deepest layers stay first
    if rows:
        parts.append(_table(HEADINGS, [cells(row) for row in rows], [row.ok for row in rows]))
    if comparison.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
        parts.append(f"<ul>{notes}</ul>")
    if comparison.costs is not None:
        parts.append(_costs(comparison.costs))
    return "".join(parts)


def _costs(costs: Costs) -> str:
    return f'<div class="scroll"><pre>{escape(str(costs))}</pre></div>'


def _table(
    headings: Sequence[str],
    lines: Sequence[Sequence[str]],
    right: Sequence[bool],
    link: bool = False,
) -> str:
    """Lines under headings, those that are not right marked; a link leads to `#target-i`."""
    meanings = (MEANINGS.get(word, word) for word in headings)
    head = "".join(
        f'<th title="{escape(meaning)}">{escape(word)}</th>'
        for word, meaning in zip(headings, meanings, strict=True)
    )
    body = []
    for i, (line, ok) in enumerate(zip(lines, right, strict=True)):
        texts = [escape(cell) for cell in line]
        if link:
            texts[0] = f'<a href="#target-{i}">{texts[0]}</a>'
        mark = "" if ok else ' class="wrong"'
        body.append(f"<tr{mark}>{''.join(f'<td>{text}</td>' for text in texts)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _legend() -> str:
    """What the headings mean."""
    words = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in MEANINGS.items())
    return f"<details><summary>How to read this</summary><dl>{words}</dl></details>"


def _part(parts: Sequence[str]) -> str:
    """A part that brings its style, so that it can stand in a notebook."""
    return f'<div class="funcprop"><style>{STYLE}</style>{"".join(parts)}</div>'


def _document(title: str, part: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n"
        f"<body>\n{part}\n</body>\n</html>\n"
    )
