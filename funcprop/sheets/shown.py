"""Shown: what prints itself as its sheet, and shows itself as HTML in a notebook."""

from __future__ import annotations

from html import escape

from funcprop.sheets import html
from funcprop.sheets.sheet import Sheet


class Shown:
    """A value with a `sheet`: text where it is printed, a table with its notes in a notebook.

    A dataclass says `repr=False`, since it would make a `__repr__` of its own.
    """

    @property
    def sheet(self) -> Sheet:
        """The table in words."""
        raise NotImplementedError(f"{type(self).__name__} does not define sheet")

    def __str__(self) -> str:
        return str(self.sheet)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        sheet = self.sheet
        return html.part([f"<p>{escape(sheet.title)}</p>", html.rows_and_notes(sheet)])
