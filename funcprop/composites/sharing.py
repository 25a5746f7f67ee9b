"""What becomes of the records of a parameter that is used several times.

`compare`, `collect` and `split_backward` ask a model for other things than gradients: they exchange
its leaves, and in a composite that uses a parameter several times the value that joins the uses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.layer import Layer, LayerError, spell, widen
from funcprop.sharding import alike

Path = tuple[int | str, ...]  # "[0].w" is (0, "w")

NOTHING: frozenset[Path] = frozenset()
EVERYTHING: frozenset[Path] = frozenset([()])
"""What `Composite.reused` is where every parameter is used several times: the path to all."""


@dataclass(frozen=True)
class Sum:
    """The gradient's own definition: what the uses of a parameter send back adds up.

    `OverTime`, `Tied` and every composite that uses a parameter several times pass the second
    results of `backward` through this value, their `shared`, and add none themselves. Something
    that does not add up (a norm has cross terms) needs another value of this kind, whose methods
    see all uses at once.

    steps   (layer, step, each) -> dx, record: of a loop, whose slices step takes
    places  (layer, records) -> record: of uses side by side, of one tree, shapes and dtypes

    raises  `places`, LayerError where the uses have other trees, shapes or dtypes

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> fp.composites.Sum().places(fp.Bias(), (jnp.array([1.0, 2.0]), jnp.array([10.0, 20.0])))
    Array([11., 22.], dtype=float32)
    """

    apart: ClassVar[bool] = False  # whether nothing is joined: what every use left is passed up
    raw: ClassVar[bool] = False  # whether it is not even converted: `Cast` leaves it as it is

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


@functools.partial(jax.tree_util.register_dataclass, data_fields=["each"], meta_fields=[])
@dataclass(frozen=True)
class Uses:
    """What several uses of a parameter left, side by side."""

    each: tuple[Any, ...]


@dataclass(frozen=True)
class Apart(Sum):
    """What each use left, side by side, and joined by nobody: the steps' stacked on axis 0.

    A loop, not a batch of steps: XLA's CPU compiler (jaxlib 0.10.2) picks layouts for products
    stacked in this way that it then refuses to emit, and ends the process.
    """

    apart: ClassVar[bool] = True

    def steps(
        self, layer: Layer, step: Callable[[Any], tuple[Any, Any]], each: Any
    ) -> tuple[Any, Any]:
        return lax.map(step, each)

    def places(self, layer: Layer, records: tuple[Any, ...]) -> Any:
        return Uses(records)


@dataclass(frozen=True)
class Raw(Apart):
    """The same as the uses left it: nothing is converted on its way up either."""

    raw: ClassVar[bool] = True


def spell_tree(tree: Any) -> tuple[Any, ...]:
    """Structure, shapes and dtypes, to compare."""
    return jax.tree.structure(tree), [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
