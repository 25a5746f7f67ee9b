"""Repeat: one layer n times, each with its own parameters, as a loop over stacked parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.composites.composite import Composite
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    check_count,
    inside,
    spell,
)
from funcprop.sharding import alike, entries, is_spread, placed, spread_as, varies, varying


class RepeatResiduals(NamedTuple):
    """What Repeat keeps."""

    steps: Residuals  # what the layer keeps, every leaf stacked over the steps on axis 0
    mask: Array | None  # the context's mask, where the layer keeps it: once, not once a step


@dataclass(frozen=True, init=False, repr=False)
class Repeat(Composite):
    """y = fₙ(… f₂(f₁(x))): `Serial` of n times one layer, compiled once whatever n.

    The parameters of the steps are stacked on axis 0 of every leaf, and so are the second results
    of backward, the statistics and the residuals. Each step draws from a key of its own; all read
    one mask. In `init` every step sees the same x.

    To an optimizer a stack [length, in, out] is one array of three axes: what goes by the number of
    axes or takes a norm of each array (muon, lamb, adafactor, a mask by `ndim`) would do something
    else than to its layers. `init_state` refuses it, and `per_layer` shows it each layer.

    forward   x -> y, of one tree with equal shapes and dtypes, for example [..., features]
    keeps     what the layer keeps of every step, stacked
    backward  dy -> dx, from the last step to the first: the chain rule
    dtypes    those of the layer
    raises    LayerError where length is no positive whole number, a leaf of params has not as many
              steps on axis 0, or a step changes the tree, shapes or dtypes of x or dy; the layer's
              own errors, with their place in the model

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Repeat(fp.Skip(fp.Dense(4)), 12), jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> params[0][0].w.shape
    (12, 4, 4)
    >>> jax.eval_shape(model.forward, params, x)[0].shape
    (8, 4)
    """

    length: int

    def __init__(self, layer: Layer, length: int) -> None:
        object.__setattr__(self, "length", length)
        super().__init__(layer)
        check_count(self, "length", length)

    def __repr__(self) -> str:
        return f"Repeat({self.layers[0]!r}, length={self.length})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return Repeat(*layers, length=self.length)

    @property
    def stacked(self) -> int:  # type: ignore[override]
        return self.length

    def in_place(self) -> Layer:
        return InPlaceRepeat(*self.layers, length=self.length) if type(self) is Repeat else self

    def init(self, key: Array, x: Any) -> Params:
        with inside(self, 0):
            return (init_stack(self.layers[0], key, x, self.length),)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, RepeatResiduals]:
        keys = None if context.key is None else jax.random.split(context.key, self.length)
        return self.forward_steps(params, x, keys, context.mask)

    def forward_steps(
        self, params: Params, x: Any, keys: Array | None, mask: Array | None
    ) -> tuple[Any, RepeatResiduals]:
        """`forward` with the keys of the steps themselves, [length]: they may be part of a loop."""
        stack = check_stack(self, self.entries("params", params), self.length)[0]

        def step(x: Any, each: tuple[Params, Array | None]) -> tuple[Any, Residuals]:
            p, key = each
            with inside(self, 0):
                y, kept = self.layers[0].forward(p, x, Context(key, mask))
            check_like(self, "the output of a step", y, "its input", x)
            return alike(y, x), without_mask(kept, mask)

        y, steps = lax.scan(step, varying(x, stack, mask), (stack, keys), length=self.length)
        return y, RepeatResiduals(steps, mask if holds_slots(steps) else None)

    def backward(self, params: Params, residuals: RepeatResiduals, dy: Any) -> tuple[Any, Params]:
        stack = check_stack(self, self.entries("params", params), self.length)[0]

        def step(dy: Any, each: tuple[Params, Residuals]) -> tuple[Any, Params]:
            p, kept = each
            with inside(self, 0):
                dx, dp = self.layers[0].backward(p, with_mask(kept, residuals.mask), dy)
            check_like(self, "dx of a step", dx, "its dy", dy)
            return alike(dx, dy), dp

        dy = varying(dy, stack, residuals)
        dx, dstack = lax.scan(step, dy, (stack, residuals.steps), self.length, reverse=True)
        return dx, (dstack,)

    def statistics(self, residuals: RepeatResiduals) -> Any:
        def observed(kept: Residuals) -> Any:
            return self.layers[0].statistics(with_mask(kept, residuals.mask))

        found = jax.vmap(observed, axis_size=self.length)(residuals.steps)
        return (found,) if jax.tree.leaves(found) else ()

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        (stack,) = check_stack(self, self.entries("params", params), self.length)
        (found,) = ((),) if statistics == () else self.entries("statistics", statistics)
        with inside(self, 0):
            layer, stack = infer_stack(self.layers[0], stack, found, self.length)
        return self.rebuild((layer,)), (stack,)


class InPlaceRepeat(Repeat):
    """`Repeat` whose second result is written over the stacked parameters where they lie.

    The records must have the tree of the parameters. XLA updates a loop's carry in place where
    every write is ordered after the last read of the slice. So what is written to each leaf
    depends on an element of the one written before, and the first on dx. And a slice is computed
    into its place, without a copy, where one index reads and writes it and nothing between
    reshapes: so what is written keeps the axis of the stack.
    """

    def backward(self, params: Params, residuals: RepeatResiduals, dy: Any) -> tuple[Any, Params]:
        stack = check_stack(self, self.entries("params", params), self.length)[0]

        def step(carry: tuple[Any, Params], each: tuple[Array, Residuals]) -> tuple[Any, None]:
            (dy, stack), (i, kept) = carry, each
            p = jax.tree.map(lambda leaf: at(leaf, i), stack)
            with inside(self, 0):
                dx, new = self.layers[0].backward(p, with_mask(kept, residuals.mask), dy)
            check_like(self, "dx of a step", dx, "its dy", dy)
            check_like(self, "the record of a step", new, "its parameters", p)
            token = first_of(jax.tree.leaves(dx)[0])
            written = []
            for leaf, value in zip(jax.tree.leaves(stack), jax.tree.leaves(new), strict=True):
                # i is never negative, which XLA cannot know before the token is there; an element
                # read at i alone it would know without this write
                never = (token > 0) & (i < 0)
                value = jnp.where(never, jnp.zeros_like(value)[None], value[None])
                leaf = lax.dynamic_update_slice_in_dim(leaf, value, i, 0)
                token = first_of(at(leaf, i + never.astype(i.dtype)))
                written.append(leaf)
            return (alike(dx, dy), jax.tree.unflatten(jax.tree.structure(stack), written)), None

        steps, dy = jnp.arange(self.length, dtype=jnp.int32), varying(dy, stack, residuals)
        (dx, stack), _ = lax.scan(
            step, (dy, stack), (steps, residuals.steps), self.length, reverse=True
        )
        return dx, placed((stack,), params)


def first_of(x: Array) -> Array:
    """One element, the same on every device: where x lies on several, a sum stands in for it."""
    if is_spread(x):
        return x.sum()
    over = varies(x)
    return lax.psum(x.ravel()[0], over) if over else x.ravel()[0]


def at(stack: Array, i: Array) -> Array:
    return lax.dynamic_index_in_dim(stack, i, 0, keepdims=False)


# --- stacks: trees whose leaves have the steps on axis 0 ------------------------------------------


def init_stack(layer: Layer, key: Array, x: Any, length: int) -> Params:
    """The layer's parameters for each of `length` keys, stacked."""
    return jax.vmap(lambda key: layer.init(key, x))(jax.random.split(key, length))


