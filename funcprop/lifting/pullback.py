"""What a lifted function keeps for its backward pass."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from funcprop.layer import Params
from funcprop.lifting.uses import Plan


class LiftedResiduals(NamedTuple):
    """What Lifted keeps."""

    pullback: Any  # what jax.vjp returns: a pytree that holds JAX's own residuals
    seen: Any = ()  # where the uses are asked: the pullback that tells what they saw


@jax.tree_util.register_static
@dataclass(frozen=True)
class Kept:
    """What stands beside residuals, and is no array: equal wherever the same is traced."""

    plan: Plan
    size: int


class Seeing(NamedTuple):
    """What is kept where the uses are asked."""

    kept: list[Any]  # their operands, where no checkpoint computes them again
    static: Kept
    pullback: Any = ()  # where it is not that of the function itself


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["leaves"], meta_fields=["own", "tree"]
)
@dataclass(frozen=True)
class Pullback:
    """What `jax.vjp` returns, without parameters, of which backward is given the same.

    Its tree is the same whenever the same function is traced. JAX's own is another one every time,
    and would have every step compiled.
    """

    leaves: list[Any]
    own: tuple[int | None, ...]  # for every leaf of JAX's, which parameter it is, if it is one
    tree: Any

    @staticmethod
    def of(pullback: Any, params: Params, key: Any) -> Pullback:
        leaves, tree = jax.tree.flatten(pullback)
        number = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(params))}
        own = tuple(number.get(id(leaf)) for leaf in leaves)
        types = tuple(map(jax.typeof, leaves))  # of one mesh, too
        text = without_addresses(str(tree))  # its jaxpr, which a closure may have changed
        rest = [leaf for leaf, i in zip(leaves, own, strict=True) if i is None]
        try:
            return Pullback(rest, own, remembered(TREES, (key, types, text), tree))
        except TypeError:  # a function that cannot be hashed
            return Pullback(rest, own, tree)

    def __call__(self, params: Params, dy: Any) -> Any:
        given, rest = jax.tree.leaves(params), iter(self.leaves)
        leaves = [next(rest) if i is None else given[i] for i in self.own]
        return self.tree.unflatten(leaves)(dy)


def without_addresses(text: str) -> str:
    """A text that is the same whenever the same is traced."""
    return re.sub("0x[0-9a-f]+", "", text)


TREES: dict[Any, Any] = {}
LIMIT = 1024  # of what is remembered of functions


def remembered(known: dict[Any, Any], key: Any, value: Any) -> Any:
    """The value that is known under the key, or this one from now on."""
    if key not in known and len(known) >= LIMIT:
        del known[next(iter(known))]
    return known.setdefault(key, value)
