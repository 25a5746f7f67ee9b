"""A number for every array of a tree that another bit anywhere would change."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.arguments import is_key
from funcprop.layer import Array


def plain(tree: Any) -> Any:
    """The tree with its keys as the numbers that they hold."""
    return jax.tree.map(lambda leaf: jax.random.key_data(leaf) if is_key(leaf) else leaf, tree)


@functools.partial(jax.jit, static_argnames="copy")
def fingerprint(arrays: dict[str, Array], copy: bool = False) -> Any:
    """-> uint32 [] for each array, and with `copy` the arrays in buffers of their own.

    Σᵢ (2i + 1) bᵢ mod 2³² over its words bᵢ: an odd number times a power of two is never a multiple
    of 2³², so a change of one bit is always seen, and one of many with odds of 1 in 2³². Integers
    add up to the same in any order, so it is that of the whole array however it is spread over
    devices and processes.
    """
    found = {name: _words(leaf) for name, leaf in arrays.items()}
    return (found, jax.tree.map(jnp.copy, arrays)) if copy else found


def _words(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        return _words(leaf.real) + jnp.uint32(0x9E3779B1) * _words(leaf.imag)
    words = _bits(leaf)
    # the position of a word as a sum over axes: none is reshaped, so that none is gathered
    position = jnp.zeros(words.shape, jnp.uint32)
    for axis in range(words.ndim):
        along = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
        position += along * jnp.uint32(math.prod(words.shape[axis + 1 :]) % 2**32)
    return jnp.sum(words.astype(jnp.uint32) * (2 * position + 1), dtype=jnp.uint32)


def _bits(leaf: Array) -> Array:
    """The array as unsigned words of at most 32 bits; of 64 bits with one more axis, of two."""
    if jnp.issubdtype(leaf.dtype, jnp.integer) and jnp.iinfo(leaf.dtype).bits < 8:
        leaf = leaf.astype(jnp.int8)  # int4 and its like
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint8)
    word = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return jax.lax.bitcast_convert_type(leaf, word)
