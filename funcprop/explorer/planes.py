"""Small data sets that are made and not loaded: x [n, 2] and y [n, 1]."""

from __future__ import annotations

import numpy as np

from funcprop.data import planes

Points = tuple[np.ndarray, np.ndarray]


def logic(truth: tuple[int, ...]) -> Points:
    """The four rows of a function of two bits, and its values."""
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float64)
    return x, np.array(truth, np.float64)[:, None]


def nand() -> Points:
    """0 for (1, 1), else 1: the smallest problem that the first networks learned."""
    return logic((1, 1, 1, 0))


def xor() -> Points:
    """1 where the bits differ: no line divides it."""
    return logic((0, 1, 1, 0))


def moons() -> Points:
    """Two half circles that reach into each other, 100 points in all."""
    return column(planes.moons(100, np.random.default_rng(0)))


def spiral() -> Points:
    """Two arms of a spiral, 140 points in all."""
    return column(planes.spiral(140, np.random.default_rng(0)))


def column(points: Points) -> Points:
    """Classes [n] as numbers [n, 1]."""
    x, y = points
    return x, y.astype(np.float64)[:, None]
