"""Bars: what gradients cost, and how far they are off."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from funcprop.comparison.report.comparison import Comparison
from funcprop.costs.cost import WAYS, Costs

QUANTITIES = {
    "time": ("seconds", 1e3, "ms"),
    "memory": ("bytes", 1e-6, "MB"),
    "flops": ("flops", 1e-6, "Mflop"),
}


def costs(axes: Any, found: Costs, quantity: str = "time") -> Any:
    """What gradients cost by hand, automatically and in the plain form, side by side.

    axes      a matplotlib Axes, which is returned
    found     what `fp.measure` returned
    quantity  time, memory or flops

    raises  ValueError for another quantity

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> found = fp.measure(fp.Tanh(), (), jnp.ones((4, 2)), seconds=0.01)
    >>> fp.plots.costs(Figure().subplots(), found, "memory").get_xlabel()
    'MB'
    """
    if quantity not in QUANTITIES:
        raise ValueError(f"quantity is {quantity!r}, wanted one of {', '.join(QUANTITIES)}")
    attribute, scale, unit = QUANTITIES[quantity]
    rows = np.arange(len(found.profiles))[::-1]
    for place, (way, words) in enumerate(WAYS.items()):
        known = [getattr(profile, way) for profile in found.profiles]
        lengths = [scale * getattr(c, attribute) if c is not None else math.nan for c in known]
        if not all(map(math.isnan, lengths)):
            axes.barh(rows + 0.27 * (1 - place), lengths, height=0.25, label=words)
    axes.set_yticks(rows, [profile.name for profile in found.profiles])
    axes.set(xlabel=unit)
    axes.legend()
    return axes


def errors(axes: Any, found: Comparison, dtype: str = "float64") -> Any:
    """How far every gradient of a comparison is from automatic differentiation, the wrong ones red.

    axes   a matplotlib Axes, which is returned
    found  what `fp.compare` returned
    dtype  of the rows that are drawn

    raises  ValueError where no row is of that dtype

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> found = fp.compare(fp.Tanh(), (), jnp.arange(6.0).reshape(3, 2))
    >>> fp.plots.errors(Figure().subplots(), found).get_xscale()
    'log'
    """
    rows = [row for row in found.rows if row.dtype == dtype]
    if not rows:
        there = ", ".join(sorted({row.dtype for row in found.rows}))
        raise ValueError(f"no gradient is {dtype}, those of this comparison are {there}")
    places = np.arange(len(rows))[::-1]
    lengths = np.clip([row.relative for row in rows], 1e-17, None)
    colors = ["tab:blue" if row.ok else "tab:red" for row in rows]
    axes.barh(places, lengths, left=1e-18, color=colors, height=0.7)
    axes.set_yticks(places, [row.name for row in rows])
    axes.set(xscale="log", xlim=(1e-18, 10), xlabel="‖by hand − automatic‖ / ‖automatic‖")
    return axes
