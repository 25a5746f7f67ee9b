"""Lines over steps or epochs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def curves(
    axes: Any,
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    over: str = "epoch",
    of: str = "loss",
    log: bool = False,
) -> Any:
    """One line a name, with points: loss or accuracy over the epochs.

    axes   a matplotlib Axes, which is returned
    x      [n], such as the numbers of the epochs
    lines  y [n] by name
    over   what x is
    of     what y is
    log    a logarithmic axis for y, where all of y is above 0

    raises  ValueError for a line that is not as long as x

    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> axes = Figure().subplots()
    >>> fp.plots.curves(axes, [1, 2, 3], {"training": [2.0, 1.0, 0.5]}, log=True).get_yscale()
    'log'
    """
    for name, y in lines.items():
        if len(y) != len(x):
            raise ValueError(f"{name!r} has {len(y)} points, and x has {len(x)}: wanted as many")
        if np.ndim(y) != 1:
            raise ValueError(f"{name!r} is {list(np.shape(y))}, wanted one number for each of x")
        axes.plot(x, y, ".-", label=plain(name))
    if log and all(np.min(y, initial=np.inf) > 0 for y in lines.values()):
        axes.set_yscale("log")
    axes.set(xlabel=over, ylabel=of)
    axes.grid(alpha=0.3)
    axes.legend()
    return axes


def delta_norms(
    axes: Any, norms: Any, names: Sequence[str] | None = None, over: str = "step"
) -> Any:
    """‖δ‖ of every layer over the steps of a training, on a logarithmic axis: where it vanishes.

    axes   a matplotlib Axes, which is returned
    norms  [steps, layers], as `record.value.norms["dy"]` of `trace` gives them
    names  of the layers; without them their numbers
    over   what the steps are

    raises  ValueError where norms is no matrix, or names are not as many as layers

    >>> import numpy as np
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> axes = fp.plots.delta_norms(Figure().subplots(), np.array([[0.1, 1.0], [0.2, 1.0]]))
    >>> [line.get_label() for line in axes.lines]
    ['layer 1', 'layer 2']
    """
    table = matrix("norms", norms, "[steps, layers]")
    named = [f"layer {i + 1}" for i in range(table.shape[1])] if names is None else list(names)
    if len(named) != table.shape[1]:
        raise ValueError(f"{len(named)} names were given for {table.shape[1]} layers")
    shades = np.linspace(0.9, 0.1, max(1, table.shape[1]))
    colors = _colors("viridis", shades)
    for name, line, color in zip(named, table.T, colors, strict=True):
        axes.plot(np.arange(len(line)), line, label=plain(name), color=color)
    axes.set(xlabel=over, ylabel="‖δ‖", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend()
    return axes


def alignment_angles(axes: Any, angles: Mapping[str, Sequence[float]], over: str = "step") -> Any:
    """Angles between the rewired gradient and the true one over the steps; 90° is no direction.

    axes    a matplotlib Axes, which is returned
    angles  degrees [steps] by the parameter's name, as `fp.rewiring.alignment` gives one step's
    over    what the steps are

    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> axes = fp.plots.alignment_angles(Figure().subplots(), {"[0].w": [88.0, 60.0, 35.0]})
    >>> axes.get_ylabel()
    'angle to the gradient (°)'
    """
    for name, line in angles.items():
        axes.plot(np.arange(len(line)), line, label=plain(name))
    axes.axhline(90, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(xlabel=over, ylabel="angle to the gradient (°)", ylim=(0, 180))
    axes.grid(alpha=0.3)
    axes.legend()
    return axes


def matrix(name: str, given: Any, wanted: str) -> np.ndarray:
    """The array, in float64; raises ValueError where it is no matrix of real numbers."""
    found = np.asarray(given)
    if np.iscomplexobj(found):
        raise ValueError(f"{name} is complex, wanted real numbers: draw its abs or its angle")
    found = found.astype(np.float64)
    if found.ndim != 2:
        raise ValueError(f"{name} is {list(found.shape)}, wanted {wanted}")
    return found


def plain(words: object) -> str:
    """Words as they stand: a dollar sign would begin a formula."""
    return str(words).replace("$", r"\$")


def _colors(name: str, shades: np.ndarray) -> Any:
    from funcprop.extras import require

    return require("matplotlib", "train").colormaps[name](shades)
