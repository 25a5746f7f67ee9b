"""Random inputs by description: what a row of the catalogue is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np


@dataclass(frozen=True)
class Spec:
    """An array to draw by NumPy: nothing is compiled. Integer and boolean specs ignore `dtype`."""

    shape: tuple[int, ...]

    def kind(self, dtype: Any) -> Any:
        """The dtype of what is drawn where floats are to be `dtype`."""
        return dtype

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        """One such array."""
        raise NotImplementedError(f"{type(self).__name__} does not define draw")


@dataclass(frozen=True)
class Normal(Spec):
    """N(mean, scale²), floats of a shape.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> fp.catalogue.Normal((2, 3)).draw(np.random.default_rng(0), "float32").shape
    (2, 3)
    """

    scale: float = 1.0
    mean: float = 0.0

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        return np.asarray(random.normal(self.mean, self.scale, self.shape)).astype(dtype)


@dataclass(frozen=True)
class Uniform(Spec):
    """U(low, high), floats of a shape.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> fp.catalogue.Uniform((2, 3), 1.0, 2.0).draw(np.random.default_rng(0), "float32").min() >= 1
    np.True_
    """

    low: float = 0.0
    high: float = 1.0

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        return np.asarray(random.uniform(self.low, self.high, self.shape)).astype(dtype)


@dataclass(frozen=True)
class Probabilities(Spec):
    """Rows of the last axis that are distributions: floats that sum to 1.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> fp.catalogue.Probabilities((2, 3)).draw(np.random.default_rng(0), "float32").sum().round(3)
    np.float32(2.0)
    """

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        parts = np.exp(random.normal(size=self.shape))
        return (parts / parts.sum(-1, keepdims=True)).astype(dtype)


@dataclass(frozen=True)
class Classes(Spec):
    """Integers from 0 to high − 1; a share of them replaced by `ignored`, where given.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> fp.catalogue.Classes((4,), 10).draw(np.random.default_rng(0), "float32").dtype
    dtype('int32')
    """

    high: int
    ignored: int | None = None
    dtype: str = "int32"

    def kind(self, dtype: Any) -> Any:
        return self.dtype

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        values = random.integers(0, self.high, self.shape)
        if self.ignored is not None:
            places = random.random(self.shape) < 0.3
            places.flat[0] = False  # the first example always counts: a mean is over something
            values = np.where(places, self.ignored, values)
        return np.asarray(values).astype(self.dtype)


@dataclass(frozen=True)
class Mask(Spec):
    """bool, a prefix of True along the last axis for every example: lengths from `shortest`.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> fp.catalogue.Mask((2, 5)).draw(np.random.default_rng(0), "float32").dtype
    dtype('bool')
    """

    shortest: int = 1

    def kind(self, dtype: Any) -> Any:
        return bool

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        lengths = random.integers(self.shortest, self.shape[-1] + 1, self.shape[:-1])
        return np.arange(self.shape[-1]) < np.asarray(lengths)[..., None]


@dataclass(frozen=True)
class Fixed(Spec):
    """Given values, for ties, zeros and extremes.

    >>> import numpy as np
    >>> import funcprop as fp
    >>> fp.catalogue.Fixed.of([[0.0, 1.0]]).draw(np.random.default_rng(0), "float32").shape
    (1, 2)
    """

    values: tuple[float, ...] = ()

    @classmethod
    def of(cls, values: Any) -> Fixed:
        array = np.asarray(values, np.float32)  # importing the catalogue starts no device
        return cls(array.shape, tuple(array.ravel().tolist()))

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        return np.asarray(self.values).astype(dtype).reshape(self.shape)


def is_spec(leaf: Any) -> bool:
    """Whether a leaf of a tree is a Spec."""
    return isinstance(leaf, Spec)


def draw(specs: Any, random: np.random.Generator, dtype: Any) -> Any:
    """A tree of specs -> the tree of arrays on the device. `jnp.asarray` would compile programs."""
    return jax.tree.map(
        lambda spec: jax.device_put(spec.draw(random, dtype)), specs, is_leaf=is_spec
    )


def structs(specs: Any, dtype: Any) -> Any:
    """A tree of specs -> the tree of shapes and dtypes of what they draw."""
    return jax.tree.map(
        lambda spec: jax.ShapeDtypeStruct(spec.shape, spec.kind(dtype)), specs, is_leaf=is_spec
    )
