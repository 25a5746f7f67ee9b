"""Reversible blocks: the input is computed again from the output, so nothing need be kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from funcprop.composites.composite import Composite, add
from funcprop.composites.repeat import check_like, check_stack, infer_stack, init_stack
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    check_count,
    check_input,
    inside,
    spell,
)
from funcprop.sharding import aligned, alike, varying, whole

Halves = tuple[Array, Array]


class ReversibleResiduals(NamedTuple):
    """What Reversible and ReversibleRepeat keep."""

    y: Any  # the output: the input is computed from it
    context: Context  # the same key draws the same numbers again
    statistics: Any  # what f and g observed: their own residuals are gone


@dataclass(frozen=True, init=False, repr=False)
class Reversible(Composite):
    """y₁ = x₁ + f(x₂),  y₂ = x₂ + g(y₁) (Gomez et al., 2017).

    x is a pair of arrays, or one array whose features are the two halves. The input is rebuilt as
    x₂ = y₂ − g(y₁), x₁ = y₁ − f(x₂): exact in the mathematics, and with one rounding more in each
    layer in numbers. A stack of blocks is `ReversibleRepeat`, which keeps one output in all.

    forward   x [..., features] or (x₁, x₂) -> y, alike
    keeps     y and the context, and what f and g observed
    backward  dx₁ = dy₁ + dg(dy₂)    dx₂ = dy₂ + df(dx₁), each where x₂ and y₁ were rebuilt
    dtypes    any float; y and dx have that of x
    raises    LayerError where x is neither a float array with an even number of features nor a pair
              of them, f or g changes shape or dtype, params has not one entry a child, or dy has
              not the tree, shapes and dtypes of y; the children's own errors, with their place in
              the model
    source    Gomez, Ren, Urtasun and Grosse, 2017, arXiv:1707.04585

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, x = fp.Reversible(fp.Tanh(), fp.Tanh()), jnp.zeros((1, 2))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> dx, _ = model.backward(params, residuals, jnp.ones((1, 2)))
    >>> dx  # (1 + 1, 1 + 2)
    Array([[2., 3.]], dtype=float32)
    """

    def __init__(self, f: Layer, g: Layer) -> None:
        super().__init__(f, g)

    def init(self, key: Array, x: Any) -> Params:
        first, second = jax.eval_shape(lambda x: split(self, "x", x), x)
        return self.init_each(key, (second, first))

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, ReversibleResiduals]:
        y, found = self.couple(params, split(self, "x", x), context)
        y = join(y, x)
        return y, ReversibleResiduals(y, context, found if jax.tree.leaves(found) else ())

    def backward(
        self, params: Params, residuals: ReversibleResiduals, dy: Any
    ) -> tuple[Any, Params]:
        # without the barrier XLA would see that f and g are computed twice, and keep the first
        y, context, dy = lax.optimization_barrier((residuals.y, residuals.context, dy))
        check_like(self, "dy", dy, "the output", y)
        halves, dhalves = split(self, "y", y), split(self, "dy", dy)
        _, dhalves, dparams = self.uncouple(params, halves, dhalves, context)
        return join(dhalves, dy), dparams

    def statistics(self, residuals: ReversibleResiduals) -> Any:
        return residuals.statistics

    def couple(self, params: Params, x: Halves, context: Context) -> tuple[Halves, Any]:
        """-> y, what f and g observed."""
        pf, pg = self.entries("params", params)
        f, g = self.layers
        f_context, g_context = context.split(2)
        with inside(self, 0):
            f_out, f_kept = f.forward(pf, x[1], f_context)
        y1 = add(self, "x₁ and f(x₂)", (x[0], f_out))
        with inside(self, 1):
            g_out, g_kept = g.forward(pg, y1, g_context)
        y2 = add(self, "x₂ and g(y₁)", (x[1], g_out))
        return (y1, y2), (f.statistics(f_kept), g.statistics(g_kept))

    def uncouple(
        self, params: Params, y: Halves, dy: Halves, context: Context
    ) -> tuple[Halves, Halves, Params]:
        """-> x, dx, dparams."""
        pf, pg = self.entries("params", params)
        f, g = self.layers
        f_context, g_context = context.split(2)
        with inside(self, 1):
            g_out, g_kept = g.forward(pg, y[0], g_context)
            dy1, dpg = g.backward(pg, g_kept, dy[1])
        x2, dx1 = y[1] - g_out, add(self, "dy₁ and dg(dy₂)", (dy[0], dy1))
        with inside(self, 0):
            f_out, f_kept = f.forward(pf, x2, f_context)
            dx2, dpf = f.backward(pf, f_kept, dx1)
        dx2 = add(self, "dy₂ and df(dx₁)", (dy[1], dx2))
        return (y[0] - f_out, x2), (dx1, dx2), (dpf, dpg)


@dataclass(frozen=True, init=False, repr=False)
class ReversibleRepeat(Reversible):
    """`Repeat(Reversible(f, g), length)` that keeps the last output alone.

    The memory of its activations does not grow with the length. Parameters, their gradients and
    statistics are those of f and of g, stacked over the steps on axis 0.

    forward   x [..., features] or (x₁, x₂) -> y, alike
    keeps     y of the last step and the context, and what f and g observed
    backward  from the last step to the first, each rebuilding the input that the one before reads
    dtypes    any float; y and dx have that of x
    raises    LayerError where length is no positive whole number, a leaf of params has not as many
              steps on axis 0, and where Reversible raises it
    source    Gomez, Ren, Urtasun and Grosse, 2017, arXiv:1707.04585

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> block = fp.Serial(fp.LayerNorm(), fp.Dense(2), fp.Tanh())
    >>> model = fp.ReversibleRepeat(block, block, length=12)
    >>> x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> params = jax.eval_shape(model.init, jax.random.key(0), x)
    >>> y, residuals = jax.eval_shape(model.forward, params, x)
    >>> params[0][1].w.shape, residuals.y.shape
    ((12, 2, 2), (8, 4))
    """

    length: int

    def __init__(self, f: Layer, g: Layer, length: int) -> None:
        object.__setattr__(self, "length", length)
        super().__init__(f, g)
        check_count(self, "length", length)

    def __repr__(self) -> str:
        return f"ReversibleRepeat({', '.join(map(repr, self.layers))}, length={self.length})"

    def rebuild(self, layers: tuple[Layer, ...]) -> Layer:
        return ReversibleRepeat(*layers, length=self.length)

    @property
    def stacked(self) -> int:  # type: ignore[override]
        return self.length

    def init(self, key: Array, x: Any) -> Params:
        first, second = jax.eval_shape(lambda x: split(self, "x", x), x)
        params = []
        for number, (layer, half) in enumerate(zip(self.layers, (second, first), strict=True)):
            key, child_key = jax.random.split(key)
            with inside(self, number):
                params.append(init_stack(layer, child_key, half, self.length))
        return tuple(params)

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, ReversibleResiduals]:
        def step(x: Halves, each: tuple[Params, Array | None]) -> tuple[Halves, Any]:
            p, key = each
            y, found = self.couple(p, x, Context(key, context.mask))
            return alike(y, x), found

        start = varying(split(self, "x", x), params)
        y, found = lax.scan(step, start, self._steps(params, context), length=self.length)
        y = join(y, x)
        return y, ReversibleResiduals(y, context, found if jax.tree.leaves(found) else ())

    def backward(
        self, params: Params, residuals: ReversibleResiduals, dy: Any
    ) -> tuple[Any, Params]:
        context = residuals.context
        check_like(self, "dy", dy, "the output", residuals.y)

        def step(
            carry: tuple[Halves, Halves], each: tuple[Params, Array | None]
        ) -> tuple[tuple[Halves, Halves], Params]:
            p, key = each
            x, dx, dp = self.uncouple(p, *carry, Context(key, context.mask))
            return alike((x, dx), carry), dp

        carry = split(self, "y", residuals.y), split(self, "dy", dy)
        carry = varying(carry, params, residuals, dy)
        (_, dx), dparams = lax.scan(
            step, carry, self._steps(params, context), self.length, reverse=True
        )
        return join(dx, dy), dparams

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        if statistics == ():
            statistics = ((), ())
        layers, new = [], []
        rows = zip(
            self.layers,
            check_stack(self, self.entries("params", params), self.length),
            self.entries("statistics", statistics),
            strict=True,
        )
        for number, (layer, stack, found) in enumerate(rows):
            with inside(self, number):
                layer, stack = infer_stack(layer, stack, found, self.length)
            layers.append(layer)
            new.append(stack)
        return self.rebuild(tuple(layers)), tuple(new)

    def _steps(self, params: Params, context: Context) -> tuple[Params, Array | None]:
        """What each step reads of its own: parameters and a key."""
        keys = None if context.key is None else jax.random.split(context.key, self.length)
        return check_stack(self, self.entries("params", params), self.length), keys


def split(layer: Layer, name: str, x: Any) -> Halves:
    """A pair as it is, an array in the halves of its features."""
    if isinstance(x, tuple):
        if len(x) != 2:
            raise LayerError(layer, f"{name} is {spell(x)}, wanted one array or two")
        for half in x:
            check_input(layer, half)
        return x
    check_input(layer, x, rank=1)
    if x.shape[-1] % 2:
        raise LayerError(
            layer,
            f"{name} is {spell(x)}: {x.shape[-1]} features have no two halves",
            "give an even number of features, or a tuple (x₁, x₂)",
        )
    half = x.shape[-1] // 2
    x = whole(x, -1)
    return x[..., :half], x[..., half:]


def join(halves: Halves, like: Any) -> Any:
    """The inverse of `split`."""
    return halves if isinstance(like, tuple) else jnp.concatenate(aligned(halves), -1)
