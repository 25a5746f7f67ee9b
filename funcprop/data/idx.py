"""IDX files, and the image sets that come as four of them: MNIST, Fashion-MNIST, KMNIST, EMNIST.

An IDX file is a header and an array, both big-endian:

    bytes 0, 1        zero
    byte 2            dtype: 08 uint8, 09 int8, 0B int16, 0C int32, 0D float32, 0E float64
    byte 3            rank
    4 bytes an axis   uint32, its length
    the rest          the values, the last axis fastest
"""

import gzip
import math
import zlib
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import NamedTuple

import numpy as np

from funcprop.data.dataset import DataError, Dataset, Examples

DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


class Source(NamedTuple):
    """How an image set lies in its four files."""

    train: str  # how the names of the files begin
    test: str
    labels: tuple[str, ...]  # what the classes are called
    first: int = 0  # the number the files give to the first class
    transposed: bool = False  # pixels stored column by column


def _emnist(split: str, labels: str, first: int = 0) -> Source:
    return Source(f"emnist-{split}-train", f"emnist-{split}-test", tuple(labels), first, True)


# Fifteen lower-case letters look like their capitals: EMNIST merges them and keeps these.
MERGED = digits + ascii_uppercase + "abdefghnqrt"
FASHION = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"

SOURCES = {
    "mnist": Source("train", "t10k", tuple(digits)),
    "fashion-mnist": Source("train", "t10k", tuple(FASHION.split(","))),
    "kmnist": Source("train", "t10k", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "emnist": _emnist("balanced", MERGED),
    "emnist-balanced": _emnist("balanced", MERGED),
    "emnist-bymerge": _emnist("bymerge", MERGED),
    "emnist-byclass": _emnist("byclass", digits + ascii_uppercase + ascii_lowercase),
    "emnist-letters": _emnist("letters", ascii_uppercase, first=1),
    "emnist-digits": _emnist("digits", digits),
    "emnist-mnist": _emnist("mnist", digits),
}


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file, plain or gzipped, of any dtype and rank; native byte order.

    path   a file: uint8, int8, int16, int32, float32 or float64, as its header says

    Gzip is told from the content, because downloads lose or keep `.gz` as they please.

    raises  DataError, naming the file, where it is missing, corrupt, truncated or no IDX file
    source  the format: LeCun, Cortes, Burges, The MNIST database of handwritten digits

    >>> import pathlib, tempfile
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "labels")
    ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     array = fp.data.read_idx(path)  # uint8, one axis, three long
    >>> array.tolist(), array.dtype
    ([7, 2, 1], dtype('uint8'))
    """
    data = _read_bytes(Path(path))
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in DTYPES:
        raise DataError(
            f"{path} is not an IDX file: it begins with {data[:4]!r}, wanted two zero bytes, a "
            "dtype (08, 09, 0B to 0E) and the rank: download the file itself, not its web page"
        )
    dtype, rank = np.dtype(DTYPES[data[2]]), data[3]
    start = 4 + 4 * rank
    if len(data) < start:
        raise DataError(
            f"{path} is truncated: {len(data)} bytes, and {rank} axes need a header of {start}: "
            "download it again"
        )
    shape = tuple(int(length) for length in np.frombuffer(data[4:start], ">u4"))
    wanted = start + dtype.itemsize * math.prod(shape)
    if len(data) != wanted:
        state = "truncated" if len(data) < wanted else "too long"
        raise DataError(
            f"{path} is {state}: {len(data)} bytes, and its header {list(shape)} of {dtype.name} "
            f"means {wanted}: download it again"
        )
    try:
        values = np.frombuffer(data, dtype, offset=start).reshape(shape)
    except ValueError as error:  # more than 64 axes, or an empty array of absurd axes
        raise DataError(
            f"{path} has an impossible shape of {rank} axes ({error}): download it again"
        ) from error
    return values.astype(dtype.newbyteorder("="), copy=False)


def load_idx_folder(folder: str | Path | None, name: str, validation: bool = False) -> Dataset:
    """An image set from the folder that holds its four IDX files, plain or gzipped.

    folder      where they lie
    name        one of SOURCES: mnist, fashion-mnist, kmnist, emnist (its split `balanced`) or
                emnist-SPLIT. The first three have the same file names, so that only the folder
                tells them apart.
    validation  False: train is the whole training set (60,000 for MNIST), validation is None.
                True: validation is the last part of the training set, as long as the test set,
                and train is what comes before it (MNIST: 50,000 / 10,000 / 10,000).

    Images are [n, height, width, 1] uint8, as stored, labels [n] int32: a model that begins with
    `Pixels` reads them as numbers in [0, 1], and moves a quarter of the memory of float32. EMNIST
    stores its images transposed and numbers its letters from 1: here they stand upright and count
    from 0.

    raises  DataError, naming the file, for whatever keeps the four files from being such a set
    source  Fashion-MNIST: Xiao et al. 2017, arXiv:1708.07747; KMNIST: Clanuwat et al. 2018,
            arXiv:1812.01718; EMNIST: Cohen et al. 2017, arXiv:1702.05373

    >>> import pathlib, tempfile
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> def write(name, header, size):  # an IDX file of zeros
    ...     return pathlib.Path(folder, name).write_bytes(bytes(header) + bytes(size))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for part, n in (("train", 3), ("t10k", 2)):  # n images of 2 × 2, of the digit 0
    ...         images = [0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 2, 0, 0, 0, 2]
    ...         _ = write(f"{part}-images-idx3-ubyte", images, 4 * n)
    ...         _ = write(f"{part}-labels-idx1-ubyte", [0, 0, 8, 1, 0, 0, 0, n], n)
    ...     fp.data.load_idx_folder(folder, "mnist")
    <Dataset mnist: train [3, 2, 2, 1], test [2, 2, 2, 1], 10 classes>
    """
    if name not in SOURCES:
        raise DataError(f"unknown image set {name!r}: wanted one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    if folder is None:
        raise DataError(f"{name} needs a folder (folder=, or --data-dir): {_four_files(source)}")
    folder = Path(folder)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise DataError(f"{name}: folder {folder} {problem}: {_four_files(source)}")
    train = _read_part(folder, source.train, source)
    test = _read_part(folder, source.test, source)
    held = None
    if validation:
        first = len(train.y) - len(test.y)
        if first <= 0:
            raise DataError(
                f"{name} in {folder}: {len(train.y)} training images leave none to train on beside "
                f"{len(test.y)} for validation: load it with validation=False"
            )
        held = Examples(train.x[first:], train.y[first:])
        train = Examples(train.x[:first], train.y[:first])
    return Dataset(name, train, test, len(source.labels), held, source.labels)


def _read_part(folder: Path, prefix: str, source: Source) -> Examples:
    image_file = _find(folder, f"{prefix}-images", 3, source)
    label_file = _find(folder, f"{prefix}-labels", 1, source)
    images = _read_bytes_of_rank(image_file, 3, "images [n, height, width]")
    labels = _read_bytes_of_rank(label_file, 1, "labels [n]")
    if images.size == 0:
        raise DataError(f"{image_file} holds no images {list(images.shape)}: download it again")
    if len(images) != len(labels):
        raise DataError(
            f"{image_file} holds {len(images)} images and {label_file.name} {len(labels)} labels: "
            "take both from the same download"
        )
    y = labels.astype(np.int32) - source.first
    classes = len(source.labels)
    outside = (y < 0) | (y >= classes)
    if outside.any():
        index = int(np.argmax(outside))
        raise DataError(
            f"{label_file}: label {index} is {labels[index]}, wanted {source.first} to "
            f"{source.first + classes - 1}: load the files under the name of their own data set"
        )
    if source.transposed:
        images = images.swapaxes(1, 2)
    return Examples(np.ascontiguousarray(images)[..., None], y)


def _read_bytes_of_rank(path: Path, rank: int, what: str) -> np.ndarray:
    array = read_idx(path)
    if array.ndim != rank or array.dtype != np.uint8:
        raise DataError(
            f"{path} holds {array.dtype} {list(array.shape)}, wanted uint8 {what}: put the right "
            "file under this name"
        )
    return array


def _find(folder: Path, stem: str, rank: int, source: Source) -> Path:
    for separator in ("-", "."):
        for ending in ("", ".gz"):
            path = folder / f"{stem}{separator}idx{rank}-ubyte{ending}"
            if path.exists():
                return path
    raise DataError(f"{folder / f'{stem}-idx{rank}-ubyte'}[.gz] is missing: {_four_files(source)}")


def _four_files(source: Source) -> str:
    names = [
        f"{prefix}-{kind}-ubyte"
        for prefix in (source.train, source.test)
        for kind in ("images-idx3", "labels-idx1")
    ]
    return f"give the folder that holds {', '.join(names)}, each plain or with .gz"


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}): give the path of an IDX file"
        ) from error
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path} is corrupt gzip ({error}): download it again") from error
