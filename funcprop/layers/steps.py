"""What a walk along time is made of: stretches of steps, steps that are masked, and gates."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import Array, widen
from funcprop.sharding import out_as

State = tuple[Array, ...]  # (h,), or (h, c) for the LSTM: [..., H] each
STRETCH = 16  # steps; measured on the CPU: longer stretches cost memory, shorter ones time


def stretches(steps: int) -> tuple[int, int]:
    """How many, and of how many steps each; a prime number of steps stays whole."""
    size = max(n for n in range(1, STRETCH + 1) if steps % n == 0)
    return (steps // size, size) if size >= STRETCH // 4 else (1, steps)


def piece(a: Array, k: Array, size: int) -> Array:
    """Stretch k of a [..., T, features], with time first."""
    return jnp.moveaxis(jax.lax.dynamic_slice_in_dim(a, k * size, size, a.ndim - 2), -2, 0)


def cut(tree: Any, size: int) -> Any:
    """Arrays [T, ...] -> [stretches, size, ...]."""
    return jax.tree.map(lambda a: a.reshape(a.shape[0] // size, size, *a.shape[1:]), tree)


def visible(a: Array, counts: Array | None) -> Array:
    """Zero where a step is masked: replaced, not multiplied, since what lies there may be NaN."""
    return a if counts is None else jnp.where(counts[..., None], a, 0)


def select(counts: Array | None, new: State, old: State) -> State:
    """`new` where a step counts, `old` where it is masked."""
    if counts is None:
        return new
    return tuple(jnp.where(counts[..., None], n, o) for n, o in zip(new, old, strict=True))


def gates_of(a: Array, features: int) -> list[Array]:
    """[..., G H] -> G arrays [..., H]."""
    return [a[..., i : i + features] for i in range(0, a.shape[-1], features)]


def wide(dtype: Any) -> Any:
    """The dtype that sums over `dtype` are accumulated in."""
    return widen(jnp.zeros((), dtype)).dtype


def project(a: Array, w: Array) -> Array:
    """a w: operands in the dtype of w, the sum in float32 at least."""
    return jnp.matmul(a.astype(w.dtype), w, preferred_element_type=wide(w.dtype))


def contract(a: Array, dz: Array, dtype: Any) -> Array:
    """Σ aᵀ dz over all axes but the last, as one matmul: the gradient of a weight."""
    leading = tuple(range(dz.ndim - 1))
    a, dz = a.astype(dtype), dz.astype(dtype)
    return jnp.tensordot(
        a,
        dz,
        (leading, leading),
        preferred_element_type=wide(dtype),
        **out_as((None, None), a, dz),
    )
