"""What every loader returns: labeled examples in named parts, checked once and never changed."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class DataError(ValueError):
    """The data cannot be used as it is: the message says what was found and what to do.

    A ValueError.

    >>> import funcprop as fp
    >>> import funcprop.data
    >>> try:
    ...     fp.data.load("minst")
    ... except fp.data.DataError as error:
    ...     print(str(error).split("?")[0])
    unknown data set 'minst': did you mean 'mnist'
    """


class Examples(NamedTuple):
    """One part of a data set.

    x [n, ...] float32, or uint8 for images stored as bytes; y [n] int32: example i has the label
    y[i] in 0..classes-1. Text is x [n, T] uint8 or int32, windows of tokens, and y [n, T] int32:
    the token that follows each of them.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> part = fp.data.Examples(x=np.zeros((6, 4), np.float32), y=np.zeros(6, np.int32))
    >>> part.x.shape, part.y.dtype
    ((6, 4), dtype('int32'))
    """

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labeled examples for classification, or text, where every token has a label.

    name        what was asked for: "mnist"
    train       Examples: images are [n, height, width, 1], bytes or in [0, 1]; tables
                [n, features]; text [n, T]
    test        Examples of the same shape
    classes     the number of classes; of text, the vocabulary
    validation  Examples held out of `train`, or None
    labels      what the classes are called, in their order; () where nobody says

    x is float32 or uint8, y int32; the arrays are read-only views.

    raises  DataError for an empty part, x and y of different lengths, another dtype than these,
            parts that differ in shape, values that are not finite, labels out of range, and a
            number of names that is not that of the classes

    >>> import numpy as np
    >>> import funcprop as fp
    >>> import funcprop.data
    >>> x, y = np.zeros((6, 4), np.float32), np.array([0, 1, 2, 0, 1, 2], np.int32)
    >>> part = fp.data.Examples(x, y)
    >>> fp.data.Dataset("mine", train=part, test=part, classes=3)
    <Dataset mine: train [6, 4], test [6, 4], 3 classes>
    """

    name: str
    train: Examples
    test: Examples
    classes: int
    validation: Examples | None = None
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.labels and len(self.labels) != self.classes:
            raise DataError(
                f"{self.name}: {len(self.labels)} labels name {self.classes} classes: "
                "give one name for each class, or labels=()"
            )
        for part in ("train", "test", "validation"):
            examples = getattr(self, part)
            if examples is not None:
                checked = _checked(f"{self.name}, {part}", examples, self.classes)
                object.__setattr__(self, part, checked)
        wanted = self.train.x.shape[1:]
        for part in ("test", "validation"):
            examples = getattr(self, part)
            if examples is not None and examples.x.shape[1:] != wanted:
                raise DataError(
                    f"{self.name}: an example of {part} has shape {list(examples.x.shape[1:])}, "
                    f"one of train {list(wanted)}: all parts must have the same shape"
                )
            if examples is not None and examples.y.ndim != self.train.y.ndim:
                raise DataError(
                    f"{self.name}: y of {part} is {list(examples.y.shape)}, that of train "
                    f"{list(self.train.y.shape)}: all parts are text, or none is"
                )

    @property
    def text(self) -> bool:
        """Whether every token has a label of its own."""
        return self.train.y.ndim == 2

    def __repr__(self) -> str:
        held = "" if self.validation is None else f"validation {list(self.validation.x.shape)}, "
        return (
            f"<Dataset {self.name}: train {list(self.train.x.shape)}, {held}"
            f"test {list(self.test.x.shape)}, {self.classes} classes>"
        )


def _checked(where: str, examples: Examples, classes: int) -> Examples:
    x, y = (np.asarray(array) for array in examples)
    text = x.dtype in (np.uint8, np.int32) and x.ndim == 2 and x.shape == y.shape
    if x.dtype not in (np.float32, np.uint8) and not text:
        raise DataError(
            f"{where}: x is {x.dtype}, wanted float32, or uint8 for images: "
            "pass x.astype(np.float32)"
        )
    if y.dtype != np.int32:
        raise DataError(f"{where}: y is {y.dtype}, wanted int32: pass y.astype(np.int32)")
    if x.ndim < 2 or not (y.ndim == 1 or text):
        raise DataError(
            f"{where}: x has shape {list(x.shape)} and y {list(y.shape)}, wanted x [n, ...] and "
            "y [n]: one row and one label for each example; or text, both [n, T], x of tokens"
        )
    if len(x) != len(y):
        raise DataError(
            f"{where}: {len(x)} examples and {len(y)} labels: give each example one label"
        )
    if x.size == 0:
        raise DataError(f"{where}: x {list(x.shape)} is empty: give at least one example")
    finite = np.isfinite(x).reshape(len(x), -1)
    if not finite.all():
        first = int(np.argmin(finite.all(axis=1)))
        raise DataError(
            f"{where}: x holds {finite.size - np.count_nonzero(finite)} NaN or infinite values, "
            f"the first in example {first}: fill them in or drop those examples"
        )
    if text and x.max() >= classes:
        raise DataError(
            f"{where}: x holds the token {x.max()}, wanted 0 to {classes - 1}: "
            "give classes= as the size of the vocabulary"
        )
    outside = (y < 0) | (y >= classes)
    if outside.any():
        first = int(np.argmax(outside)) if y.ndim == 1 else tuple(map(int, np.argwhere(outside)[0]))
        raise DataError(
            f"{where}: the label of example {first} is {y[first]}, wanted 0 to {classes - 1}: "
            "number the classes from 0 and give classes= as their count"
        )
    return Examples(_read_only(x), _read_only(y))


def _read_only(array: np.ndarray) -> np.ndarray:
    view = array.view()
    view.flags.writeable = False  # of the view alone: the caller's own array stays as it was
    return view
