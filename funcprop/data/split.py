"""Held-out parts for data sets that come in one piece."""

import numpy as np

from funcprop.data.dataset import DataError
from funcprop.extras import require


def hold_out(y: np.ndarray, count: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the examples that stay and of the `count` held out, in the classes' proportions.

    y [n] -> [n - count], [count] int64. The seed is fixed: the same y gives the same split.
    Raises DataError where a class has too few examples to be in both.
    """
    selection = require("sklearn.model_selection", "train")
    try:
        rest, held = selection.train_test_split(
            np.arange(len(y)), test_size=count, stratify=y, random_state=0
        )
    except ValueError as error:
        raise DataError(
            f"{name}: cannot hold out {count} of {len(y)} examples class by class ({error}): every "
            "class needs an example in each part, so drop the rare classes"
        ) from error
    return rest, held


def split(
    y: np.ndarray, count: int, validation: bool, name: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Indices of train, test (`count`) and validation (as many again, or None).

    The test set does not depend on `validation`, which is taken out of the training set.
    """
    train, test = hold_out(y, count, name)
    if not validation:
        return train, test, None
    rest, held = hold_out(y[train], count, name)
    return train[rest], test, train[held]
