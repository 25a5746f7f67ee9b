"""A call that was seen, as a function of what is differentiated in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.testing.leaves import Unusable, is_differentiable, is_known
from funcprop.testing.libraries import argument_names, halves, is_differentiated, is_nnx
from funcprop.testing.seen import Example, Slot

# In which values are drawn, one after the other until the function is finite there
DOMAINS: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda z: z,
    np.abs,
    lambda z: 1 / (1 + np.exp(-z)),
    lambda z: 1 + np.abs(z),
    lambda z: positive_definite(z),
)


Members = dict[Slot, dict[str, int]]  # the leaves of each argument, by their places in it


class Call(NamedTuple):
    """A call again.

    target    what `compare` takes: the function of `args`, or its two halves
    function  of `args` alone
    args      what is differentiated: an array, or a dictionary of those in a tree
    names     of the arguments
    """

    target: Any
    function: Callable[..., Any]
    args: tuple[Any, ...]
    names: tuple[str, ...]


def values_of(example: Example, domain: Callable[[np.ndarray], np.ndarray]) -> list[Any]:
    """The leaves of a call, drawn where they were not seen, or not finite."""
    values = [drawn(leaf, i, domain) for i, leaf in enumerate(example.leaves)]
    if any(map(is_differentiable, values)):
        return values
    # numbers of Python are options, unless they are all there is
    return [np.float32(leaf) if isinstance(leaf, float) else leaf for leaf in values]


def drawn(leaf: Any, seed: int, domain: Callable[[np.ndarray], np.ndarray]) -> Any:
    """What was seen and finite, or else values of that shape and dtype.

    Floats are normal, mapped to the domain. Integers are 0 in the first half and 1 in the second,
    which will do for labels, indices and sorted segments, and one alone is 1. Coins alternate.

    Raises Unusable.
    """
    if is_known(leaf):
        return leaf
    if isinstance(leaf, float):
        return 1.0
    shape, dtype = leaf.shape, leaf.dtype
    if jnp.issubdtype(dtype, jax.dtypes.prng_key):
        raise Unusable("it was called in traces alone, with a key that is not known")
    count = int(np.prod(shape, dtype=int))
    if is_differentiable(leaf):
        normal = np.random.default_rng(seed).normal(size=shape)
        return np.asarray(domain(normal)).astype(dtype)
    if dtype.kind == "b":
        return (np.arange(count) % 2 == 0).reshape(shape)
    halves = np.arange(count) >= count // 2
    return halves.reshape(shape).astype(dtype)


def positive_definite(z: np.ndarray) -> np.ndarray:
    """A Aᵀ / n + 1 of square matrices, a positive number of others."""
    if z.ndim < 2 or z.shape[-1] != z.shape[-2]:
        return np.abs(z) + 0.1
    return z @ z.swapaxes(-1, -2) / z.shape[-1] + np.eye(z.shape[-1])


def floats_of(example: Example, values: list[Any]) -> Members:
    """The leaves that are differentiated."""
    found: Members = {}
    for i, (slot, path) in enumerate(example.paths):
        if is_differentiable(values[i]) and is_differentiated(example.rule, slot):
            members = found.setdefault(slot, {})
            members[path if path not in members else f"{path} {i}"] = i
    return found


def as_call(example: Example, values: list[Any], floats: Members, name: str) -> Call:
    """The call with all but `floats` closed over: integers, keys, numbers of Python, and what
    nondiff_argnums names."""
    args = tuple(
        values[members[""]]
        if is_alone(members)
        else {path: values[i] for path, i in members.items()}
        for members in floats.values()
    )
    words = argument_names(example.rule)
    names = tuple(
        words[slot] if isinstance(slot, int) and slot < len(words) else str(slot) for slot in floats
    )
    if is_nnx(example.rule):
        forward, backward = as_pair(example, values, floats)
        forward.__name__ = name
        return Call((forward, backward), lambda *args: forward(*args)[0], args, names)
    function = again(example, values, floats, example.rule)
    function.__name__ = name
    function.__wrapped__ = example.rule  # type: ignore[attr-defined]  # it is the rule itself
    return Call(function, function, args, names)


def again(
    example: Example, values: list[Any], floats: Members, callee: Callable[..., Any]
) -> Callable[..., Any]:
    """`callee` at the arguments of the call, as a function of its floats."""

    def function(*args: Any) -> Any:
        leaves = [jnp.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in values]
        for members, arg in zip(floats.values(), args, strict=True):
            for path, i in members.items():
                leaves[i] = arg if is_alone(members) else arg[path]
        positional, named = jax.tree.unflatten(example.tree, leaves)
        for slot, option in example.static.items():
            (named if isinstance(slot, str) else positional)[slot] = option
        return callee(*positional, **named)

    return function


def as_pair(
    example: Example, values: list[Any], floats: Members
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The two halves of a rule of flax.nnx, as functions of the call's floats."""
    first, second = halves(example.rule)
    options = [example.static[slot] for slot in sorted(example.static, key=str)]
    count = len(jax.tree.unflatten(example.tree, values)[0])
    places: list[Slot] = [slot for slot in range(count) if slot not in example.static]

    def backward(kept: Any, dy: Any) -> tuple[Any, ...]:
        given = dict(zip(places, second(kept, dy, *options), strict=True))
        return tuple(cotangents(given[slot], members) for slot, members in floats.items())

    return again(example, values, floats, first), backward


def cotangents(tree: Any, members: dict[str, int]) -> Any:
    """Those of an argument as `Call.args` has them."""
    if tree is None or is_alone(members):
        return tree
    return dict(zip(members, jax.tree.leaves(tree), strict=True))


def is_alone(members: dict[str, int]) -> bool:
    """Whether the argument is one array."""
    return list(members) == [""]
