"""What is compared: one value, made at the door, that all stages read."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp

from funcprop.comparison.leaf import place_name
from funcprop.comparison.programs import cast
from funcprop.comparison.subject.functions import Function, Pair
from funcprop.layer import Array, Context, Layer, Params, describe


class Inner(NamedTuple):
    """A model whose layers are judged one by one, at the values of the actual pass."""

    model: Callable[[Wrap], Layer]  # with every layer, or every leaf, wrapped
    params: Params
    x: Any
    context: Context
    dy: Any = None  # None: the first cotangent of the subject
    words: dict[str, str] | None = None  # of places, where they are calls of rules in a function
    always: bool = True  # whether it is looked at where the whole is right
    rtol: float = 0.0  # relative norm of an error that is granted
    whole: bool = False  # whether the target is the call of one rule, and nothing else
    nested: Inner | None = None  # the rules that this one calls in turn

    def in_float64(self) -> Inner:
        """The same with every float in float64."""
        params, x, context, dy = (cast(tree, jnp.float64) for tree in self[1:5])
        return self._replace(params=params, x=x, context=context, dy=dy)


Wrap = Callable[[Layer, tuple[str, ...]], Layer]


@dataclass(frozen=True)
class Subject:
    """A layer, what it is tried on, and a peer: the layer whose forward JAX differentiates.

    surrogate  whether the peer has other values than the layer, and lends it its derivative
    title      what is compared, in words; the layer's own where it is empty
    inner      the model that is looked into; None where there is nothing inside
    notes      what was found out at the door
    others     further inputs of the same shapes and dtypes, beside x
    changed    whether x may be changed: scaled, zeroed, rounded
    by_reference  whether the truth is another function, given for it
    rtol       relative norm of an error that is granted, beside the usual ones
    ignored    names of leaves, as rows have them, whose gradient is not judged
    eager      whether JAX cannot trace it
    """

    layer: Layer
    params: Params
    x: Any
    context: Context
    key: Array
    peer: Layer
    surrogate: bool = False
    title: str = ""
    inner: Inner | None = None
    notes: tuple[str, ...] = ()
    others: tuple[Any, ...] = ()
    changed: bool = True
    by_reference: bool = False
    rtol: float = 0.0
    ignored: frozenset[str] = frozenset()
    eager: bool = False

    @property
    def by_rule(self) -> bool:
        """Whether JAX differentiates the target, by rules that stand in it."""
        return isinstance(self.layer, Function)

    @property
    def given(self) -> tuple[Params, Any, Context]:
        return self.params, self.x, self.context

    @property
    def words(self) -> str:
        return self.title or describe(self.layer)

    @property
    def name(self) -> str:
        """How rows call it: a target that is no layer of ours has one gradient and no name."""
        own = self.peer is self.layer or self.surrogate
        named = own and not isinstance(self.layer, (Pair, Function))
        return place_name(self.layer, ()) if named else ""

    @property
    def contracted(self) -> str:
        """How rows of the contract call it."""
        return place_name(self.layer, ()) if isinstance(self.layer, (Pair, Function)) else self.name

    def at(self, x: Any, context: Context) -> Self:
        """The same at another input."""
        return replace(self, x=x, context=context)

    def in_float64(self) -> Self:
        """The same with every float in float64; only inside `jax.enable_x64`."""
        params, x, context = (cast(tree, jnp.float64) for tree in self.given)
        inner = None if self.inner is None else self.inner.in_float64()
        return replace(self, params=params, x=x, context=context, inner=inner)

    def output(self) -> Any:
        """Shapes and dtypes of the layer's output. Raises what `forward` raises."""
        return self._output

    @functools.cached_property
    def _output(self) -> Any:
        return jax.eval_shape(lambda *given: self.layer.forward(*given)[0], *self.given)
