"""Trees of gradients: their floats apart from the rest, and held against what they are of."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import Layer, LayerError, Params, is_float, spell


def partition(tree: Any) -> tuple[Any, Any]:
    """(the float leaves, the others), each tree with None where the other has the leaf."""
    floats = jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, tree)
    rest = jax.tree.map(lambda leaf: None if is_float(leaf) else leaf, tree)
    return floats, rest


def combine(first: Any, second: Any) -> Any:
    """The inverse of `partition`."""
    return jax.tree.map(
        lambda a, b: b if a is None else a, first, second, is_leaf=lambda leaf: leaf is None
    )


def without_float0(tree: Any) -> Any:
    """None for the cotangents that JAX gives integers."""
    return jax.tree.map(
        lambda leaf: None if getattr(leaf, "dtype", None) == jax.dtypes.float0 else leaf, tree
    )


def check_gradients(layer: Layer, name: str, given: Any, like: Any) -> None:
    """`given` has the tree, shapes and dtypes of `like`; None at its integer leaves.

    None stands for zeros where `given` is dparams.
    """
    if name == "dparams":
        given = zeros_where_frozen(given, like)
    wanted = jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, like)
    given_tree, wanted_tree = jax.tree.structure(given), jax.tree.structure(wanted)
    if given_tree != wanted_tree:
        raise LayerError(
            layer,
            f"backward returned {name} as {given_tree}, wanted {wanted_tree}",
            f"give {name} the tree of {name[1:]}, with None at integer leaves",
        )
    rows = jax.tree.leaves_with_path(wanted)
    for (path, want), leaf in zip(rows, jax.tree.leaves(given), strict=True):
        if not is_float(leaf) or (leaf.shape, leaf.dtype) != (want.shape, want.dtype):
            place = name + jax.tree_util.keystr(path)
            raise LayerError(
                layer, f"backward returned {place} as {spell(leaf)}, wanted {spell(want)}"
            )


def zeros_where_frozen(dparams: Any, params: Params) -> Any:
    """Zeros where dparams is None and params has floats: a layer freezes what it gives no gradient.

    Where the trees do not fit, dparams as it is: whoever checks it says more.
    """

    def fill(leaf: Any, param: Any) -> Any:
        if leaf is not None or not any(map(is_float, jax.tree.leaves(param))):
            return leaf
        return jax.tree.map(lambda p: jnp.zeros_like(p) if is_float(p) else None, param)

    try:
        return jax.tree.map(fill, dparams, params, is_leaf=lambda leaf: leaf is None)
    except ValueError:
        return dparams
