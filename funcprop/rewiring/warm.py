"""warm_start: trained numbers for a model whose layers were exchanged."""

from __future__ import annotations

from typing import Any

import jax

from funcprop.composites.rewired import RewiredParams
from funcprop.doors import door
from funcprop.layer import Params, spell
from funcprop.layers.dense import Affine
from funcprop.layers.lora import LowRank


@door
def warm_start(params: Params, trained: Params) -> Params:
    """`params` with the trained numbers where they have a place: for a model that was rewired.

    params   of the new model, freshly drawn: rewired.init(key, x)
    trained  of the model that it was made of, under any composites, stacked ones too

    `LoRA` takes the trained w and b, and its a and c stay as drawn, so that it computes what was
    trained; a rewired layer takes the trained parameters, and its feedback stays as drawn.

    Returns the tree, shapes and dtypes of params; nothing is copied.

    raises  ValueError, with the path, where the two differ in any other way

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2))
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> trained = model.init(jax.random.key(0), x)
    >>> rewired = fp.rewire(model, {fp.Dense: fp.rewiring.feedback_alignment()})
    >>> params = fp.warm_start(rewired.init(jax.random.key(1), x), trained)
    >>> params[0].params.w is trained[0].w, params[0].feedback.shape
    (True, (2, 3))
    """
    return _merged(params, trained, "params")


def _merged(new: Any, old: Any, path: str) -> Any:
    if isinstance(new, LowRank) and isinstance(old, Affine):
        w, b = (_merged(getattr(new, n), getattr(old, n), f"{path}.{n}") for n in ("w", "b"))
        return new._replace(w=w, b=b)
    if isinstance(new, RewiredParams) and not isinstance(old, RewiredParams):
        return new._replace(params=_merged(new.params, old, path))
    parts, tree = _children(new)
    others, like = _children(old)
    leaf = jax.tree_util.all_leaves([new])
    if tree != like or (leaf and spell(new) != spell(old)):
        raise ValueError(f"{path} is {spell(new)}, and what was trained {spell(old)}")
    if leaf:
        return old
    pairs = zip(parts, others, strict=True)
    found = [_merged(a, b, path + jax.tree_util.keystr(where)) for (where, a), (_, b) in pairs]
    return jax.tree.unflatten(tree, found)


def _children(tree: Any) -> tuple[Any, Any]:
    """What lies directly in a tree, with paths, and the tree of that one level."""
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)
