"""shard, shard_batch: states and batches laid on the devices of a mesh, as a placement says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from funcprop.doors import door
from funcprop.placement.values import Placement, fits
from funcprop.sharding import names

Specs = dict[tuple[str, ...], tuple[tuple[int, ...], PartitionSpec]]  # path -> shape, spec


@door
def shard(state: Any, mesh: Mesh, placement: Placement) -> Any:
    """The same state, laid on the devices of a mesh: what a step is given.

    state      TrainState, or parameters alone
    mesh       of `jax.make_mesh`; its axes may be Explicit, their default, or Auto
    placement  `fp.placement.data_parallel()`, `fully_sharded()`, `tensor_parallel(model)`, several
               of them, `one | other`, or rows of your own, `fp.placement.Placement(rows=...)`

    Parameters lie as the placement says. Arrays of the optimizer's state lie as the parameter whose
    path ends theirs, where they have its shape: `.opt_state[0].mu[0].w` as `[0].w`. All else,
    statistics, key and step too, is whole on every device. Nothing is copied that lies right
    already. Several processes give the same state each.

    raises  TypeError where mesh or placement is none, ValueError where the mesh lacks an axis that
            the placement names, a row fits no parameter or has more axes than one, or a size is no
            multiple of the mesh axes that a row cuts it by

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> model, optimizer, x = fp.Dense(4), optax.adam(1e-3), jnp.ones((8, 3))
    >>> state = fp.init_state(model, optimizer, jax.random.key(0), x)
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> state = fp.shard(state, mesh, fp.placement.fully_sharded())
    >>> state.params.w.sharding.spec, state.opt_state[0].mu.w.sharding.spec
    (P(None, 'data'), P(None, 'data'))
    """
    where = shardings(state, mesh, placement)
    return jax.tree.map(across, state, where) if is_shared(mesh) else jax.device_put(state, where)


@door
def shard_batch(batch: Any, mesh: Mesh, placement: Placement) -> Any:
    """The same batch, laid on the devices of a mesh.

    batch      a tree of arrays, as (x, target): axis 0 are the examples
    mesh       of `jax.make_mesh`
    placement  as for `shard`

    Several processes give each its own part of the batch: their number divides the examples, and
    the batch is all of them together. Where the placement leaves the examples whole, as
    `pipeline_parallel` does, each gives the same batch.

    raises  TypeError where mesh or placement is none, or batch holds what is no array, ValueError
            where the mesh lacks an axis that the placement names, or a size is no multiple of the
            mesh axes that cut it

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> mesh = jax.make_mesh((1,), ("data",))
    >>> x, y = fp.shard_batch((jnp.ones((8, 3)), jnp.zeros(8)), mesh, fp.placement.data_parallel())
    >>> x.sharding.spec, y.sharding.spec
    (P('data',), P('data',))
    """
    check(mesh, placement)

    def put(path: Any, leaf: Any) -> Any:
        def spec(shape: tuple[int, ...]) -> NamedSharding:
            name = jax.tree_util.keystr(path)
            return NamedSharding(mesh, placement.batch_spec(name, shape, dict(mesh.shape)))

        if not hasattr(leaf, "shape"):
            name = jax.tree_util.keystr(path)
            raise TypeError(
                f"batch{name} is {leaf!r}, wanted an array: give arrays, as (x, target)"
            )
        if not is_shared(mesh):
            return jax.device_put(leaf, spec(leaf.shape))
        if not names(*placement.batch[:1]):
            return across(leaf, spec(leaf.shape))
        whole = (leaf.shape[0] * jax.process_count(), *leaf.shape[1:]) if leaf.ndim else ()
        return jax.make_array_from_process_local_data(spec(whole), leaf, whole)

    return jax.tree.map_with_path(put, batch)


@door
def shardings(state: Any, mesh: Mesh, placement: Placement) -> Any:
    """Where `shard` would lay each array: a tree of NamedSharding like the state.

    state      TrainState or parameters, of arrays or of ShapeDtypeStruct
    mesh       of `jax.make_mesh`
    placement  as for `shard`

    So that a state is made where it lies, and never whole on one device, and that a step on Auto
    axes leaves it there: `jax.jit(step, out_shardings=(shardings(state, mesh, placement), None))`.

    raises  what `shard` raises

    >>> import jax, jax.numpy as jnp, optax
    >>> import funcprop as fp
    >>> x, mesh = jnp.ones((8, 3)), jax.make_mesh((1,), ("data",))
    >>> start = lambda key: fp.init_state(fp.Dense(4), optax.adam(1e-3), key, x)
    >>> shapes = jax.eval_shape(start, jax.random.key(0))
    >>> where = fp.placement.shardings(shapes, mesh, fp.placement.fully_sharded())
    >>> state = jax.jit(start, out_shardings=where)(jax.random.key(0))
    >>> state.params.w.sharding.spec
    P(None, 'data')
    """
    check(mesh, placement)
    is_state = hasattr(state, "params") and hasattr(state, "opt_state")
    specs = specs_of(state.params if is_state else state, mesh, placement)

    def laid(spec: Callable[[Any, Any], PartitionSpec], tree: Any) -> Any:
        return jax.tree.map_with_path(lambda p, leaf: NamedSharding(mesh, spec(p, leaf)), tree)

    def own(path: Any, leaf: Any) -> PartitionSpec:
        return specs[named(path)][1]

    if not is_state:
        return laid(own, state)
    everywhere = laid(lambda path, leaf: PartitionSpec(), state)
    return everywhere._replace(
        params=laid(own, state.params),
        opt_state=laid(lambda p, leaf: mirrored(named(p), leaf.shape, specs), state.opt_state),
    )


def is_shared(mesh: Mesh) -> bool:
    """Whether some devices of a mesh are another process's."""
    return any(device.process_index != jax.process_index() for device in mesh.devices.flat)


