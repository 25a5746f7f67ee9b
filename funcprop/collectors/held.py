"""What a rule carries beside the parameters, and the loop that writes over both where they lie."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.composites import Repeat
from funcprop.composites.repeat import RepeatResiduals, check_like, check_stack, with_mask
from funcprop.layer import Array, Params, Residuals, inside
from funcprop.sharding import alike, is_spread, varies, varying


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


class InPlaceRepeat(Repeat):
    """`Repeat` whose second result is written over the stacked parameters where they lie.

    The records must have the tree of the parameters. XLA updates a loop's carry in place where
    every write is ordered after the last read of the slice. So what is written to each leaf
    depends on an element of the one written before, and the first on dx. And a slice is computed
    into its place, without a copy, where one index reads and writes it and nothing between
    reshapes: so what is written keeps the axis of the stack.
    """

    def backward(self, params: Params, residuals: RepeatResiduals, dy: Any) -> tuple[Any, Params]:
        stack = check_stack(self, self.entries("params", params), self.length)[0]

        def step(carry: tuple[Any, Params], each: tuple[Array, Residuals]) -> tuple[Any, None]:
            (dy, stack), (i, kept) = carry, each
            p = jax.tree.map(lambda leaf: at(leaf, i), stack)
            with inside(self, 0):
                dx, new = self.layers[0].backward(p, with_mask(kept, residuals.mask), dy)
            check_like(self, "dx of a step", dx, "its dy", dy)
            check_like(self, "the record of a step", new, "its parameters", p)
            token = first_of(jax.tree.leaves(dx)[0])
            written = []
            for leaf, value in zip(jax.tree.leaves(stack), jax.tree.leaves(new), strict=True):
                # i is never negative, which XLA cannot know before the token is there; an element
                # read at i alone it would know without this write
                never = (token > 0) & (i < 0)
                value = jnp.where(never, jnp.zeros_like(value)[None], value[None])
                leaf = jax.lax.dynamic_update_slice_in_dim(leaf, value, i, 0)
                token = first_of(at(leaf, i + never.astype(i.dtype)))
                written.append(leaf)
            return (alike(dx, dy), jax.tree.unflatten(jax.tree.structure(stack), written)), None

        steps, dy = jnp.arange(self.length, dtype=jnp.int32), varying(dy, stack, residuals)
        (dx, stack), _ = jax.lax.scan(
            step, (dy, stack), (steps, residuals.steps), self.length, reverse=True
        )
        return dx, (stack,)


def first_of(x: Array) -> Array:
    """One element, the same on every device: where x lies on several, a sum stands in for it."""
    if is_spread(x):
        return x.sum()
    over = varies(x)
    return jax.lax.psum(x.ravel()[0], over) if over else x.ravel()[0]


def at(stack: Array, i: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(stack, i, 0, keepdims=False)
