"""A page as one file: its data, its scripts and its style, and nothing from the network."""

from __future__ import annotations

import functools
import html
import json
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

# In the order in which they need each other.
SCRIPTS = (
    *("dom.js", "decode.js", "engine.js", "store.js", "network.js", "planted.js", "inspector.js"),
    *("stepper.js", "charts.js", "panels.js", "flow.js", "blocks.js", "graph.js", "main.js"),
)


@functools.cache
def asset(name: str) -> str:
    """A file of `web/`."""
    return files("funcprop.explorer").joinpath("web", name).read_text("utf-8")


@functools.cache
def script() -> str:
    """The modules as one: what they import from each other stands above them."""
    parts = []
    for name in SCRIPTS:
        body = re.sub(r'^import \{[^}]*\} from "\./[\w-]+\.js";\n', "", asset(name), flags=re.M)
        parts.append(re.sub(r"^export ", "", body, flags=re.M))
    return "\n".join(parts)


@dataclass(frozen=True)
class Page:
    """A page of the explorer.

    title, about  its heading, and a sentence below it
    data          everything it shows, as plain data for JSON

    In a notebook it shows itself.

    raises  `save`, OSError where the file cannot be written

    >>> import funcprop as fp
    >>> page = fp.explorer.Page("Nothing", "No data.", {"kind": "network"})
    >>> page.html.startswith("<!DOCTYPE html>")
    True
    """

    title: str
    about: str
    data: dict[str, Any]

    @property
    def html(self) -> str:
        """The whole file."""
        text = json.dumps(self.data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        values = {
            "title": html.escape(f"{self.title} · funcprop explain"),
            "heading": html.escape(self.title),
            "about": html.escape(self.about),
            "foot": html.escape(FOOT),
            "style": asset("style.css"),
            "data": text.replace("<", "\\u003c"),
            "script": script(),
        }
        return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], asset("page.html"))

    def save(self, path: str | Path) -> Path:
        """Writes the file, and returns where it lies."""
        path = Path(path)
        path.write_text(self.html, "utf-8")
        return path

    def _repr_html_(self) -> str:
        return (
            f'<iframe title="{html.escape(self.title)}" srcdoc="{html.escape(self.html)}" '
            'style="width:100%;height:56rem;border:0"></iframe>'
        )


FOOT = (
    "Made by funcprop explain from a real pass: every layer's forward and hand-written backward, "
    "collected by fp.collect(model, fp.collectors.trace)."
)
