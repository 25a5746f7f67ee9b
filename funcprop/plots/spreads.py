"""How single examples differ: their gradients' norms, and the noise of the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from funcprop.layer import is_float
from funcprop.plots.lines import plain


def per_example_norms(
    axes: Any, norms: Any, names: Sequence[str] | None = None, marked: int = 3
) -> Any:
    """Gradient norms of single examples in ascending order, the largest of them named.

    axes    a matplotlib Axes, which is returned
    norms   [n], such as the roots of `total(squared_norms)`
    names   of the examples; without them their numbers
    marked  how many of the largest are named

    raises  ValueError where norms is no vector of finite numbers, or has other than a name each

    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> axes = fp.plots.per_example_norms(Figure().subplots(), [0.1, 7.0, 0.2], marked=1)
    >>> [text.get_text() for text in axes.texts]
    ['1']
    """
    found = np.asarray(norms, np.float64)
    if found.ndim != 1:
        raise ValueError(f"norms is {list(found.shape)}, wanted [n]: one norm an example")
    if not np.isfinite(found).all() or (names is not None and len(names) != len(found)):
        named = "no" if names is None else len(names)
        raise ValueError(f"{len(found)} norms with {named} names, wanted finite ones, a name each")
    order = np.argsort(found)
    axes.plot(np.arange(len(found)), found[order], ".", markersize=3)
    for place in range(max(0, len(found) - marked), len(found)):
        i = int(order[place])
        word = str(i) if names is None else plain(names[i])
        left = (-8 - 34 * (len(found) - 1 - place), 2)  # beside each other
        at = {"textcoords": "offset points", "xytext": left, "ha": "right", "fontsize": "small"}
        axes.annotate(word, (place, found[i]), **at)
    axes.set(xlabel="examples, by their norm", ylabel="‖gradient of one example‖")
    if (found > 0).all() and len(found):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    return axes


def gradient_noise(axes: Any, gradient: Any, variance: Any, examples: int) -> Any:
    """How much of every parameter's gradient is noise, a box a leaf: above 1 the sign is chance.

    axes      a matplotlib Axes, which is returned
    gradient  a tree like the parameters: the mean over a batch
    variance  the same: of single examples around it, as the rule `variance` gives it
    examples  in the batch

    raises  ValueError for other trees or shapes, and for less than one example

    The noise of a mean of n examples is √(variance / n); drawn is log₁₀ of it over |gradient|.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> from matplotlib.figure import Figure
    >>> tree = {"w": np.ones((3, 2)), "b": np.ones(2)}
    >>> axes = fp.plots.gradient_noise(Figure().subplots(), tree, tree, 100)
    >>> [label.get_text() for label in axes.get_xticklabels()]
    ["['b']", "['w']"]
    """
    if not examples >= 1:
        raise ValueError(f"examples is {examples}, wanted at least 1")
    if jax.tree.map(np.shape, gradient) != jax.tree.map(np.shape, variance):
        raise ValueError("gradient and variance are trees of other shapes, wanted those of params")
    found = []
    leaves = jax.tree.leaves_with_path(gradient)
    for (path, mean), spread in zip(leaves, jax.tree.leaves(variance), strict=True):
        if is_float(mean) and np.size(mean):
            size = np.abs(np.asarray(mean, np.float64)).ravel()
            noise = np.sqrt(np.maximum(np.asarray(spread, np.float64), 0).ravel() / examples)
            known = (size > 0) & (noise > 0)
            found.append((jax.tree_util.keystr(path), np.log10(noise[known] / size[known])))
    axes.boxplot([values for _, values in found], widths=0.6, showfliers=False)
    axes.set_xticks(np.arange(1, len(found) + 1), [plain(name) for name, _ in found])
    axes.axhline(0, color="0.5", linewidth=0.8, linestyle="--")
    axes.set(ylabel="log₁₀ (noise / |gradient|)")
    return axes
