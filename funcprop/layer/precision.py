"""Precision: sums over 16-bit floats are made in float32, and no square overflows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer.contract import Array


def widen(x: Array) -> Array:
    """float32 for 16-bit floats, everything else unchanged: the dtype sums are accumulated in."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def reciprocal_root(average: Callable[[Array], Array], values: Array, eps: float) -> Array:
    """1 / √(average of values² + eps), also where the squares of large values overflow."""
    mean = average(jnp.square(values))
    # a second sum of squares and not the largest value first: both are made in one pass
    scale = 2.0 ** -int(0.55 * jnp.finfo(values.dtype).maxexp)
    scaled = average(jnp.square(values * scale))
    far = mean == jnp.inf
    near = jax.lax.rsqrt(jnp.where(far, 1, mean) + eps)
    return jnp.where(far, jax.lax.rsqrt(jnp.where(far, scaled, 1)) * scale, near)


def norm_of(tree: Any) -> Array:
    """‖all leaves together‖, in float32 or wider."""
    # scaled by the largest entry first: the squares of large ones would overflow
    wide = [widen(leaf) for leaf in jax.tree.leaves(tree)]
    peak = functools.reduce(jnp.maximum, [jnp.abs(leaf).max(initial=0) for leaf in wide], 1e-30)
    return peak * jnp.sqrt(sum(jnp.sum(jnp.square(leaf / peak)) for leaf in wide))