def infer_stack(layer: Layer, stack: Params, found: Any, length: int) -> tuple[Layer, Params]:
    """The layer for prediction, one value for all steps, and its stacked parameters."""
    layers = []

    def each(p: Params, s: Any) -> Params:
        new, p = layer.inference(p, s)
        layers.append(new)
        return p

    stack = jax.vmap(each, axis_size=length)(stack, found)
    return layers[0], stack


def check_stack(layer: Layer, params: Params, length: int) -> Params:
    """The parameters, every leaf of which has `length` steps on axis 0, whole on every device: no
    loop runs along a spread axis."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if leaf.shape[:1] != (length,):
            raise LayerError(
                layer,
                f"params{jax.tree_util.keystr(path)} is {spell(leaf)}, "
                f"wanted {length} steps on its first axis",
                "make them with layer.init(key, x), or stack: "
                "jax.tree.map(lambda *p: jnp.stack(p), *params_of_steps)",
            )
    return jax.tree.map(lambda leaf: spread_as(leaf, (None, *entries(leaf)[1:])), params)


def check_like(layer: Layer, name: str, given: Any, other: str, wanted: Any) -> None:
    """`given` has the tree, shapes and dtypes of `wanted`: it is what the next step reads."""
    trees = jax.tree.structure(given), jax.tree.structure(wanted)
    rows = zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=False)
    if trees[0] != trees[1] or any((a.shape, a.dtype) != (b.shape, b.dtype) for a, b in rows):
        raise LayerError(
            layer,
            f"{name} is {spell(given)} and {other} {spell(wanted)}: shape and dtype must agree",
            "put what changes them before or after: Serial(Dense(30), Repeat(block, 4))",
        )


# --- the mask: known to every step, kept once -----------------------------------------------------


@jax.tree_util.register_static
@dataclass(frozen=True)
class MaskSlot:
    """Where a step keeps the context's mask; `depth` counts the loops between."""

    depth: int = 0


def is_slot(value: Any) -> bool:
    return isinstance(value, MaskSlot)


def holds_slots(kept: Residuals) -> bool:
    return any(slot == MaskSlot() for slot in jax.tree.leaves(kept, is_leaf=is_slot))


def without_mask(kept: Residuals, mask: Array | None) -> Residuals:
    """The residuals of a step with a slot where they hold the mask, which would be stacked."""

    def out(leaf: Any) -> Any:
        if is_slot(leaf):
            return MaskSlot(leaf.depth + 1)
        return MaskSlot() if leaf is mask else leaf

    return jax.tree.map(out, kept, is_leaf=is_slot)


def with_mask(kept: Residuals, mask: Array | None) -> Residuals:
    """The inverse of `without_mask`."""

    def back(leaf: Any) -> Any:
        if is_slot(leaf):
            return MaskSlot(leaf.depth - 1) if leaf.depth else mask
        return leaf

    return jax.tree.map(back, kept, is_leaf=is_slot)
