"""What a stream reads from: examples by their numbers, of which only those asked for are read."""

import zlib
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

from funcprop.data.dataset import DataError

INT32 = np.iinfo(np.int32)


class Source:
    """Examples that stay where they lie: a folder, a file, arrays.

    name         what was opened: "images:photos"
    classes      how many classes, or how large the vocabulary is; None where nobody says
    labels       what the classes are called, in their order; () where nobody says
    fingerprint  a word that other contents hardly have, whatever the folder is called: a position
                 of a stream holds it
    len(source)  n, the number of examples
    source[i]    one example: a tuple of arrays, as `grain` and PyTorch have it
    read(i)      those of i [k], any integers 0..n-1, one behind the other: arrays [k, ...]

    A subclass writes `__init__`, `__len__` and `read`, and sets `name` and `fingerprint`. Features
    are float32 (finite) or uint8, numbers of classes and tokens int32.

    raises  DataError for what cannot be read, when it is read; IndexError for source[n]

    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> class Squares(fp.data.Source):
    ...     name, fingerprint = "squares", "1"
    ...     def __len__(self):
    ...         return 10
    ...     def read(self, i):
    ...         return i.astype(np.float32)[:, None], (i**2).astype(np.float32)[:, None]
    >>> Squares()[3]
    (array([3.], dtype=float32), array([9.], dtype=float32))
    >>> next(fp.data.stream(Squares(), 2, shuffle=False))[1].ravel().tolist()
    [0.0, 1.0]
    """

    name: str = ""
    fingerprint: str = ""
    classes: int | None = None
    labels: tuple[str, ...] = ()

    # [b + 1]: where pieces of the data begin that are read as a whole, and n; None: no such pieces
    blocks: np.ndarray | None = None
    window: int = 1  # how many of them are kept, and shuffled together

    def __len__(self) -> int:
        raise NotImplementedError

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        raise NotImplementedError

    def __getitem__(self, i: int) -> tuple[np.ndarray, ...]:
        number = int(i) + (len(self) if i < 0 else 0)
        if not 0 <= number < len(self):
            raise IndexError(f"{self.name} has {len(self)} examples, and no example {i}")
        return tuple(array[0] for array in self.read(np.array([number])))

    def __repr__(self) -> str:
        shapes = ", ".join(f"{each.dtype} {list(each.shape)}" for each in self[0])
        known = "" if self.classes is None else f", {self.classes} classes"
        return f"<Source {self.name}: {len(self)} examples of {shapes}{known}>"


class Arrays(Source):
    """Arrays [n, ...] in memory, memory-mapped ones, or whatever else NumPy indexes by rows."""

    def __init__(self, arrays: tuple[Any, ...], name: str = "arrays") -> None:
        self.name = name
        self.arrays = tuple(_as_array(f"{name}[{k}]", each) for k, each in enumerate(arrays))
        sizes = {len(array) for array in self.arrays}
        if len(sizes) != 1 or 0 in sizes:
            shapes = ", ".join(str(list(array.shape)) for array in self.arrays)
            raise DataError(
                f"{name}: {shapes or 'no array'}, wanted arrays [n, ...] of one length, not empty: "
                "write (x, y)"
            )
        n = sizes.pop()
        ends = np.unique(np.linspace(0, n - 1, min(n, 64)).astype(np.int64))
        kinds = [f"{array.dtype.str}{list(array.shape)}" for array in self.arrays]
        self.fingerprint = fingerprint(*kinds, *(array[ends] for array in self.arrays))

    def __len__(self) -> int:
        return len(self.arrays[0])

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(
            settled(f"{self.name}[{k}]", array[i], i) for k, array in enumerate(self.arrays)
        )


