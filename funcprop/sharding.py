"""Arrays on several devices: what a layer makes has the type of what it was made of.

The type of an array, `jax.typeof(x)`, says how it lies on the Explicit axes of a mesh, and over
which axes of a `jax.shard_map` it varies. JAX finds out by itself what most operations return, and
asks in three places: a contraction over what is spread, a constant among data, a cut through what
is spread. What stands here answers from the types of the data. Without a mesh in them nothing
changes, and no layer knows of any.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

Entry = Any  # the mesh axes that an axis of an array is spread over: a name, a tuple of them, None


def kind(x: Any) -> Any:
    """The type of an array, or of what describes one; None for what is neither."""
    try:
        return jax.typeof(x)
    except TypeError:
        return x if hasattr(x, "manual_axis_type") else None


def entries(x: Any) -> tuple[Entry, ...]:
    """For every axis of x the Explicit mesh axes it is spread over, or None."""
    spec = tuple(kind(x).sharding.spec) if mesh_of(x) is not None else ()
    return spec + (None,) * (x.ndim - len(spec))


def mesh_of(*trees: Any) -> Any:
    """The mesh that the arrays lie on, where it has Explicit axes; else None."""
    for leaf in jax.tree.leaves(trees):
        mesh = getattr(getattr(kind(leaf), "sharding", None), "mesh", None)
        if mesh is not None and not mesh.empty and mesh.explicit_axes:
            return mesh
    return None


def is_spread(*trees: Any) -> bool:
    """Whether any axis of any array is spread over an Explicit mesh axis."""
    if mesh_of(*trees) is None:
        return False
    return any(entry is not None for x in jax.tree.leaves(trees) for entry in entries(x))


def names(*spec: Entry) -> tuple[str, ...]:
    """The mesh axes in some entries."""
    parts = (entry if isinstance(entry, tuple) else (entry,) for entry in spec)
    return tuple(dict.fromkeys(name for part in parts for name in part if name is not None))


def once(spec: tuple[Entry, ...]) -> tuple[Entry, ...]:
    """The entries without those that use a mesh axis again: an array has each but once."""
    used: set[str] = set()
    out = []
    for entry in spec:
        mine = names(entry)
        out.append(None if used.intersection(mine) else entry)
        used.update(mine)
    return tuple(out)


# --- contractions ---------------------------------------------------------------------------------


def out_as(spec: tuple[Entry, ...], *operands: Any) -> dict[str, Any]:
    """`out_sharding` for a contraction of the operands; nothing where none of them is spread."""
    if not is_spread(*operands):
        return {}
    return {"out_sharding": NamedSharding(mesh_of(*operands), PartitionSpec(*once(spec)))}


def out_like(like: Any, *operands: Any) -> dict[str, Any]:
    """`out_sharding` for the gradient of `like`: it lies where `like` lies."""
    return out_as(entries(like), like, *operands) if is_spread(*operands) else {}


def product_out(x: Any, w: Any) -> dict[str, Any]:
    """`out_sharding` of x w: rows as those of x, features as those of w."""
    return out_as((*entries(x)[:-1], entries(w)[-1]), x, w) if is_spread(x, w) else {}


# --- where arrays lie -----------------------------------------------------------------------------


def spread_as(x: Any, spec: tuple[Entry, ...], *data: Any) -> Any:
    """x spread as the entries say, on the mesh of the data."""
    mesh = mesh_of(x, *data)
    if mesh is None or (entries(x) == once(spec) and mesh_of(x) is not None):
        return x  # a constant has no mesh, and another type than data that is whole on one
    return jax.reshard(x, NamedSharding(mesh, PartitionSpec(*once(spec))))


def whole(tree: Any, first: int = 0) -> Any:
    """The arrays with their axes from `first` on gathered on every device."""

    def gathered(x: Any) -> Any:
        if not is_spread(x):
            return x
        spec, start = entries(x), first % max(len(entries(x)), 1)
        return spread_as(x, (*spec[:start], *(None for _ in spec[start:])))

    return jax.tree.map(gathered, tree)


def beside(params: Any, *data: Any) -> Any:
    """Parameters that can meet the data: gathered along the mesh axes that its examples lie on."""
    if not is_spread(params):
        return params
    taken = set(names(*(entry for x in jax.tree.leaves(data) for entry in entries(x)[:-1])))

    def free(param: Any) -> Any:
        spec = (None if taken.intersection(names(entry)) else entry for entry in entries(param))
        return spread_as(param, tuple(spec), *data)

    return jax.tree.map(free, params) if taken else params


def placed(tree: Any, like: Any) -> Any:
    """The arrays where those of `like` lie, a tree of the same shapes."""
    mesh = mesh_of(tree, like)
    if mesh is None:
        return tree
    return jax.tree.map(
        lambda x, to: None if x is None else spread_as(x, entries(to), tree, like),
        tree, like, is_leaf=lambda x: x is None,
    )  # fmt: skip


def reshaped(x: Any, shape: tuple[int, ...], axes: int) -> Any:
    """x in another shape, of which the last `axes` axes of x change.

    They are gathered, unless their first alone is spread and what it becomes is cut as evenly.
    """
    spec, mesh = entries(x), mesh_of(x)
    first = x.ndim - axes
    if not any(entry is not None for entry in spec[first:]):
        return x.reshape(shape)
    parts = math.prod(mesh.shape[name] for name in names(spec[first]))
    if names(*spec[first + 1 :]) or not shape[first:] or shape[first] % parts:
        x = whole(x, first)
    return x.reshape(shape)


def in_parts(x: Any, parts: int) -> Any:
    """[parts, n, ...] of x [parts · n, ...], every part spread as x was where n can be."""
    shape = (parts, x.shape[0] // parts, *x.shape[1:])
    if not is_spread(x):
        return x.reshape(shape)
    lead, *rest = entries(x)
    cut = reshaped(x, shape, x.ndim)
    even = shape[1] % math.prod(mesh_of(x).shape[name] for name in names(lead)) == 0
    return spread_as(cut, (None, lead if even else None, *rest))


def aligned(parts: Any) -> list[Any]:
    """Arrays that stand side by side along their last axis: that one whole, the others alike."""
    if not is_spread(*parts):
        return list(parts)
    found = zip(*(entries(part)[:-1] for part in parts), strict=True)
    spec = tuple(next((e for e in axis if e is not None), None) for axis in found)
    return [spread_as(part, (*spec, None), *parts) for part in parts]


# --- shard_map ------------------------------------------------------------------------------------


def varies(*trees: Any) -> tuple[str, ...]:
    """The axes of a `jax.shard_map` over which any of the arrays varies."""
    found: dict[str, None] = {}
    for leaf in jax.tree.leaves(trees):
        of = getattr(kind(leaf), "manual_axis_type", None)
        found.update(dict.fromkeys(sorted(of.varying) if of is not None else ()))
    return tuple(found)


def varying(tree: Any, *data: Any) -> Any:
    """The tree, made to vary wherever the data does: what a loop over it starts from."""
    over = varies(*data)
    if not over:
        return tree

    def cast(x: Any) -> Any:
        missing = tuple(name for name in over if name not in varies(x))
        return jax.lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(cast, tree)


def fresh(x: Any, spec: tuple[Entry, ...], *data: Any) -> Any:
    """A constant x, spread as the entries say and varying as the data."""
    return varying(spread_as(x, spec, *data), *data)


def alike(tree: Any, like: Any) -> Any:
    """The tree with the types of `like`: what a loop hands to its next step."""
    tree = placed(tree, like)
    return jax.tree.map(varying, tree, like)


def summed(grads: Any, params: Any) -> Any:
    """Gradients with the types of their parameters.

    Where a parameter does not vary and its gradient does, every device has that of its own data:
    they add up, as in `jax.grad`. Where a parameter is spread, so is its gradient.
    """
    if mesh_of(grads) is None and not varies(grads):
        return grads

    def close(grad: Any, param: Any) -> Any:
        if grad is None:
            return None
        over = tuple(name for name in varies(grad) if name not in varies(param))
        return spread_as(jax.lax.psum(grad, over) if over else grad, entries(param))

    return jax.tree.map(close, grads, params, is_leaf=lambda leaf: leaf is None)


# --- where the rows of a loop are spread ----------------------------------------------------------


def on_each_device(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    specs: tuple[Callable[[Any], tuple[Entry, ...]], ...],
    out: Any,
) -> Any:
    """function(*arguments), each device at work on its own part of what is spread.

    No loop can run along a spread axis. Within the function every array is what one device holds,
    and `total` adds over devices.

    specs   for every argument, a tree of arrays, what gives the entries of each of its arrays
    out     the entries of the results, or a tuple of them, one for each
    """
    if not is_spread(*arguments):
        return function(*arguments)
    mesh, given, in_specs = mesh_of(*arguments), [], []
    for argument, spec in zip(arguments, specs, strict=True):
        given.append(jax.tree.map(lambda x, s=spec: spread_as(x, s(x), *arguments), argument))
        in_specs.append(jax.tree.map(lambda x, s=spec: PartitionSpec(*once(s(x))), argument))
    several = isinstance(out, tuple) and all(isinstance(spec, tuple) for spec in out)
    return jax.shard_map(
        function,
        mesh=mesh,
        axis_names=set(mesh.explicit_axes),
        in_specs=tuple(in_specs),
        out_specs=tuple(PartitionSpec(*once(s)) for s in out)
        if several
        else PartitionSpec(*once(out)),
    )(*given)


def one_each(spec: Entry) -> Callable[[Any], tuple[Entry, ...]]:
    """The entries of arrays whose first axis alone is spread."""
    return lambda x: (spec, *(None for _ in x.shape[1:]))


def total(tree: Any, *spec: Entry) -> Any:
    """The sum over the devices that the entries name, inside of `on_each_device`."""
    over = names(*spec)
    return jax.tree.map(lambda x: jax.lax.psum(x, over), tree) if over and varies(tree) else tree
