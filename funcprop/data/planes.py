"""Small data sets in the plane, made and not loaded: what a network draws its boundary through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from funcprop.data.dataset import DataError, Dataset, Examples
from funcprop.data.split import split

SIZE = 500  # examples
TEST = 100


def load_plane(name: str, validation: bool = False) -> Dataset:
    """400 training and 100 test points [n, 2] of two classes, which no line divides; no download.

    name        xor (four clouds, opposite ones alike), moons (two half circles that reach into each
                other) or spiral (two arms)
    validation  make 100 points of the training set the validation set (300 / 100 / 100)

    x is float32, y int32. The points and the split are fixed.

    raises  DataError for another name

    >>> import funcprop as fp
    >>> fp.data.load_plane("moons")
    <Dataset moons: train [400, 2], test [100, 2], 2 classes>
    """
    if name not in PLANES:
        raise DataError(f"unknown data set {name!r} of the plane: wanted {', '.join(PLANES)}")
    x, y = PLANES[name](SIZE, np.random.default_rng(0))
    x, y = x.astype(np.float32), y.astype(np.int32)
    train, test, held = split(y, TEST, validation, name)
    return Dataset(
        name=name,
        train=Examples(x[train], y[train]),
        test=Examples(x[test], y[test]),
        classes=2,
        validation=None if held is None else Examples(x[held], y[held]),
        labels=("0", "1"),
    )


def xor(n: int, random: np.random.Generator, noise: float = 0.15) -> tuple[np.ndarray, np.ndarray]:
    """Clouds around (0, 0), (0, 1), (1, 0) and (1, 1); 1 where the bits differ."""
    bits = np.arange(n)[:, None] // np.array([2, 1]) % 2
    return bits + noise * random.standard_normal((n, 2)), bits[:, 0] ^ bits[:, 1]


def moons(
    n: int, random: np.random.Generator, noise: float = 0.12
) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles that reach into each other."""
    angle = np.linspace(0, np.pi, n // 2)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    x = np.concatenate([upper, lower])
    return x + noise * random.standard_normal(x.shape), np.repeat([0, 1], n // 2)


def spiral(
    n: int, random: np.random.Generator, noise: float = 0.02
) -> tuple[np.ndarray, np.ndarray]:
    """Two arms, one and a quarter times around."""
    share = np.linspace(0.12, 1, n // 2)
    angle = 1.25 * 2 * np.pi * share
    arm = share[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    x = np.concatenate([arm, -arm])
    return 1.5 * (x + noise * random.standard_normal(x.shape)), np.repeat([0, 1], n // 2)


PLANES: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "xor": xor,
    "moons": moons,
    "spiral": spiral,
}
