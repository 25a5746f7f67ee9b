"""Examples as records of an array_record file: any of them is found at once, and checked.

Record 0 is JSON: {"records": 1, "arrays": [["|u1", [28, 28, 1]], ["<i4", []]], "labels": []}, the
dtype and shape of each array of an example. Every other record is one example: the bytes of its
arrays in that order, one behind the other, little-endian, the last axis fastest.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import Source, fingerprint, settled
from funcprop.data.sources.files import existing, names
from funcprop.extras import require

VERSION = 1


def write_records(
    path: str | Path, batches: Iterable[Any], labels: str | Iterable[str] = ()
) -> int:
    """Writes batches of examples into a file of records -> how many examples.

    path     where to; the file is there as a whole or not at all
    batches  tuples of arrays [k, ...], of any k, alike otherwise: [(x, y)], or what
             `stream(..., epochs=1, shuffle=False, drop_last=False, device=False)` gives
    labels   what the classes are called, in their order

    Each array is stored as float32, uint8 or int32; each record is compressed by itself.

    raises  DataError for no batch, batches of different arrays, and values that are not finite;
            ModuleNotFoundError without array_record

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "train.records")
    ...     n = fp.data.write_records(file, [(np.eye(3, dtype=np.float32), np.arange(3))])
    ...     x, y = fp.data.open(f"records:{file}")[2]
    >>> n, x.tolist(), int(y)
    (3, [0.0, 0.0, 1.0], 2)
    """
    where, target = f"records:{path}", Path(path)
    module = require("array_record.python.array_record_module", "data")
    known = names(where, "labels", labels) if labels else []
    part = target.with_name(f"{target.name}.part")
    schema, count = None, 0
    if not target.parent.is_dir():
        raise DataError(f"{where}: the folder {target.parent} does not exist: make it first")
    writer = module.ArrayRecordWriter(str(part), "group_size:1")
    try:
        for batch in batches:
            rows = _rows(where, batch)
            found = [[a.dtype.newbyteorder("<").str, list(a.shape[1:])] for a in rows]
            if schema is None:
                schema = found
                about = {"records": VERSION, "arrays": schema, "labels": known}
                writer.write(json.dumps(about).encode())
            if found != schema:
                raise DataError(
                    f"{where}: the batch after {count} examples has arrays {found}, and the first "
                    f"{schema}: all are alike but for their number"
                )
            for row in _packed(rows, schema):
                writer.write(row.tobytes())
            count += len(rows[0])
        if count == 0:
            raise DataError(f"{where}: there are no examples to write: give [(x, y)]")
        writer.close()
        os.replace(part, target)
    finally:
        if writer.is_open():
            writer.close()
        part.unlink(missing_ok=True)
    return count


def open_records(path: str | Path) -> Source:
    """Examples of a file that `write_records` wrote: tuples of arrays as they were written.

    A record is read when it is asked for, and its checksum is compared. Of files that were written
    by others, grain makes a source: `grain.MapDataset.source(...)` with a `map` to tuples of
    arrays is what `stream` takes as well.

    raises  DataError for a file that is none, or damaged; ModuleNotFoundError without array_record

    >>> import os
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> try:
    ...     fp.data.open(f"records:{os.devnull}")
    ... except fp.data.DataError as error:
    ...     print(str(error).split(":")[1])
    /dev/null is no file
    """
    return Records(path)


class Records(Source):
    """Records 1..n of a file."""

    def __init__(self, path: str | Path) -> None:
        self.name = f"records:{path}"
        module = require("array_record.python.array_record_module", "data")
        file = existing("records", path)
        try:
            # no reading ahead: rows are asked for in any order
            self._reader = module.ArrayRecordReader(str(file), "readahead_buffer_size:0")
            count = self._reader.num_records()
        except RuntimeError as error:
            raise self._damaged(error) from error
        if count == 0 or not self._reader.ok():
            raise DataError(f"{self.name} is empty or truncated: write it again, or copy it again")
        self._n = count - 1
        schema, labels = self._read_schema()
        fields = [(str(k), dtype, tuple(shape)) for k, (dtype, shape) in enumerate(schema)]
        self._dtype = np.dtype(fields)
        self.labels = tuple(labels)
        self.classes = len(labels) or None
        if self._n == 0:
            raise DataError(f"{self.name} holds no examples: write some")
        ends = self._raw(np.unique(np.linspace(0, self._n - 1, min(self._n, 16)).astype(np.int64)))
        self.fingerprint = fingerprint(str(self._n), json.dumps(schema), *ends)

    def __len__(self) -> int:
        return self._n

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        raw = self._raw(i)
        size = self._dtype.itemsize
        for k, record in zip(i, raw, strict=True):
            if len(record) != size:
                raise DataError(
                    f"{self.name}: example {k} has {len(record)} bytes, wanted {size}: write the "
                    "file with fp.data.write_records"
                )
        rows = np.frombuffer(b"".join(raw), self._dtype)
        return tuple(
            settled(self.name, np.ascontiguousarray(rows[name]), i)
            for name in self._dtype.names or ()
        )

    def _raw(self, i: np.ndarray) -> list[bytes]:
        try:
            return self._reader.read([int(k) + 1 for k in i])
        except RuntimeError as error:
            raise self._damaged(error) from error

    def _read_schema(self) -> tuple[list[Any], list[str]]:
        try:
            about = json.loads(self._reader.read([0])[0])
            version, schema, labels = about["records"], about["arrays"], about["labels"]
        except RuntimeError as error:
            raise self._damaged(error) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.name} was written by something else: write it with "
                "fp.data.write_records, or give stream a grain.MapDataset of it"
            ) from error
        if version != VERSION:
            raise DataError(f"{self.name} is of version {version}, and this reads {VERSION} only")
        return schema, labels

    def _damaged(self, error: RuntimeError) -> DataError:
        return DataError(f"{self.name} is damaged ({error}): copy it again, or write it again")


def _rows(where: str, batch: Any) -> tuple[np.ndarray, ...]:
    if not isinstance(batch, (tuple, list)) or not batch:
        raise DataError(
            f"{where}: a batch is a {type(batch).__name__}, wanted a tuple of arrays: [(x, y)]"
        )
    rows = tuple(settled(where, np.asarray(array)) for array in batch)
    sizes = {len(array) if array.ndim else None for array in rows}
    if len(sizes) != 1 or None in sizes:
        shapes = ", ".join(str(list(array.shape)) for array in rows)
        raise DataError(f"{where}: a batch of {shapes}, wanted arrays [k, ...] of one length")
    return rows


def _packed(rows: tuple[np.ndarray, ...], schema: list[Any]) -> np.ndarray:
    """[k] of structures, each the arrays of one example side by side."""
    fields = [(str(k), dtype, tuple(shape)) for k, (dtype, shape) in enumerate(schema)]
    packed = np.empty(len(rows[0]), np.dtype(fields))
    for k, array in enumerate(rows):
        packed[str(k)] = array
    return packed
