"""What becomes of the records of a parameter that is used several times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.layer import Layer, LayerError, spell, widen
from funcprop.sharding import alike


@dataclass(frozen=True)
class Sum:
    """The gradient's own definition: what the uses of a parameter send back adds up.

    `OverTime` and `Tied` pass the second results of `backward` through this value, and nothing
    else in the library sums them. Something that does not add up (a norm has cross terms) needs
    another value of this kind, whose methods see all uses at once.
    """

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        """`step` on every slice of `each` along axis 0 -> dx, stacked, and one record of all uses.

        step(slice) -> dx, record. The records are summed on the way, so that no two of them exist
        at once, and 16-bit ones in float32.
        """
        first = jax.eval_shape(lambda each: step(jax.tree.map(lambda leaf: leaf[0], each))[1], each)

        def walk(total: Any, slice: Any) -> tuple[Any, Any]:
            dx, record = step(slice)
            return jax.tree.map(lambda sum, use: sum + use.astype(sum.dtype), total, record), dx

        zeros = jax.tree.map(lambda leaf: widen(jnp.zeros(leaf.shape, leaf.dtype)), first)
        zeros = alike(zeros, first)
        total, dx = lax.scan(walk, zeros, each)
        return dx, jax.tree.map(lambda sum, like: sum.astype(like.dtype), total, first)

    def places(self, layer: Layer, records: tuple[Any, ...]) -> Any:
        """A tuple of trees, one a use -> the tree of one parameter."""
        first = records[0]
        for record in records[1:]:
            if spell_tree(record) != spell_tree(first):
                raise LayerError(
                    layer,
                    f"the gradients of a tied parameter are {spell(first)} and {spell(record)}, "
                    "which have no sum",
                )
        return jax.tree.map(lambda *uses: sum(uses[1:], uses[0]), *records)


def spell_tree(tree: Any) -> tuple[Any, ...]:
    """Structure, shapes and dtypes, to compare."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
