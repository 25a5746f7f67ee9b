"""tree_table: parameters, gradients or any other tree of arrays as a table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.layer import is_float, spell
from funcprop.sheets import Line, Sheet, Shown


class TreeRow(NamedTuple):
    """One array of a tree.

    path   as code would reach it: "[0].w"
    shape  its dtype and shape
    size   how many numbers
    norm   √Σ of their squares; None of what is no float
    mean   and std, low and high, of them

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.inspection.tree_table({"w": jnp.array([3.0, 4.0])}).rows[0].norm
    5.0
    """

    path: str
    shape: str
    size: int
    norm: float | None
    mean: float | None
    std: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, repr=False)
class TreeTable(Shown):
    """A tree of arrays: it prints itself, and shows itself in a notebook.

    rows  TreeRows, in the order of the leaves

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.inspection.tree_table((jnp.ones(2), ())).rows[0].path
    '[0]'
    """

    rows: tuple[TreeRow, ...]

    @property
    def sheet(self) -> Sheet:
        """The table in words."""
        lines = [
            Line((row.path, row.shape, f"{row.size:,}", *map(_short, row[3:]))) for row in self.rows
        ]
        total = sum(row.size for row in self.rows)
        headings = ("where", "shape", "numbers", "norm", "mean", "std", "low", "high")
        return Sheet(f"{total:,} numbers in {len(lines)} arrays", headings, tuple(lines))


def tree_table(tree: Any) -> TreeTable:
    """Parameters, gradients or any other tree of arrays as a table: shapes, norms and ranges.

    tree  any pytree of arrays

    Returns a TreeTable, whose text is a table.

    raises  TypeError where the tree holds something else than arrays and numbers

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> params = fp.Serial(fp.Dense(3), fp.Tanh()).init(jax.random.key(0), jnp.ones((4, 2)))
    >>> [(row.path, row.shape) for row in fp.inspection.tree_table(params).rows]
    [('[0].w', 'float32[2, 3]'), ('[0].b', 'float32[3]')]
    """
    rows = []
    for path, leaf in jax.tree.leaves_with_path(tree):
        if not isinstance(leaf, (bool, int, float, np.ndarray, np.generic, jax.Array)):
            raise TypeError(
                f"tree holds {spell(leaf)} at {jax.tree_util.keystr(path)}, wanted arrays"
            )
        rows.append(_row(jax.tree_util.keystr(path), leaf))
    return TreeTable(tuple(rows))


def _row(path: str, leaf: Any) -> TreeRow:
    array = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    size = math.prod(array.shape)
    if not is_float(array) or not size:
        return TreeRow(path, spell(array), size, *[None] * 5)
    x = np.asarray(array, np.float64)
    found = np.linalg.norm(x.ravel()), x.mean(), x.std(), x.min(), x.max()
    return TreeRow(path, spell(array), size, *map(float, found))


def _short(number: float | None) -> str:
    return "" if number is None else f"{number:.4g}"
