"""Arrays of an .npz: mapped into memory where they are stored as they are."""

import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import Arrays, Source, settled
from funcprop.data.sources.files import HELD, Mapped, existing, names

LOCAL = struct.Struct("<26xHH")  # of a member's own header: the lengths of its name and extras


def open_npz(path: str | Path, members: str | list[str] = "x,y") -> Source:
    """The arrays of a file that `np.savez` wrote, one example a row.

    members  their names, in the order of a batch: "x,y", or "x_train,y_train"

    An array of np.savez is mapped into memory, and rows are read when they are asked for. One of
    np.savez_compressed can only be unpacked as a whole: it is then in memory, and a warning says
    so where it is larger than 256 MiB.

    raises  DataError for a file that is none or damaged, members that are missing or of different
            length, and, when they are read, values that are not finite

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = pathlib.Path(folder, "train.npz")
    ...     np.savez(file, x=np.zeros((5, 2), np.float32), y=np.arange(5))
    ...     fp.data.open(f"npz:{file}").read(np.array([3, 1]))[1].tolist()
    [3, 1]
    """
    return Npz(path, members)


class Npz(Arrays):
    """Members of an .npz."""

    def __init__(self, path: str | Path, members: str | list[str]) -> None:
        where, file = f"npz:{path}", existing("npz", path)
        wanted = names(where, "members", members)
        try:
            with zipfile.ZipFile(file) as archive:
                known = {name.removesuffix(".npy"): name for name in archive.namelist()}
                missing = [name for name in wanted if name not in known]
                if missing:
                    raise DataError(
                        f"{where} has no member {missing[0]!r}: write members='x,y' with two of "
                        f"{', '.join(known) or 'none, it is empty'}"
                    )
                arrays = [_member(where, archive, file, known[name]) for name in wanted]
        except DataError:
            raise
        except Exception as error:  # of many kinds, as the file may hold anything
            raise DataError(
                f"{where} cannot be read ({error}): write it with np.savez(path, x=x, y=y)"
            ) from error
        super().__init__(tuple(arrays), where)
        self._mapped = [
            Mapped(a, a.nbytes // len(a)) if isinstance(a, np.memmap) else None for a in self.arrays
        ]

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        found = []
        for k, (array, mapped) in enumerate(zip(self.arrays, self._mapped, strict=True)):
            rows = array[i] if mapped is None else mapped.rows(array, i)
            found.append(settled(f"{self.name}[{k}]", rows, i))
        return tuple(found)


def _member(where: str, archive: zipfile.ZipFile, file: Path, member: str) -> np.ndarray:
    entry = archive.getinfo(member)
    with archive.open(entry) as opened:
        version = np.lib.format.read_magic(opened)
        read = getattr(np.lib.format, f"read_array_header_{version[0]}_{version[1]}")
        shape, fortran, dtype = read(opened)
        header = opened.tell()
    if dtype.hasobject:
        raise DataError(f"{where}: {member} is of {dtype}, wanted numbers: convert it to an array")
    if entry.compress_type == zipfile.ZIP_STORED and shape:
        with file.open("rb") as raw:
            raw.seek(entry.header_offset)
            lengths = LOCAL.unpack(raw.read(LOCAL.size))
        start = entry.header_offset + LOCAL.size + sum(lengths) + header
        if entry.file_size != header + dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise DataError(f"{where}: {member} is truncated: write the file again")
        if 0 not in shape:
            order = "F" if fortran else "C"
            return np.memmap(file, dtype, "r", start, shape, order)
    if entry.file_size > HELD:
        warnings.warn(
            f"{where}: {member} is compressed, so that all {entry.file_size >> 20} MiB of it are "
            "in memory: write it with np.savez instead of np.savez_compressed",
            stacklevel=6,
        )
    with archive.open(entry) as opened:
        return np.lib.format.read_array(opened, allow_pickle=False)
