"""Which columns of a table are features and which the target, and what numbers they become."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.data.source import settled, whole
from funcprop.data.sources.files import names


class Columns:
    """What is read of a table: x [k, features] float32, and y.

    y [k] int32 with `classes` or `labels`, which one target column has; else [k, targets] float32.

    where     what was opened, for errors
    known     the columns of the table, in their order
    """

    def __init__(
        self,
        where: str,
        known: Sequence[str],
        target: Any,
        features: Any,
        classes: Any,
        labels: Any,
    ) -> None:
        self.where = where
        listed = ", ".join(known)
        twice = [name for k, name in enumerate(known) if name in known[:k]]
        if twice:
            raise DataError(f"{where} has two columns {twice[0]!r}: give each its own name")
        if target is None:
            raise DataError(
                f"{where} has the columns {listed}: say which is the target: "
                f"open('{where}', target='{known[-1]}')"
            )
        self.target = names(where, "target", target)
        rest = [name for name in known if name not in self.target]
        self.features = rest if features is None else names(where, "features", features)
        for name in self.target + self.features:
            if name not in known:
                raise DataError(f"{where} has no column {name!r}: wanted one of {listed}")
        if not self.features or set(self.features) & set(self.target):
            both = sorted(set(self.features) & set(self.target))
            problem = f"{both[0]} is a feature and the target" if both else "no feature is left"
            raise DataError(f"{where}: {problem}: wanted target='a', features='b,c' of {listed}")
        self.labels = tuple(names(where, "labels", labels)) if labels else ()
        self.classes: int | None = len(self.labels) or None
        if classes is not None:
            self.classes = whole(where, "classes", classes)
        if self.labels and self.classes != len(self.labels):
            raise DataError(
                f"{where}: {len(self.labels)} labels name {self.classes} classes: leave classes out"
            )
        if self.classes and len(self.target) > 1:
            raise DataError(
                f"{where}: classes stand in one column, and the target is "
                f"{', '.join(self.target)}: name one of them"
            )

    def __repr__(self) -> str:
        return f"{self.features} {self.target} {self.classes} {self.labels}"

    def numbers(self, name: str, values: Any, rows: np.ndarray) -> np.ndarray:
        """[k] float32 of a column, whose values are numbers or words for them."""
        where = f"{self.where}: {name}"
        if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
            return settled(where, values.astype(np.float64), rows)
        found = np.empty(len(values))
        for k, value in enumerate(values):
            try:
                if "_" in value:  # Python would take 1_000 for a thousand
                    raise ValueError
                found[k] = float(value)
            except (TypeError, ValueError):
                hint = ", or classes by labels='a,b'" if name in self.target else ""
                raise DataError(
                    f"{where}: example {rows[k]} holds {value!r}, wanted a number: leave the "
                    f"column out by features=, fill it in or drop the example{hint}"
                ) from None
        return settled(where, found, rows)

    def of_class(self, values: Any, rows: np.ndarray) -> np.ndarray:
        """[k] int32, the numbers of the classes in the target column."""
        name = self.target[0]
        if not self.labels:
            y = self.numbers(name, values, rows)
            wrong = (y != np.floor(y)) | (y < 0) | (y >= (self.classes or 0))
            wanted = f"wanted a class of 0 to {(self.classes or 0) - 1}"
        else:
            place = {label: k for k, label in enumerate(self.labels)}
            y = np.array([place.get(str(value).strip(), -1) for value in values])
            wrong, wanted = y < 0, f"wanted one of {', '.join(self.labels)}"
        if wrong.any():
            k = int(np.argmax(wrong))
            raise DataError(f"{self.where}: {name} of example {rows[k]} is {values[k]}, {wanted}")
        return y.astype(np.int32)

    def pair(self, table: dict[str, Any], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x and y of {column: its values [k]}."""
        x = np.stack([self.numbers(name, table[name], rows) for name in self.features], axis=1)
        if self.classes is not None:
            return x, self.of_class(table[self.target[0]], rows)
        y = np.stack([self.numbers(name, table[name], rows) for name in self.target], axis=1)
        return x, y
