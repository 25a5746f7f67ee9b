"""What a rule carries beside the parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

from funcprop.layer import Params


class Held(NamedTuple):
    """Parameters, and what a rule carries beside them from step to step.

    params  a layer's own, of any shapes and dtypes
    held    what the rule's `hold` made for them: for `update`, the optimizer's state

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> collected = fp.collect(fp.Dense(2), fp.collectors.update(optax.sgd(0.1, momentum=0.9)))
    >>> held = collected.init(jax.random.key(0), jnp.ones((4, 2)))
    >>> type(held).__name__, jax.tree.map(jnp.shape, held.params)
    ('Held', Affine(w=(2, 2), b=(2,)))
    >>> jax.tree.map(jnp.shape, held.held[0].trace)  # the momentum
    Affine(w=(2, 2), b=(2,))
    """

    params: Params
    held: Any


def is_held(value: Any) -> bool:
    return isinstance(value, Held)


def without_held(tree: Any) -> Any:
    """The parameters alone."""
    return jax.tree.map(lambda h: h.params if is_held(h) else h, tree, is_leaf=is_held)


def apart(tree: Any) -> tuple[Params, tuple[Any, ...]]:
    """A tree with Held in it -> the parameters, and what is held, layer by layer.

    tree   what `collect(model, update(optimizer))` has for parameters, or returns

    Returns a tree like the model's parameters, and a tuple with an entry for each Held, in order.

    >>> import funcprop as fp
    >>> Held = fp.collectors.Held
    >>> fp.collectors.apart((Held("w", "momentum of w"), (), Held("v", "momentum of v")))
    (('w', (), 'v'), ('momentum of w', 'momentum of v'))
    """
    found = [leaf.held for leaf in jax.tree.leaves(tree, is_leaf=is_held) if is_held(leaf)]
    return without_held(tree), tuple(found)
