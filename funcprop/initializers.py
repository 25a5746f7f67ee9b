"""How parameters start: frozen values around `jax.nn.initializers`, so that layers compare equal.

Each is called as `initializer(key, shape, dtype)`. For weights `[..., in, out]`, fan-in is the
product of all sizes but the last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.nn import initializers


class Initializer(Protocol):
    """(key, shape, dtype) -> array. Implementations are frozen dataclasses."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array: ...


@dataclass(frozen=True)
class Zeros:
    """All zeros."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.zeros(shape, dtype)


@dataclass(frozen=True)
class Constant:
    """All equal to `value`."""

    value: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.full(shape, self.value, dtype)


@dataclass(frozen=True)
class Normal:
    """N(0, stddev²). Nielsen's first networks draw weights and biases from N(0, 1)."""

    stddev: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return initializers.normal(self.stddev)(key, shape, dtype)


@dataclass(frozen=True)
class Uniform:
    """U(−limit, limit)."""

    limit: float

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -self.limit, self.limit)


@dataclass(frozen=True)
class VarianceScaling:
    """Variance `scale` / fan. `VarianceScaling(1.0, "fan_in", "normal")` is N(0, 1/√n_in)."""

    scale: float = 1.0
    mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in"
    distribution: Literal["normal", "truncated_normal", "uniform"] = "truncated_normal"

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return initializers.variance_scaling(self.scale, self.mode, self.distribution)(
            key, shape, dtype
        )


@dataclass(frozen=True)
class GlorotUniform(VarianceScaling):
    """Glorot and Bengio (2010), uniform: variance 2 / (n_in + n_out)."""

    mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_avg"
    distribution: Literal["normal", "truncated_normal", "uniform"] = "uniform"


@dataclass(frozen=True)
class GlorotNormal(VarianceScaling):
    """Glorot and Bengio (2010), truncated normal: variance 2 / (n_in + n_out)."""

    mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_avg"


@dataclass(frozen=True)
class HeNormal(VarianceScaling):
    """He et al. (2015), truncated normal: variance 2 / n_in, for rectifiers."""

    scale: float = 2.0


@dataclass(frozen=True)
class HeUniform(VarianceScaling):
    """He et al. (2015), uniform: variance 2 / n_in, for rectifiers."""

    scale: float = 2.0
    distribution: Literal["normal", "truncated_normal", "uniform"] = "uniform"


@dataclass(frozen=True)
class LecunNormal(VarianceScaling):
    """LeCun et al. (1998), truncated normal: variance 1 / n_in."""


@dataclass(frozen=True)
class LecunUniform(VarianceScaling):
    """LeCun et al. (1998), uniform: variance 1 / n_in."""

    distribution: Literal["normal", "truncated_normal", "uniform"] = "uniform"


@dataclass(frozen=True)
class Orthogonal:
    """A random (semi-)orthogonal matrix times `scale`: Saxe et al. (2013)."""

    scale: float = 1.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return initializers.orthogonal(self.scale)(key, shape, dtype)
