"""A text as numbers in a file that is mapped into memory: windows, each with what follows it."""

from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import Source, fingerprint, whole
from funcprop.data.sources.files import Mapped, existing

LENGTH = 128
DTYPES = ("uint8", "uint16", "uint32")
LARGEST = 2**31  # tokens are int32 in a batch


def open_tokens(
    path: str | Path, length: int = LENGTH, dtype: str | None = None, vocabulary: int | None = None
) -> Source:
    """x [T] int32, a window of a text, and y [T] int32, the token that follows each of them.

    path        .npy of any integers [n]; any other file is nothing but tokens, little-endian,
                as `np.asarray(ids, "<u2").tofile(path)` writes it
    length      T. The windows stand side by side: (n − 1) // T of them
    dtype       of a file that is no .npy: uint8 (any text is a file of such tokens), uint16 or
                uint32
    vocabulary  V: a token that is not below V raises, when it is read; None: any below 2³¹

    The file is mapped into memory, and pages that were read are given back.

    raises  DataError for a file that is none of tokens, or too short, and for other options

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "train.bin")
    ...     np.arange(10, 20, dtype="<u2").tofile(file)
    ...     x, y = fp.data.open(f"tokens:{file}", dtype="uint16", length=4)[1]
    >>> x.tolist(), y.tolist()
    ([14, 15, 16, 17], [15, 16, 17, 18])
    """
    return Tokens(path, length, dtype, vocabulary)


class Tokens(Source):
    """Windows of a mapped file."""

    def __init__(
        self, path: str | Path, length: int, dtype: str | None, vocabulary: int | None
    ) -> None:
        self.name = f"tokens:{path}"
        t = self.length = whole(self.name, "length", length)
        if vocabulary is not None:
            self.classes = whole(self.name, "vocabulary", vocabulary)
        file = existing("tokens", path)
        array = _mapped_npy(self.name, file, dtype) if file.suffix == ".npy" else None
        array = _mapped(self.name, file, dtype) if array is None else array
        if len(array) < t + 1:
            raise DataError(
                f"{self.name} has {len(array)} tokens, wanted at least {t + 1}: a window of {t} "
                "and one to predict; give a longer text or a shorter length"
            )
        self._mapped = Mapped(array, (t + 1) * array.itemsize)
        windows = np.lib.stride_tricks.sliding_window_view(array, t + 1)
        self._windows = windows[: (len(array) - 1) // t * t : t]
        self._limit = min(self.classes or LARGEST, LARGEST)
        places = np.unique(np.linspace(0, len(self._windows) - 1, 64).astype(np.int64))
        sample = self._windows[places]
        self._check(sample, places)
        self.fingerprint = fingerprint(f"{array.dtype.str}[{len(array)}] in {t}", sample)

    def __len__(self) -> int:
        return len(self._windows)

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        found = self._mapped.rows(self._windows, i)
        self._check(found, i)
        tokens = found.astype(np.int32)
        return tokens[:, :-1], tokens[:, 1:]

    def _check(self, found: np.ndarray, i: np.ndarray) -> None:
        low, high = int(found.min()), int(found.max())
        if low >= 0 and high < self._limit:
            return
        row, column = np.argwhere((found < 0) | (found >= self._limit))[0]
        raise DataError(
            f"{self.name}: token {int(i[row]) * self.length + int(column)} is "
            f"{found[row, column]}, wanted 0 to {self._limit - 1}: give vocabulary= as the number "
            "of different tokens, and the dtype that the file was written with"
        )


def _mapped(where: str, file: Path, dtype: Any) -> np.memmap:
    if dtype is None:
        raise DataError(
            f"{where}: nothing in the file says what its numbers are: write "
            f"open('{where}', dtype='uint16'), or {', '.join(DTYPES[::2])}"
        )
    kind = getattr(dtype, "__name__", str(dtype))
    if kind not in DTYPES:
        raise DataError(f"{where}: dtype is {kind}, wanted {', '.join(DTYPES)}")
    size, item = file.stat().st_size, np.dtype(kind).itemsize
    if size % item or not size:
        raise DataError(
            f"{where} has {size} bytes, which are no whole number of {kind} ({item} bytes each): "
            "the file is truncated, or of another dtype"
        )
    return np.memmap(file, np.dtype(kind).newbyteorder("<"), "r")


def _mapped_npy(where: str, file: Path, dtype: Any) -> np.memmap:
    if dtype is not None:
        raise DataError(f"{where}: dtype is {dtype}, and an .npy says it itself: leave it out")
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # of many kinds, as the file may hold anything
        raise DataError(
            f"{where} cannot be read ({error}): write it with np.save(path, ids)"
        ) from error
    if not isinstance(array, np.memmap) or array.ndim != 1 or array.dtype.kind not in "iu":
        kind = (
            f"{getattr(array, 'dtype', type(array).__name__)} {list(getattr(array, 'shape', []))}"
        )
        raise DataError(
            f"{where} holds {kind}, wanted integers [n], one token behind the other: write "
            "np.save(path, ids.ravel())"
        )
    return array
