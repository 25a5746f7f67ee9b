"""Files and folders that have to be there, and options that are lists of names."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError

# What a process holds of a file that it maps. Pages beyond that are given back to the system,
# which keeps them as long as it has room; without it they would count as this process's memory.
HELD = 256 * 2**20
PAGES = 16 * 4096  # a page that is touched brings its neighbors


def existing(kind: str, path: str | Path, folder: bool = False) -> Path:
    """The path, if there is a file (or folder) there."""
    found = Path(path)
    what = "folder" if folder else "file"
    if not (found.is_dir() if folder else found.is_file()):
        problem = f"is no {what}" if found.exists() else "does not exist"
        raise DataError(f"{kind}:{path} {problem}: write {kind}:PATH with the path of a {what}")
    return found


def names(where: str, option: str, value: Any) -> list[str]:
    """An option that is several names: "a,b", or a list of them."""
    parts = value.split(",") if isinstance(value, str) else value
    try:
        found = [each.strip() for each in parts]
    except (TypeError, AttributeError):
        raise DataError(f"{where}: {option} is {value!r}, wanted names: 'a,b'") from None
    if not all(found) or len(set(found)) != len(found) or not found:
        raise DataError(f"{where}: {option} is {value!r}, wanted different names: 'a,b'")
    return found


class Mapped:
    """An array of a file, of which only what is read is in memory, and not for long.

    piece  bytes of what is read at a time
    """

    def __init__(self, array: np.memmap, piece: int) -> None:
        self.array = array
        self._touched = 0
        if piece <= PAGES:  # else a disk is asked for 128 KiB at every small piece of a shuffle
            self._advise("MADV_RANDOM")

    def rows(self, view: np.ndarray, i: np.ndarray) -> np.ndarray:
        """view[i], a copy; `view` is of this array."""
        found = view[i]
        self._forget(len(i) * (PAGES + found[:1].nbytes))
        return found

    def piece(self, start: int, stop: int) -> bytes:
        """The bytes of array[start:stop]."""
        self._forget(PAGES + stop - start)
        return self.array[start:stop].tobytes()

    def _forget(self, touched: int) -> None:
        """Gives the pages back once they are many; they come again when they are read."""
        self._touched += touched
        if self._touched > HELD:
            self._touched = 0
            self._advise("MADV_DONTNEED")

    def _advise(self, name: str) -> None:
        mapped, advice = getattr(self.array, "_mmap", None), getattr(mmap, name, None)
        if mapped is not None and advice is not None:  # not every system has it
            mapped.madvise(advice)
