"""A model as nested lists in HTML, for notebooks: composites can be folded."""

from __future__ import annotations

from html import escape
from typing import Any

from funcprop.sheets import html


def nested(layer: Any) -> str:
    """A layer, and the layers in it; `layers` of a composite are its children."""
    return html.part([_entry(layer, "")])


def _entry(layer: Any, place: str) -> str:
    children = getattr(layer, "layers", ())
    if not children:
        return f"<div>{place}<code>{escape(repr(layer))}</code></div>"
    inner = "".join(_entry(child, f"[{i}] ") for i, child in enumerate(children))
    name = escape(type(layer).__name__)
    body = f'<div style="margin-left: 1.5em">{inner}</div>'
    return f"<details open><summary>{place}<code>{name}</code></summary>{body}</details>"
