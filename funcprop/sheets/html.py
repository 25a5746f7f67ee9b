"""Sheets as HTML: one file without scripts that fetches nothing, in light and in dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from funcprop.sheets.sheet import Sheet

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


def rows_and_notes(sheet: Sheet) -> str:
    """The rows, the wrong ones first, and the notes."""
    parts = [table(sheet)] if sheet.lines else []
    if sheet.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in sheet.notes)
        parts.append(f"<ul>{notes}</ul>")
    return "".join(parts)


def table(sheet: Sheet, targets: Sequence[str] | None = None) -> str:
    """The rows, the wrong ones first and marked; where `targets` are given, the first cell of row i
    leads to the place of that name."""
    meanings = (sheet.meanings.get(word, word) for word in sheet.headings)
    head = "".join(
        f'<th title="{escape(meaning)}">{escape(word)}</th>'
        for word, meaning in zip(sheet.headings, meanings, strict=True)
    )
    body = []
    order = sorted(range(len(sheet.lines)), key=lambda i: sheet.lines[i].ok)  # stable
    for i in order:
        line = sheet.lines[i]
        texts = [escape(cell) for cell in line.cells]
        if targets is not None:
            texts[0] = f'<a href="#{targets[i]}">{texts[0]}</a>'
        mark = "" if line.ok else ' class="wrong"'
        body.append(f"<tr{mark}>{''.join(f'<td>{text}</td>' for text in texts)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def preformatted(text: str) -> str:
    """Text whose columns are aligned."""
    return f'<div class="scroll"><pre>{escape(text)}</pre></div>'


def legend(meanings: Mapping[str, str]) -> str:
    """What the headings mean."""
    words = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in meanings.items())
    return f"<details><summary>How to read this</summary><dl>{words}</dl></details>"


def part(parts: Sequence[str]) -> str:
    """A part that brings its style, so that it can stand in a notebook."""
    return f'<div class="funcprop"><style>{STYLE}</style>{"".join(parts)}</div>'


def document(title: str, parts: Sequence[str]) -> str:
    """A whole page."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_STYLE}</style>\n</head>\n"
        f"<body>\n{part(parts)}\n</body>\n</html>\n"
    )
