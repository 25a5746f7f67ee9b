"""A rule inside of JAX's transformations, one function for each.

Each is (rule, given, others, context, dys, moves) -> leaves [examples, ...]: `given` and `others`
are the arguments of two examples, `dys` a cotangent for each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.comparison.programs import generator, is_key
from funcprop.comparison.subject.rule import Rule
from funcprop.comparison.subject.subject import Subject
from funcprop.gradient import combine, partition
from funcprop.layer import is_float

BATCH = 2  # examples under vmap, scan and shard_map: the given one, and another near by
AWAY = 0.05  # of every number: how far the other one lies

Part = Callable[..., Any]


def pass_of(rule: Rule, given: Any, context: Any, dy: Any) -> Any:
    """The output and the gradient."""
    floats, rest = partition(given)
    y, pullback = jax.vjp(lambda f: rule(combine(f, rest), context), floats)
    return {**pullback(dy)[0], "y": y}


def checkpointed(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    def again(given: Any, context: Any) -> Any:
        floats, rest = partition(given)
        return jax.checkpoint(lambda f: rule(combine(f, rest), context))(floats)

    return one_example(pass_of(again, given, context, first_of(dys)))


def scanned(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    """The gradient of a scan over the examples."""
    keys = [is_key(leaf) for leaf in jax.tree.leaves(given)]

    def over(floats: Any, rest: Any) -> Any:
        def step(carry: None, each: Any) -> Any:
            floats, rest = each
            leaves, tree = jax.tree.flatten(combine(floats, rest))
            own = jax.tree.leaves(given)
            leaves = [old if key else new for new, old, key in zip(leaves, own, keys, strict=True)]
            return carry, rule(jax.tree.unflatten(tree, leaves), context)

        return jax.lax.scan(step, None, (floats, rest))[1]

    floats, rest = partition(_pairs(given, others))
    y, pullback = jax.vjp(lambda f: over(f, rest), floats)
    return {**pullback(dys)[0], "y": y}


def with_integers(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
    """Differentiated by every argument: the cotangents of integers are float0."""
    leaves, tree = jax.tree.flatten(given)
    places = [i for i, leaf in enumerate(leaves) if not is_key(leaf)]

    def of(*moved: Any) -> Any:
        every = list(leaves)
        for i, leaf in zip(places, moved, strict=True):
            every[i] = leaf
        return rule(jax.tree.unflatten(tree, every), context)

    _, pullback = jax.vjp(of, *(leaves[i] for i in places))
    grads: list[Any] = [None] * len(leaves)
    for i, grad in zip(places, pullback(first_of(dys)), strict=True):
        if is_float(leaves[i]):
            grads[i] = grad
        elif grad.dtype != jax.dtypes.float0 or grad.shape != leaves[i].shape:
            raise TypeError(f"the cotangent of an integer is {grad.dtype}{list(grad.shape)}, "
                            f"wanted float0{list(leaves[i].shape)}")  # fmt: skip
    return one_example(jax.tree.unflatten(tree, grads))


def batched_over(leaves: tuple[int, ...], every: bool) -> Part:
    """`vmap` of the gradient over these leaves, and over the cotangent where every one is."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        mixed, axes, tree = _mixed(given, others, leaves)

        def one(flat: list[Any], dy: Any) -> Any:
            return pass_of(rule, jax.tree.unflatten(tree, flat), context, dy)

        dy = dys if every else first_of(dys)
        return jax.vmap(one, in_axes=(axes, 0 if every else None))(mixed, dy)

    return part


def gradient_of_batch(leaves: tuple[int, ...], probe: int | None = None) -> Part:
    """The gradient of `vmap` over these leaves; what is not batched gets the sum over examples."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        mixed, axes, tree = _mixed(given, others, leaves)
        if probe is not None:
            dys = jax.tree.map(lambda leaf: jnp.stack([leaf[probe]] * BATCH), dys)

        def batch(given: Any, context: Any) -> Any:
            flat = jax.tree.leaves(given)
            one = jax.vmap(lambda f: rule(jax.tree.unflatten(tree, f), context), in_axes=(axes,))
            return one(flat)

        found = pass_of(batch, jax.tree.unflatten(tree, mixed), context, dys)
        return _leading(found, given, leaves)

    return part


def only_by(leaves: tuple[int, ...], names: tuple[str, ...]) -> Part:
    """Differentiated by these floats alone: the tangents of the others are symbolic zeros."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        floats, rest = partition(given)
        flat, tree = jax.tree.flatten(floats)

        def of(moved: list[Any]) -> Any:
            every = list(flat)
            for i, leaf in zip(leaves, moved, strict=True):
                every[i] = leaf
            return rule(combine(jax.tree.unflatten(tree, every), rest), context)

        _, pullback = jax.vjp(of, [flat[i] for i in leaves])
        grads = pullback(first_of(dys))[0]
        return one_example(dict(zip(names, grads, strict=True)))

    return part


