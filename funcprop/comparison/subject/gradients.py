"""A gradient function (params, batch, context) -> value, grads as a layer.

Forward is the value and keeps the gradient, backward scales it: so whatever is asked of a layer is
asked of `backprop` too.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, cast

import jax
import numpy as np

from funcprop.comparison.leaf import broken, with_reason
from funcprop.comparison.subject.subject import Inner, Subject, Wrap
from funcprop.composites import Parallel, Serial
from funcprop.gradient import Backprop, GradientFunction, as_function, unpack
from funcprop.layer import Array, Context, Layer, Params, describe, spell
from funcprop.layers import Identity


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["key", "mask", "batch"], meta_fields=[]
)
@dataclass(frozen=True)
class Batch(Context):
    """The batch is read, and nobody differentiates by it."""

    batch: Any = None

    @property
    def context(self) -> Context:
        return Context(self.key, self.mask)


@dataclass(frozen=True)
class Gradient(Layer):
    """A gradient function.

    forward   () -> value, at the parameters and the batch of the context
    keeps     the gradient
    backward  dy -> dparams, the gradient times dy
    """

    gradient: GradientFunction

    def __repr__(self) -> str:
        return called(self.gradient)

    def forward(self, params: Params, x: Any, context: Context = Context()) -> tuple[Any, Params]:
        here = cast(Batch, context)
        value, grads = value_and_grads(
            with_reason("", lambda: self.gradient(params, here.batch, here.context))
        )
        return value, grads

    def backward(self, params: Params, residuals: Params, dy: Any) -> tuple[Any, Params]:
        return (), jax.tree.map(lambda leaf: dy.astype(leaf.dtype) * leaf, residuals)


@dataclass(frozen=True)
class Value(Layer):
    """The value of an objective (params, batch, context) -> value, which JAX differentiates."""

    objective: Any

    def forward(self, params: Params, x: Any, context: Context = Context()) -> tuple[Any, Any]:
        here = cast(Batch, context)
        value = self.objective(params, here.batch, here.context)
        return value[0] if self.objective.has_aux else value, ()


@dataclass(frozen=True)
class Given(Layer):
    """The value of another gradient function, differentiated as that says."""

    gradient: Gradient

    def forward(self, params: Params, x: Any, context: Context = Context()) -> tuple[Any, Any]:
        return as_function(self.gradient)(params, x, context), ()


def gradient_subject(
    target: GradientFunction,
    against: GradientFunction | None,
    params: Params,
    batch: Any,
    context: Context,
    key: Array,
) -> Subject:
    """The subject of a gradient function; its truth is `against`, or `jax.vjp` of the objective.

    Raises TypeError where `against` gives no gradient of the parameters.
    """
    given = Batch(context.key, context.mask, batch)
    inner = None
    if isinstance(target, Backprop):
        inner = inside_of(target, params, batch, context)
    if against is None:
        peer: Layer = Value(cast(Backprop, target).objective)
    else:
        _, grads = value_and_grads(jax.eval_shape(against, params, batch, context))
        if rows := broken("", {"dparams": grads}, {"dparams": params}):
            raise TypeError(f"against does not give the gradient of params: {rows[0].rule}")
        peer = Given(Gradient(against))
    return Subject(Gradient(target), params, (), given, key, peer, inner=inner)


def inside_of(target: Backprop, params: Params, batch: Any, context: Context) -> Inner:
    """What `target` differentiates, as one model: every layer of it can be looked at."""
    model, loss = target.objective.model, target.objective.loss
    x = batch
    if loss is not None:
        x, wanted, context = unpack(batch, context)
        params, x = ((params, ()), ()), (x, wanted)

    def made(wrap: Wrap) -> Layer:
        layer = wrap(model, ())
        if loss is None:
            return layer
        return Serial(Parallel(layer, Identity()), wrap(loss, ("loss",)))

    plain = made(lambda layer, place: layer)
    value = jax.eval_shape(lambda *given: plain.forward(*given)[0], params, x, context)
    return Inner(made, params, x, context, np.ones(value.shape, value.dtype))


def value_and_grads(result: Any) -> tuple[Any, Params]:
    """(value or (value, aux), grads) -> value, grads."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise TypeError(
            f"the gradient function returned {spell(result)}, wanted (value, grads): "
            "as jax.value_and_grad does"
        )
    value, grads = result
    return value[0] if isinstance(value, tuple) else value, grads


def called(target: Any) -> str:
    """A gradient function in a few words."""
    if isinstance(target, Backprop):
        parts = [target.objective.model, target.objective.loss]
        return f"backprop({', '.join(describe(part) for part in parts if part is not None)})"
    return getattr(target, "__name__", type(target).__name__)
