"""Every chapter as a notebook: NN-name.md -> NN-name.ipynb, beside this file.

    python docs/learn/notebooks.py

A snippet becomes a code cell without its prompts, and with what the page says that it prints; text
a cell of Markdown. What is folded away on the page stands openly here, under its summary.
"""

import doctest
import json
import re
from pathlib import Path

FOLDER = Path(__file__).parent
CHAPTERS = sorted(FOLDER.glob("[0-9][0-9]-*.md"))
SNIPPET = re.compile(r"^```python\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
FOLDED = re.compile(r"^</?details.*>\n", re.MULTILINE)
SUMMARY = re.compile(r"^<summary>(.*)</summary>$", re.MULTILINE)


def cells(page: str) -> list[dict]:
    """The page, cut where snippets begin and end."""
    page = SUMMARY.sub(r"*\1:*", FOLDED.sub("", page))
    found = []
    for index, part in enumerate(SNIPPET.split(page)):
        snippet = index % 2 == 1 and ">>>" in part
        text = code(part) if snippet else f"```python\n{part}```" if index % 2 else part.strip()
        if text:
            name = f"cell-{len(found)}"
            found.append(code_cell(text, printed(part), name) if snippet else text_cell(text, name))
    return found


def code(snippet: str) -> str:
    """What is typed. Values that the page shows are shown by a notebook's last line, or printed."""
    examples = doctest.DocTestParser().get_examples(snippet)
    lines = []
    for number, example in enumerate(examples):
        source = example.source.rstrip("\n")
        shown = example.want and not source.startswith(("print", "for ", "with ", "def "))
        last = number == len(examples) - 1
        lines.append(f"print({source})" if shown and not last and "\n" not in source else source)
    return "\n".join(lines)


def printed(snippet: str) -> str:
    """What the page says that it prints."""
    return "".join(example.want for example in doctest.DocTestParser().get_examples(snippet))


def text_cell(text: str, name: str) -> dict:
    """A cell of Markdown, of format 4.5."""
    return {"cell_type": "markdown", "id": name, "metadata": {}, "source": text.splitlines(True)}


def code_cell(text: str, shown: str, name: str) -> dict:
    """A cell of code, and what is shown under it."""
    lines = shown.splitlines(True)
    outputs = [{"output_type": "stream", "name": "stdout", "text": lines}] if lines else []
    made = text_cell(text, name) | {"cell_type": "code", "execution_count": None}
    return made | {"outputs": outputs}


def notebook(page: Path) -> str:
    """The text of the notebook of a page."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {
        "cells": cells(page.read_text(encoding="utf-8")),
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for page in CHAPTERS:
        page.with_suffix(".ipynb").write_text(notebook(page), encoding="utf-8")


if __name__ == "__main__":
    main()
