"""Data on disk: examples that stay where they lie, and a held-out part small enough for memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from funcprop.cli.job.checks import RecipeError
from funcprop.data import Dataset, Examples, Source
from funcprop.data import open as open_source
from funcprop.data.opening import OPENERS

MOST = 10_000  # held-out examples: they are in memory
PASS = 1024  # examples read at a time where classes are counted


@dataclass(frozen=True, eq=False, repr=False)
class OnDisk(Dataset):
    """A data set whose training examples are read as they are wanted.

    source  the training examples. `train` are the first of them, as many as are held out: what is
            looked at besides training
    """

    source: Source | None = None


class Part(Source):
    """Some examples of a source, by their ascending numbers; pieces of it stay pieces."""

    def __init__(self, whole: Source, numbers: np.ndarray) -> None:
        self.name, self.fingerprint = whole.name, whole.fingerprint
        self.classes, self.labels, self.window = whole.classes, whole.labels, whole.window
        self.whole, self.numbers = whole, numbers
        if whole.blocks is not None:
            self.blocks = np.unique(np.searchsorted(numbers, whole.blocks))

    def __len__(self) -> int:
        return len(self.numbers)

    def read(self, i: np.ndarray) -> tuple[np.ndarray, ...]:
        return self.whole.read(self.numbers[i])


def is_on_disk(name: str) -> bool:
    """Whether `fp.data.open` knows the kind of it."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in OPENERS


def open_data(name: str, validation: bool = False, length: int | None = None) -> OnDisk:
    """The data at `name`: a tenth of the examples, at most 10,000, is the test set.

    validation  as many again, out of the training examples
    length      of a window of tokens

    Of a text the test set is its end, as `text:` has it; of other data it is drawn at random, the
    same each time. Raises DataError, RecipeError.
    """
    tokens = name.startswith("tokens:")
    named = tokens and "length=" in name.rpartition("?")[2]
    source = open_source(name, **({"length": length} if tokens and not named and length else {}))
    n, parts = len(source), 3 if validation else 2
    if source.classes is None:
        source.classes = counted(name, source)
    if n < parts:
        raise RecipeError(f"--data: {name} has {n} examples, wanted at least {parts}")
    held = min(MOST, max(1, n // 10))
    order = np.arange(n) if tokens else np.random.default_rng(0).permutation(n)
    test, rest = order[n - held :], order[: n - held]
    watched = rest[len(rest) - held :] if validation else None
    train = Part(source, np.sort(rest[: len(rest) - held] if validation else rest))

    def read(numbers: np.ndarray) -> Examples:
        return Examples(*_pair(source, np.sort(numbers)))

    return OnDisk(
        name=name,
        train=read(train.numbers[:held]),
        test=read(test),
        validation=None if watched is None else read(watched),
        classes=source.classes,
        labels=source.labels,
        source=train,
    )


def _pair(source: Source, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = source.read(numbers)
    if len(found) != 2 or found[1].dtype != np.int32:
        kinds = ", ".join(f"{each.dtype} {list(each.shape[1:])}" for each in found)
        raise RecipeError(
            f"--data: an example of {source.name} is {kinds}; wanted x and the number of its class"
        )
    return found[0], found[1]


def counted(name: str, source: Source) -> int:
    """The number of classes, in one pass over the examples. Raises RecipeError."""
    kind, _, path = name.partition(":")
    needed = {"tokens": "vocabulary=50257", "table": "target=COLUMN&classes=3"}
    if kind in needed:
        raise RecipeError(
            f"--data: {name} does not say how many {'tokens' if kind == 'tokens' else 'classes'} "
            f"there are: write --data '{kind}:{path.partition('?')[0]}?{needed[kind]}'"
        )
    starts = range(0, len(source), PASS)
    most = (int(_pair(source, np.arange(i, min(i + PASS, len(source))))[1].max()) for i in starts)
    return max(most) + 1
