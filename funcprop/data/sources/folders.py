"""Data sets of Hugging Face's `datasets`, as `save_to_disk` leaves them in a folder."""

from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import Source, fingerprint, settled, stacked
from funcprop.data.sources.files import existing, names
from funcprop.extras import require

TARGETS = ("label", "labels", "target")


def open_datasets(
    path: str | Path,
    split: str | None = None,
    features: str | None = None,
    target: str | None = None,
) -> Source:
    """(x, y): the column `features` and the column `target` of a data set on disk.

    path      a folder that `save_to_disk` wrote
    split     which part, where it holds several: "train"
    features  the column of x: images (uint8 [H, W, C]), numbers or arrays of one shape. None: the
              only one beside the target
    target    the column of y. None: label, labels or target

    The files are mapped into memory by `datasets`, and rows are read when they are asked for.

    raises  DataError for a folder that is none, columns that do not exist or have gaps, and, when
            they are read, rows that are not alike; ModuleNotFoundError without datasets

    >>> import os
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> try:
    ...     fp.data.open(f"datasets:{os.devnull}")
    ... except fp.data.DataError as error:
    ...     print(str(error).split(":")[1])
    /dev/null is no folder
    """
    return Folder(path, split, features, target)


class Folder(Source):
    """Two columns of a data set on disk."""

    def __init__(
        self, path: str | Path, split: str | None, features: str | None, target: str | None
    ) -> None:
        self.name = f"datasets:{path}"
        folder = existing("datasets", path, folder=True)
        library = require("datasets", "data")
        try:
            found = library.load_from_disk(str(folder))
        except Exception as error:  # of many kinds, as the folder may hold anything
            raise DataError(
                f"{self.name} cannot be read ({type(error).__name__}: {error}): write it with "
                "save_to_disk"
            ) from error
        data = self._part(library, found, split)
        if len(data) == 0:
            raise DataError(f"{self.name} has no rows: choose another split")
        self._columns = self._chosen(data.column_names, features, target)
        gaps = {name: data.data.column(name).null_count for name in self._columns}
        for name, count in gaps.items():
            if count:
                raise DataError(
                    f"{self.name}: the column {name} has {count} gaps: fill them in, or filter "
                    "those rows"
                )
        self._kinds = [data.features[name] for name in self._columns]
        label = getattr(self._kinds[1], "names", None)
        if label:
            self.labels, self.classes = tuple(label), len(label)
        self._data = data.with_format("numpy", columns=self._columns)
        ends = np.unique(np.linspace(0, len(data) - 1, min(len(data), 16)).astype(np.int64))
        kinds = f"{len(data)} {self._columns} {self._kinds}"
        self.fingerprint = fingerprint(kinds, *self.read(ends))

    def __len__(self) -> int:
        return len(self._data)

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            found = self._data[[int(k) for k in i]]
        except Exception as error:  # an image that is damaged, a file that is truncated
            raise DataError(
                f"{self.name}: examples {i.min()} to {i.max()} cannot be read "
                f"({type(error).__name__}: {error}): write the folder again"
            ) from error
        return tuple(
            self._column(name, kind, found[name], i)
            for name, kind in zip(self._columns, self._kinds, strict=True)
        )

    def _column(self, name: str, kind: Any, values: Any, i: np.ndarray) -> np.ndarray:
        where = f"{self.name}: {name}"
        if not isinstance(values, np.ndarray) or values.dtype.kind == "O":  # not alike
            values = stacked(where, [np.asarray(v) for v in values], lambda k: f"example {i[k]}")
        if values.dtype == np.int64 and _is_bytes(kind):  # datasets widens integers
            values = values.astype(np.uint8)
        found = settled(where, values, i)
        if name == self._columns[1] and self.classes is not None:
            outside = (found < 0) | (found >= self.classes)
            if outside.any():
                first = int(np.argmax(outside))
                raise DataError(
                    f"{where} of example {i[first]} is {found[first]}, wanted 0 to "
                    f"{self.classes - 1}: examples without a class cannot be trained on"
                )
        return found

    def _part(self, library: Any, found: Any, split: str | None) -> Any:
        if isinstance(found, library.DatasetDict):
            if split not in found:
                raise DataError(
                    f"{self.name} has the splits {', '.join(found)}: write "
                    f"open('{self.name}', split='{next(iter(found), 'train')}')"
                )
            return found[split]
        if split is not None:
            raise DataError(f"{self.name} has no splits, got split={split!r}: leave it out")
        return found

    def _chosen(self, columns: list[str], features: Any, target: Any) -> list[str]:
        near = [name for name in TARGETS if name in columns]
        y = target or (near[0] if len(near) == 1 else None)
        rest = [name for name in columns if name != y]
        x = features or (rest[0] if len(rest) == 1 and y is not None else None)
        if x is None or y is None:
            raise DataError(
                f"{self.name} has the columns {', '.join(columns)}: write "
                f"open('{self.name}', features='{x or rest[0]}', target='{y or columns[-1]}')"
            )
        chosen = names(self.name, "features and target", [x, y])
        for name in chosen:
            if name not in columns:
                raise DataError(
                    f"{self.name} has no column {name!r}: wanted one of {', '.join(columns)}"
                )
        return chosen


def _is_bytes(kind: Any) -> bool:
    """Whether a column's values, at whatever depth, are uint8."""
    while hasattr(kind, "feature"):
        kind = kind.feature
    return getattr(kind, "dtype", None) == "uint8"
