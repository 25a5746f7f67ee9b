"""layout: in one line, how a state lies on the devices."""

from __future__ import annotations

import math
from typing import Any

import jax
from jax.sharding import NamedSharding

from funcprop.doors import door
from funcprop.sheets.units import size


@door
def layout(state: Any) -> str:
    """How a state lies, in one line: devices, mesh, how much is spread, how much each holds.

    state  TrainState, or any tree of arrays; parameters are counted one an array, bytes are those
           of the whole state

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, x = fp.Dense(4), jnp.ones((8, 3))
    >>> state = fp.init_state(model, optax.adam(1e-3), jax.random.key(0), x)
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> print(fp.placement.layout(fp.shard(state, mesh, fp.placement.fully_sharded())))
    1 device, mesh (data 1); 0 of 2 parameters spread, 208 B of 208 B a device

    raises  TypeError where nothing lies on a mesh
    """
    leaves = jax.tree.leaves(state)
    lies = [leaf.sharding for leaf in leaves if isinstance(leaf.sharding, NamedSharding)]
    if not lies:
        raise TypeError(
            "nothing of the state lies on a mesh: write layout(fp.shard(state, mesh, placement))"
        )
    mesh = lies[0].mesh
    params = jax.tree.leaves(state.params if hasattr(state, "opt_state") else state)
    spread = sum(not leaf.sharding.is_fully_replicated for leaf in params)
    each = sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves
    )
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    axes = ", ".join(f"{name} {count}" for name, count in mesh.shape.items())
    return (
        f"{mesh.size} device{'s' * (mesh.size > 1)}, mesh ({axes}); {spread} of {len(params)} "
        f"parameters spread, {size(each)} of {size(whole)} a device"
    )