def across(leaf: Any, sharding: NamedSharding) -> Any:
    """An array that every process holds, as one that lies on the devices of all of them."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        bare = across(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(bare, impl=jax.random.key_impl(leaf))
    held = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: held[index])


def named(path: Any) -> tuple[str, ...]:
    """A path as words: ("[0]", ".w")."""
    return tuple(jax.tree_util.keystr((key,)) for key in path)


def specs_of(params: Any, mesh: Mesh, placement: Placement) -> Specs:
    """The spec of every parameter. Raises ValueError where a row fits none."""
    leaves = [(named(path), leaf.shape) for path, leaf in jax.tree.leaves_with_path(params)]
    paths = ["".join(path) for path, _ in leaves]
    for pattern, _ in placement.rows:
        if not any(fits(pattern, path) for path in paths):
            some = ", ".join(paths[:6]) + (", ..." if paths[6:] else "")
            raise ValueError(
                f"the row {pattern!r} fits no parameter: there are {some or 'none'}; write a path "
                "as it stands there, with * for any characters; tensor_parallel(model) wants the "
                "model or the objective whose parameters these are"
            )
    sizes = dict(mesh.shape)
    return {path: (shape, placement.spec("".join(path), shape, sizes)) for path, shape in leaves}


def mirrored(path: tuple[str, ...], shape: tuple[int, ...], specs: Specs) -> PartitionSpec:
    """The spec of what an optimizer keeps for the parameter whose path ends its own."""
    for start in range(len(path)):
        if path[start:] in specs:
            like, spec = specs[path[start:]]
            return spec if like == shape else PartitionSpec()
    return in_layer(path, shape, specs)


def in_layer(path: tuple[str, ...], shape: tuple[int, ...], specs: Specs) -> PartitionSpec:
    """The same under `update_step`, whose entry i holds the state of the i-th layer."""
    layers = list(dict.fromkeys(own[:-1] for own in specs))
    number = path[0].strip("[]") if path else ""
    if number.isdigit() and int(number) < len(layers):
        like, spec = specs.get((*layers[int(number)], path[-1]), (None, PartitionSpec()))
        if like == shape:
            return spec
    return PartitionSpec()


def check(mesh: Any, placement: Any) -> None:
    """Raises TypeError for another mesh or placement, ValueError for an axis that is missing."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh is {mesh!r}, wanted a mesh: "
            'write jax.make_mesh((jax.device_count(),), ("data",))'
        )
    if not isinstance(placement, Placement):
        raise TypeError(
            f"placement is {placement!r}, wanted a Placement: write fp.placement.data_parallel()"
        )
    for name in placement.axes:
        if name not in mesh.shape:
            raise ValueError(
                f"the placement names the mesh axis {name!r}, and the mesh has "
                f"{', '.join(map(repr, mesh.shape))}: write jax.make_mesh(sizes, "
                f"{(*mesh.shape, name)!r}), or give the placement the name of an axis it has"
            )
