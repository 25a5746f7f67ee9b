"""What all composites share: children, their parameters, and sums of cotangents."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp

from funcprop.composites.sharing import NOTHING, Path, Sum
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    Residuals,
    inside,
    is_float,
    spell,
    two,
)


@dataclass(frozen=True, init=False, repr=False)
class Composite(Layer):
    """A layer made of layers. Parameters, residuals and statistics: a tuple, one entry a child.

    A subclass says how x goes through the children and how dy comes back. `init_each`,
    `forward_each` and `backward_each` do the rest. What `collect` and the like have to know of it:

    reused     the paths of the parameters that it uses several times: none, or
               `composites.EVERYTHING`. It adds nothing up itself, but has the uses joined by
               `self.shared.places(self, (first, second))`, or by `self.shared.steps` in a loop
    stacked    how many steps of a loop its parameters hold, on axis 0 of every leaf; 0 for no loop
    owns       whether it has parameters besides those of its children
    converts   whether the dparams of its children get another dtype on their way up, in
               `from_children`, if not `self.shared.raw`: see `Cast`

    forward   x -> y: any trees; the arrays [..., features] are for the children to check
    keeps     what the children keep
    backward  dy -> dx, and dparams: a tuple, one entry a child
    dtypes    those of the children
    raises    LayerError where an entry is no layer, or params, residuals or statistics are no tuple
              with one entry a child; a child's own errors, with its place in the model

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> class Twice(fp.Composite):
    ...     def init(self, key, x):
    ...         return self.init_each(key, (x,))
    ...
    ...     def forward(self, params, x, context=fp.Context()):
    ...         (y,), residuals = self.forward_each(params, (x,), context)
    ...         return 2 * y, residuals
    ...
    ...     def backward(self, params, residuals, dy):
    ...         (dx,), dparams = self.backward_each(params, residuals, (2 * dy,))
    ...         return dx, dparams
    >>> model, x = Twice(fp.Bias()), jnp.ones((1, 2))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> model.backward(params, residuals, y)[0]
    Array([[4., 4.]], dtype=float32)
    """

    layers: tuple[Layer, ...]
    shared: Sum = field(default=Sum(), kw_only=True)  # joins what several uses left

    reused: ClassVar[frozenset[Path]] = NOTHING
    stacked: ClassVar[int] = 0
    owns: ClassVar[bool] = False
    converts: ClassVar[bool] = False

    def __init__(self, *layers: Layer) -> None:
        object.__setattr__(self, "layers", layers)
        for position, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                raise LayerError(
                    self,
                    f"entry {position} is {spell(layer)}, wanted a layer",
                    "give layers one by one, made: Serial(Dense(30), Sigmoid())",
                )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.layers))})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        """The same composite around other children, with all else that it is made of."""
        new = copy.copy(self)
        object.__setattr__(new, "layers", layers)
        return new

    def with_shared(self, shared: Sum) -> Self:
        """The same composite, where `shared` joins what several uses of a parameter left."""
        new = copy.copy(self)
        object.__setattr__(new, "shared", shared)
        return new

    def with_paths(self, change: Callable[[Layer, str], str]) -> Layer:
        """The same composite, where it names parameters by change(child, path)."""
        return self

    def in_place(self) -> Layer:
        """The same composite, whose dparams are new parameters, written over the old if it can."""
        return self

    def under(self, rule: Sum) -> Self:
        """The same composite, whose backward finds what a rule of `collect` asks for."""
        return self

    def opened(self) -> Layer:
        """The same composite as `compare` walks through it, to find which child is wrong."""
        return self

    def place(self, position: int) -> str:
        """How a child is called in paths."""
        return f"{type(self).__name__}[{position}]"

    def spread(self, tree: Any) -> tuple[Any, ...]:
        """A tree like the parameters -> one entry a child."""
        return self.entries("params", tree)

    def gathered(self, tree: Any, entries: tuple[Any, ...]) -> Any:
        """One entry a child -> a tree like the parameters."""
        return entries

    def to_children(self, params: Params) -> Params:
        """The parameters that the children are given, one entry a child."""
        return self.entries("params", params)

    def from_children(self, params: Params, dparams: Params) -> Params:
        """dparams, of what the children's backward left, one entry a child."""
        return dparams

    def entries(self, name: str, values: Any) -> tuple[Any, ...]:
        """`values`, checked to be a tuple with one entry per child."""
        named = hasattr(values, "_fields")  # a NamedTuple belongs to something else
        if named or not isinstance(values, tuple) or len(values) != len(self.layers):
            raise LayerError(
                self,
                f"{name} is {spell(values)}, wanted a tuple of {len(self.layers)}, one per child",
            )
        return values

    def init_each(self, key: Array, xs: tuple[Any, ...]) -> Params:
        """Parameters of every child, each for its own x."""
        params = []
        keys = jax.random.split(key, len(self.layers))
        for position, x in enumerate(xs):
            with inside(self, position):
                params.append(self.layers[position].init(keys[position], x))
        return tuple(params)

    def forward_each(
        self, params: Params, xs: tuple[Any, ...], context: Context
    ) -> tuple[tuple[Any, ...], tuple[Residuals, ...]]:
        """Every child forward, each on its own x."""
        ys, residuals = [], []
        params, contexts = self.entries("params", params), context.split(len(self.layers))
        for position, x in enumerate(xs):
            with inside(self, position):
                layer = self.layers[position]
                given = layer.forward(params[position], x, contexts[position])
                y, kept = two(layer, "forward", given)
            ys.append(y)
            residuals.append(kept)
        return tuple(ys), tuple(residuals)

    def backward_each(
        self, params: Params, residuals: Residuals, dys: tuple[Any, ...]
    ) -> tuple[tuple[Any, ...], Params]:
        """Every child backward, each on its own dy."""
        dxs, dparams = [], []
        params, residuals = self.entries("params", params), self.entries("residuals", residuals)
        for position, dy in enumerate(dys):
            with inside(self, position):
                layer = self.layers[position]
                given = layer.backward(params[position], residuals[position], dy)
                dx, dp = two(layer, "backward", given)
            dxs.append(dx)
            dparams.append(dp)
        return tuple(dxs), tuple(dparams)

    def statistics(self, residuals: Residuals) -> Any:
        """() where no child observed anything, else one entry per child.

        A composite whose residuals are something else than one entry a child has to say where in
        them the statistics are; until it does there are none, and `inference` of a child that
        needs some says so.
        """
        named = hasattr(residuals, "_fields")
        if named or not isinstance(residuals, tuple) or len(residuals) != len(self.layers):
            return ()
        found = tuple(
            layer.statistics(kept) for layer, kept in zip(self.layers, residuals, strict=True)
        )
        return found if jax.tree.leaves(found) else ()

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        if statistics == ():
            statistics = ((),) * len(self.layers)
        layers, new = [], []
        rows = zip(
            self.layers,
            self.entries("params", params),
            self.entries("statistics", statistics),
            strict=True,
        )
        for position, (layer, p, s) in enumerate(rows):
            with inside(self, position):
                layer, p = layer.inference(p, s)
            layers.append(layer)
            new.append(p)
        return self.rebuild(tuple(layers)), tuple(new)


def add(layer: Layer, name: str, values: tuple[Any, ...]) -> Array:
    """The sum of float arrays of one shape and dtype; anything else has no sum here.

    A tuple's + would concatenate and broadcasting would hide a mistake, so both raise.
    """
    first = values[0]
    for value in values:
        if not is_float(value) or (value.shape, value.dtype) != (first.shape, first.dtype):
            raise LayerError(
                layer,
                f"{name} cannot be added: {' and '.join(map(spell, values))}",
                "sums are defined for float arrays of one shape and dtype",
            )
    total = jnp.asarray(first)
    for value in values[1:]:
        total = total + value
    return total