def only_used(output: int) -> Part:
    """Of several outputs one used: the cotangents of the others are symbolic zeros."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        floats, rest = partition(given)

        def of(floats: Any) -> Any:
            return jax.tree.leaves(rule(combine(floats, rest), context))[output]

        return one_example(jax.vjp(of, floats)[1](jax.tree.leaves(first_of(dys))[output])[0])

    return part


def sharded(check: bool) -> Part:
    """An example on each of two devices."""

    def part(rule: Rule, given: Any, others: Any, context: Any, dys: Any, moves: Any) -> Any:
        mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:BATCH]), ("examples",))
        spec = jax.sharding.PartitionSpec("examples")
        mixed, axes, tree = _mixed(given, others, None)
        moving = [leaf for leaf, axis in zip(mixed, axes, strict=True) if axis == 0]

        def one(moving: list[Any], dy: Any) -> Any:
            rest = iter(moving)
            flat = [
                next(rest)[0] if axis == 0 else leaf for leaf, axis in zip(mixed, axes, strict=True)
            ]
            return one_example(pass_of(rule, jax.tree.unflatten(tree, flat), context, first_of(dy)))

        return jax.shard_map(
            one, mesh=mesh, in_specs=(spec, spec), out_specs=spec, check_vma=check
        )(moving, dys)

    return part


# --- examples -------------------------------------------------------------------------------------


def another(given: Any, subject: Subject) -> Any:
    """Another example near by: floats moved, integers along their first axis, keys as they are."""
    random = generator(subject.key)

    def moved(leaf: Any) -> Any:
        if is_key(leaf):
            return leaf
        leaf = np.asarray(leaf)
        if is_float(leaf):
            return (leaf * (1 + AWAY * random.normal(size=leaf.shape))).astype(leaf.dtype)
        return np.roll(leaf, 1, 0) if leaf.ndim else leaf

    return jax.tree.map(moved, given)


def first_of(dys: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], dys)


def one_example(tree: Any) -> Any:
    """With an axis of one example."""
    return jax.tree.map(lambda leaf: leaf[None], tree)


def stacked(trees: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def gradient_in(found: Any) -> Any:
    return {name: found[name] for name in ("dparams", "dx")}


def one_output(dy: Any, output: int) -> Any:
    """The cotangent of one output, and zeros."""
    leaves, tree = jax.tree.flatten(dy)
    kept = [leaf if i == output else np.zeros_like(leaf) for i, leaf in enumerate(leaves)]
    return jax.tree.unflatten(tree, kept)


def _pairs(given: Any, others: Any) -> Any:
    """Both examples, leaves [examples, ...]; keys too, for `scan` wants an axis."""
    return jax.tree.map(lambda *both: jnp.stack(both), given, others)


def _mixed(
    given: Any, others: Any, leaves: tuple[int, ...] | None
) -> tuple[list[Any], list[int | None], Any]:
    """-> the leaves, those named (or all) of both examples; their axes; and the tree."""
    flat, tree = jax.tree.flatten(given)
    pairs = zip(flat, jax.tree.leaves(others), strict=True)
    mixed, axes = [], []
    for i, (leaf, other) in enumerate(pairs):
        chosen = not is_key(leaf) and (leaves is None or i in leaves)
        mixed.append(jnp.stack([leaf, other]) if chosen else leaf)
        axes.append(0 if chosen else None)
    return mixed, axes, tree


def _positions(given: Any, leaves: tuple[int, ...]) -> list[bool]:
    """Of every float of the arguments, whether it is among these leaves."""
    flat = enumerate(jax.tree.leaves(given))
    return [i in leaves for i, leaf in flat if is_float(leaf)]


def _each(found: Any, given: Any, leaves: tuple[int, ...], change: Callable[[Any], Any]) -> Any:
    """The gradients of what is not batched, changed."""
    flat, tree = jax.tree.flatten(gradient_in(found))
    chosen = _positions(given, leaves)
    pairs = zip(flat, chosen, strict=True)
    flat = [leaf if batched else change(leaf) for leaf, batched in pairs]
    return {**jax.tree.unflatten(tree, flat), "y": found["y"]}


def _leading(found: Any, given: Any, leaves: tuple[int, ...]) -> Any:
    """The sums with an axis of one example."""
    return _each(found, given, leaves, lambda leaf: leaf[None])


def summed_over(stack: Any, given: Any, leaves: tuple[int, ...]) -> Any:
    """Of a stack of passes, the sum where a leaf is not batched."""
    return _each(stack, given, leaves, lambda leaf: leaf.sum(0, keepdims=True))
