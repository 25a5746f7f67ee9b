"""The table of lifted functions: what a row is, and numbers to draw its parameters from."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

EXAMPLES = 3


@dataclass(frozen=True)
class Row:
    """A function of one example.

    make       () -> loss(params, example), params, x; called where float64 is on
    library    without which the row is skipped
    tolerance  over the largest leaf of the gradient
    wrong      why the row fails
    """

    name: str
    make: Callable[[], Any]
    library: str = ""
    tolerance: float = 1e-9
    wrong: str = ""


ROWS: dict[str, Row] = {}


def row(name: str, **options: Any) -> Callable[..., Any]:
    """Adds a row."""

    def add(make: Callable[[], Any]) -> Callable[[], Any]:
        assert name not in ROWS
        ROWS[name] = Row(name, make, **options)
        return make

    return add


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed + sum(shape)).normal(size=shape)


def normal(*shape: int, seed: int = 0) -> Any:
    return jnp.asarray(random(*shape, seed=seed))


def whole(high: int, *shape: int, low: int = 0) -> Any:
    return jnp.asarray(np.random.default_rng(high).integers(low, high, shape))


def drawn(shapes: Any) -> Any:
    """A tree of shapes -> parameters, none of them at its initial value; integers are zero."""

    def one(i: int, leaf: Any) -> Any:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            return jnp.zeros(leaf.shape, leaf.dtype)
        return jnp.asarray(random(*leaf.shape, seed=i) / 2 + 0.2)

    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([one(i, leaf) for i, leaf in enumerate(leaves)])
