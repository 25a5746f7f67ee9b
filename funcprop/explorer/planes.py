"""Small data sets that are made and not loaded: x [n, 2] and y [n, 1] or classes [n]."""

from __future__ import annotations

import numpy as np

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


def moons(n: int = 100, noise: float = 0.12, seed: int = 0) -> Points:
    """Two half circles that reach into each other, n points in all."""
    random = np.random.default_rng(seed)
    angle = np.linspace(0, np.pi, n // 2)
    upper = np.stack([np.cos(angle), np.sin(angle)], 1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], 1)
    x = np.concatenate([upper, lower]) + noise * random.standard_normal((2 * (n // 2), 2))
    return x, np.repeat([[0.0], [1.0]], n // 2, 0)


def spiral(n: int = 140, noise: float = 0.02, seed: int = 0) -> Points:
    """Two arms of a spiral, n points in all."""
    random = np.random.default_rng(seed)
    share = np.linspace(0.12, 1, n // 2)
    angle = 1.25 * 2 * np.pi * share
    arm = share[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    x = np.concatenate([arm, -arm]) + noise * random.standard_normal((2 * (n // 2), 2))
    return 1.5 * x, np.repeat([[0.0], [1.0]], n // 2, 0)
