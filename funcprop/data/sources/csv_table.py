"""Rows of a CSV file, found by an index of where they begin.

The file is gone through once: where every sixteenth row begins is kept, and that every row has as
many fields as the header. What stands in the fields is looked at when a row is read.
"""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import Source, fingerprint
from funcprop.data.sources.columns import Columns
from funcprop.data.sources.files import Mapped

EVERY = 16  # rows from one place that is kept to the next
PIECE = 2**22  # bytes that are looked at together
NEWLINE, QUOTE = b"\n"[0], b'"'[0]


class Csv(Source):
    """Rows of a mapped CSV file, as (x, y)."""

    def __init__(self, name: str, file: Path, separator: str, **chosen: Any) -> None:
        self.name = name
        if len(separator) != 1 or ord(separator) > 127 or separator in '"\n\r':
            raise DataError(f"{name}: separator is {separator!r}, wanted one character: ',' or ';'")
        self._separator = separator
        if not file.stat().st_size:
            raise DataError(f"{name} is empty: wanted a line of column names, and rows below it")
        data = np.memmap(file, np.uint8, "r")
        end = _end(data)
        self._n, self._places = _index(name, file, end, separator)
        self._mapped = Mapped(data, EVERY * end // self._n)
        self._places = np.append(self._places, end)
        header = self._rows(0)[0]
        header[0] = header[0].removeprefix("\ufeff")
        header = [field.strip() for field in header]
        self._check_header(header)
        if self._n < 2:
            raise DataError(f"{name} has column names and no rows: give at least one example")
        self._columns = Columns(name, header, **chosen)
        self._header = header
        self.classes, self.labels = self._columns.classes, self._columns.labels
        ends = np.unique(np.linspace(0, len(self) - 1, 16).astype(np.int64))
        self.fingerprint = fingerprint(f"{self._n} {end} {self._columns}", *self.read(ends))

    def __len__(self) -> int:
        return self._n - 1

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        pieces: dict[int, list[list[str]]] = {}
        rows = []
        for k in i + 1:  # row 0 is the header
            piece, place = divmod(int(k), EVERY)
            if piece not in pieces:
                pieces[piece] = self._rows(piece)
            rows.append(pieces[piece][place])
        table = dict(zip(self._header, zip(*rows, strict=True), strict=True))
        return self._columns.pair(table, i)

    def _rows(self, piece: int) -> list[list[str]]:
        """The fields of rows 16 piece to 16 piece + 15."""
        raw = self._mapped.piece(int(self._places[piece]), int(self._places[piece + 1]))
        where = f"{self.name}: rows {EVERY * piece} to {EVERY * piece + EVERY - 1}"
        try:
            text = io.StringIO(raw.decode("utf-8"), newline="")
            rows = list(csv.reader(text, delimiter=self._separator, strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise DataError(f"{where} cannot be read ({error}): write the file again") from error
        if len(rows) != min(EVERY, self._n - EVERY * piece) or len({len(r) for r in rows}) != 1:
            raise DataError(
                f"{where} are not what they were when the file was opened, or a quote stands in "
                "the middle of a field: open it again, or write it again"
            )
        return rows

    def _check_header(self, header: list[str]) -> None:
        others = [c for c in ";\t|," if c != self._separator and c in header[0]]
        if len(header) == 1 and others:
            raise DataError(
                f"{self.name} has one column {header[0]!r}: write "
                f"open('{self.name}', separator={others[0]!r})"
            )
        if all(_is_number(field) for field in header):
            raise DataError(
                f"{self.name} begins with numbers ({', '.join(header[:3])}), wanted column names: "
                "write a first line with them"
            )


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return not field
    return True


def _end(data: np.ndarray) -> int:
    """Where the last row ends: empty lines behind it are none."""
    end = len(data)
    while end and data[end - 1] in b"\r\n":
        end -= 1
    return end


def _ends(file: Path, end: int, separator: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Piece by piece: where rows end in the file, and how many separators are before each end.

    What stands between quotes is neither.
    """
    quoted, before = 0, 0
    for start in range(0, end, PIECE):
        piece = np.fromfile(file, np.uint8, min(PIECE, end - start), offset=start)
        newline, between, quotes = (
            np.flatnonzero(piece == each) for each in (NEWLINE, ord(separator), QUOTE)
        )
        if quoted or len(quotes):
            newline, between = (
                places[(np.searchsorted(quotes, places) + quoted) % 2 == 0]
                for places in (newline, between)
            )
            quoted = (quoted + len(quotes)) % 2
        yield start + newline, before + np.searchsorted(between, newline)
        before += len(between)
    yield np.array([end]), np.array([before])  # the last row has no newline


def _index(name: str, file: Path, end: int, separator: str) -> tuple[int, np.ndarray]:
    """-> how many rows there are, and where each sixteenth begins."""
    if not end:
        raise DataError(f"{name} holds empty lines only: wanted column names and rows below them")
    n, last, fields = 0, 0, -1
    begin: list[np.ndarray] = [np.zeros(1, np.int64)]
    for ends, counts in _ends(file, end, separator):
        here = np.diff(counts, prepend=last)
        if not len(ends):
            continue
        fields = int(here[0]) if fields < 0 else fields
        if (here != fields).any():
            k = int(np.argmax(here != fields))
            raise DataError(
                f"{name}: row {n + k} has {here[k] + 1} fields, and the header {fields + 1}: give "
                "each row as many, and quote fields with a separator in them"
            )
        starts = ends + 1  # of the rows n + 1, n + 2, ...
        begin.append(starts[(n + 1 + np.arange(len(starts))) % EVERY == 0])
        n, last = n + len(ends), int(counts[-1])
    places = np.concatenate(begin)
    return n, places[places < end]
