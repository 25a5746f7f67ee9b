"""What a network makes of a plane."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

MARGIN = 0.15  # of the data's extent, on all sides


def decision_boundary(
    axes: Any, predict: Callable[[Any], Any], x: Any, y: Any, points: int = 150
) -> Any:
    """Which class a network gives to every point of a plane, under the examples.

    axes     a matplotlib Axes, which is returned
    predict  x [n, 2] float32 -> [n, classes], logits or shares; or [n, 1] or [n], where above
             a half is class 1
    x        [n, 2], the examples
    y        [n] or [n, 1], their classes
    points   in a row of the grid

    raises  ValueError where x is not in a plane or not finite, for what is no class, and for less
            than two points in a row

    >>> import numpy as np
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> x, y = np.array([[0.0, 0.0], [1.0, 1.0]]), np.array([0, 1])
    >>> axes = fp.plots.decision_boundary(Figure().subplots(), lambda x: x[:, :1], x, y, 20)
    >>> len(axes.collections) > 0
    True
    """
    x, y = np.asarray(x, np.float32), np.asarray(y).reshape(-1)
    if x.ndim != 2 or x.shape[1] != 2:
        raise ValueError(f"x is {list(x.shape)}, wanted [n, 2]: a boundary is drawn in a plane")
    if not len(x) or len(y) != len(x) or not np.isfinite(x).all() or points < 2:
        raise ValueError(
            f"{len(x)} points, {len(y)} classes, a grid of {points}: wanted finite points, a class "
            "each, and at least 2 in a row"
        )
    if not np.isin(y, np.arange(1000)).all():
        raise ValueError("y holds what is no class, wanted whole numbers from 0")
    low, high = x.min(0), x.max(0)
    room = MARGIN * np.maximum(high - low, 1e-6)
    sides = [np.linspace(a, b, points) for a, b in zip(low - room, high + room, strict=True)]
    across, up = np.meshgrid(*sides)
    grid = np.stack([across.ravel(), up.ravel()], 1).astype(np.float32)
    found = np.asarray(predict(grid), np.float64).reshape(len(grid), -1)
    class_ = found.argmax(1) if found.shape[1] > 1 else found[:, 0] > 0.5
    classes = max(int(y.max(initial=0)) + 1, 2, found.shape[1])
    levels = np.arange(classes + 1) - 0.5
    shape = across.shape
    axes.contourf(across, up, class_.reshape(shape), levels, cmap="coolwarm", alpha=0.35)
    if found.shape[1] == 1:
        axes.contour(across, up, found.reshape(shape), [0.5], colors="0.2", linewidths=1)
    axes.scatter(
        *x.T, c=y, cmap="coolwarm", vmin=0, vmax=classes - 1, s=18, edgecolors="white",
        linewidths=0.5,
    )  # fmt: skip
    axes.set(xlabel="x₁", ylabel="x₂", aspect="equal")
    return axes
