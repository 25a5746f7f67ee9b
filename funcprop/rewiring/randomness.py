"""Random numbers for a backward pass, which has no key."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.layer import Array


def key_from(tree: Any) -> Array:
    """A key that is a function of all bits in a tree of arrays.

    Equal numbers give an equal key, so what draws from it is pure; a change of one bit gives an
    unrelated one. It is a hash of 32 bits: good for noise, not for secrets.
    """
    hashed = jnp.uint32(0)
    for leaf in jax.tree.leaves(tree):
        bits = words(leaf)
        place = (lax.iota(jnp.uint32, bits.size) + jnp.uint32(1)) * jnp.uint32(0x9E3779B9)
        hashed = mixed(hashed + jnp.sum(mixed(bits + place), dtype=jnp.uint32))
    return jax.random.key(hashed)


def words(leaf: Array) -> Array:
    """The bits of an array of floats or integers as uint32 [n]; narrow ones fill a word each."""
    kind = {1: jnp.uint8, 2: jnp.uint16}.get(leaf.dtype.itemsize, jnp.uint32)
    return lax.bitcast_convert_type(leaf, kind).astype(jnp.uint32).ravel()


def mixed(word: Array) -> Array:
    """A bijection of uint32 in which every bit moves every other: that of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        word = (word ^ (word >> jnp.uint32(shift))) * jnp.uint32(factor)
    return word ^ (word >> jnp.uint32(16))
