"""Random inputs by description: what a row of the catalogue is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import Array


@dataclass(frozen=True)
class Spec:
    """An array to draw: `draw(key, dtype)`. Integer and boolean specs ignore the dtype."""

    shape: tuple[int, ...]

    def draw(self, key: Array, dtype: Any) -> Array:
        raise NotImplementedError(f"{type(self).__name__} does not define draw")


@dataclass(frozen=True)
class Normal(Spec):
    """N(mean, scale²)."""

    scale: float = 1.0
    mean: float = 0.0

    def draw(self, key: Array, dtype: Any) -> Array:
        return (self.mean + self.scale * jax.random.normal(key, self.shape)).astype(dtype)


@dataclass(frozen=True)
class Uniform(Spec):
    """U(low, high)."""

    low: float = 0.0
    high: float = 1.0

    def draw(self, key: Array, dtype: Any) -> Array:
        return jax.random.uniform(key, self.shape, minval=self.low, maxval=self.high).astype(dtype)


@dataclass(frozen=True)
class Probabilities(Spec):
    """Rows of the last axis that are distributions."""

    def draw(self, key: Array, dtype: Any) -> Array:
        return jax.nn.softmax(jax.random.normal(key, self.shape)).astype(dtype)


@dataclass(frozen=True)
class Classes(Spec):
    """Integers from 0 to high − 1; a share of them replaced by `ignored`, where given."""

    high: int
    ignored: int | None = None
    dtype: str = "int32"

    def draw(self, key: Array, dtype: Any) -> Array:
        value_key, place_key = jax.random.split(key)
        values = jax.random.randint(value_key, self.shape, 0, self.high, self.dtype)
        if self.ignored is None:
            return values
        # the first example always counts, so that a mean is over something
        flat = jax.random.bernoulli(place_key, 0.3, self.shape).reshape(-1).at[0].set(False)
        return jnp.where(flat.reshape(self.shape), jnp.asarray(self.ignored, self.dtype), values)


@dataclass(frozen=True)
class Mask(Spec):
    """bool, a prefix of True along the last axis for every example: lengths from `shortest`."""

    shortest: int = 1

    def draw(self, key: Array, dtype: Any) -> Array:
        lengths = jax.random.randint(key, self.shape[:-1], self.shortest, self.shape[-1] + 1)
        return jnp.arange(self.shape[-1]) < lengths[..., None]


@dataclass(frozen=True)
class Fixed(Spec):
    """Given values, for ties, zeros and extremes: `Fixed.of([[0.0, 1.0]])`."""

    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Any) -> Fixed:
        array = jnp.asarray(values, jnp.float32)
        return cls(array.shape, tuple(array.ravel().tolist()))

    def draw(self, key: Array, dtype: Any) -> Array:
        return jnp.asarray(self.values, dtype).reshape(self.shape)


def draw(specs: Any, key: Array, dtype: Any) -> Any:
    """A tree of specs -> the tree of arrays, each from its own key."""
    leaves, tree = jax.tree.flatten(specs, is_leaf=lambda leaf: isinstance(leaf, Spec))
    keys = jax.random.split(key, len(leaves))
    drawn = [leaf.draw(k, dtype) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, drawn)