class Rows(Source):
    """Any sequence of examples, each a tuple of arrays: of grain, of PyTorch, of one's own."""

    def __init__(self, rows: Any) -> None:
        self.name, self.rows = type(rows).__name__, rows
        if len(rows) == 0:
            raise DataError(f"{self.name} is empty: give at least one example")
        first, last = self.read(np.array([0])), self.read(np.array([len(rows) - 1]))
        self.fingerprint = fingerprint(str(len(rows)), *first, *last)

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        examples = [self.rows[int(k)] for k in i]
        for k, example in zip(i, examples, strict=True):
            if not isinstance(example, tuple):
                raise DataError(
                    f"{self.name}: example {k} is a {type(example).__name__}, wanted a tuple of "
                    "arrays: map each example to (x, y)"
                )
            if len(example) != len(examples[0]):
                raise DataError(
                    f"{self.name}: example {k} has {len(example)} arrays and example {i[0]} "
                    f"{len(examples[0])}: give each the same"
                )
        return tuple(
            stacked(self.name, [np.asarray(each) for each in column], lambda k: f"example {i[k]}")
            for column in zip(*examples, strict=True)
        )


def stacked(name: str, arrays: list[np.ndarray], call: Callable[[int], str]) -> np.ndarray:
    """[k, ...] of arrays that must be alike; `call(k)` names the k-th in the error."""
    first = arrays[0]
    for k, array in enumerate(arrays):
        if array.shape != first.shape or array.dtype != first.dtype:
            raise DataError(
                f"{name}: {call(k)} is {array.dtype} {list(array.shape)}, and {call(0)} "
                f"{first.dtype} {list(first.shape)}: a batch wants them alike, so crop or pad them"
            )
    return settled(name, np.stack(arrays))


def settled(where: str, array: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The array as float32, uint8 or int32: raises where a value would become another one.

    rows  the numbers of its examples, for the error
    """

    def refuse(wrong: np.ndarray, what: str, advice: str) -> NoReturn:
        first = np.argwhere(wrong)[0]
        row = int(first[0]) if rows is None else int(rows[first[0]])
        raise DataError(
            f"{where}: example {row} holds {array[tuple(first)]}, wanted {what}: {advice}"
        )

    kind = array.dtype.kind
    if array.dtype == np.uint8 or array.dtype == np.int32:
        return array
    if kind == "f":
        with np.errstate(over="ignore"):  # inf is found below
            values = array.astype(np.float32, copy=False)
        finite = np.isfinite(values)
        if not finite.all():
            refuse(~finite, "finite numbers", "fill them in or drop those examples")
        return values
    if kind in "iu":
        outside = (array > INT32.max) | (array < INT32.min)
        if outside.any():
            refuse(outside, "integers of 32 bits", "number the classes or tokens from 0")
        return array.astype(np.int32)
    if kind == "b":
        return array.astype(np.uint8)
    if array.dtype.name == "bfloat16":
        return settled(where, array.astype(np.float32), rows)
    raise DataError(
        f"{where} is an array of {array.dtype}, wanted numbers: give floats, integers or bytes"
    )


def _as_array(where: str, value: Any) -> np.ndarray:
    if isinstance(value, np.ndarray):  # a memory map stays one
        array = value
    else:
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{where} is a {type(value).__name__} and cannot be made an array ({error}): "
                "give arrays [n, ...]"
            ) from error
    if array.ndim == 0:
        raise DataError(f"{where} is one value of {array.dtype}, wanted an array [n, ...]")
    settled(where, array[:1])  # its dtype
    return array


def fingerprint(*parts: "str | bytes | np.ndarray") -> str:
    """A short word for contents: equal ones have the same, others hardly ever."""
    total = 0
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        data = data if isinstance(data, bytes) else np.ascontiguousarray(data).tobytes()
        total = zlib.crc32(data, zlib.crc32(str(len(data)).encode(), total))
    return f"{total:08x}"


def whole(where: str, name: str, value: Any, low: int = 1) -> int:
    """An option that has to be a whole number of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise DataError(f"{where}: {name} is {value!r}, wanted a whole number of at least {low}")
    return int(value)
