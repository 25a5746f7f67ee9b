"""Rows of a Parquet file, by row groups: a group is decoded as a whole, and kept for a while."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import Source, fingerprint
from funcprop.data.sources.columns import Columns
from funcprop.data.sources.files import HELD
from funcprop.extras import require


class Parquet(Source):
    """Rows of a Parquet file, as (x, y): its row groups are the blocks of the order."""

    def __init__(self, name: str, file: Path, **chosen: Any) -> None:
        self.name = name
        self._arrow = require("pyarrow", "data")
        try:
            self._file = require("pyarrow.parquet", "data").ParquetFile(
                file, memory_map=True, page_checksum_verification=True
            )
        except (OSError, self._arrow.ArrowException) as error:
            raise DataError(f"{name} cannot be read ({error}): write it again") from error
        schema, about = self._file.schema_arrow, self._file.metadata
        if about.num_rows == 0:
            raise DataError(f"{name} has no rows: give at least one example")
        self._columns = Columns(name, schema.names, **chosen)
        self.classes, self.labels = self._columns.classes, self._columns.labels
        self._names = [*self._columns.features, *self._columns.target]
        self._check_kinds(schema)
        sizes = [about.row_group(k).num_rows for k in range(about.num_row_groups)]
        self.blocks = np.concatenate([[0], np.cumsum(sizes)])
        # two windows are in use where a batch lies across their border
        self.window = max(1, HELD // (2 * 4 * len(self._names) * max(sizes)))
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        self._lock = threading.Lock()
        ends = sorted({0, len(sizes) - 1} - {k for k, size in enumerate(sizes) if not size})
        parts = [array[[0, -1]] for k in ends for array in self._group(k)]
        self.fingerprint = fingerprint(f"{sizes} {self._columns}", *parts)

    def __len__(self) -> int:
        assert self.blocks is not None
        return int(self.blocks[-1])

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        assert self.blocks is not None
        group = np.searchsorted(self.blocks, i, "right") - 1
        x: np.ndarray | None = None
        y: np.ndarray | None = None
        for k in np.unique(group):
            here = group == k
            xs, ys = self._group(int(k))
            if x is None or y is None:
                x = np.empty((len(i), *xs.shape[1:]), xs.dtype)
                y = np.empty((len(i), *ys.shape[1:]), ys.dtype)
            rows = i[here] - self.blocks[k]
            x[here], y[here] = xs[rows], ys[rows]
        assert x is not None and y is not None
        return x, y

    def _group(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        with self._lock:  # threads that read ahead want the same group
            if k not in self._kept:
                while len(self._kept) >= 2 * self.window:
                    self._kept.pop(next(iter(self._kept)))
                self._kept[k] = self._decoded(k)
            else:
                self._kept[k] = self._kept.pop(k)  # the one used last goes last
            return self._kept[k]

    def _decoded(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        assert self.blocks is not None
        try:
            table = self._file.read_row_group(k, columns=self._names)
        except (OSError, self._arrow.ArrowException) as error:
            raise DataError(
                f"{self.name}: row group {k} cannot be read ({error}): write the file again"
            ) from error
        rows = np.arange(self.blocks[k], self.blocks[k + 1])
        values = {}
        for name in self._names:
            column = table.column(name)
            if column.null_count:
                first = rows[int(np.argmax(column.is_null().to_numpy()))]
                raise DataError(
                    f"{self.name}: {name} has {column.null_count} gaps, the first in example "
                    f"{first}: fill them in, or drop those examples"
                )
            values[name] = column.to_numpy()
        return self._columns.pair(values, rows)

    def _check_kinds(self, schema: Any) -> None:
        kinds = self._arrow.types
        for name in self._names:
            kind = schema.field(name).type
            number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind)
            if not number and not (self.labels and name in self._columns.target):
                hint = (
                    ", or name its classes by labels='a,b'"
                    if name not in (self._columns.features)
                    else ""
                )
                raise DataError(
                    f"{self.name}: the column {name} is of {kind}, wanted numbers: leave it out by "
                    f"features=, or convert it{hint}"
                )
