"""What is compared: one value, made at the door, that all stages read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from funcprop.comparison.leaf import place_name
from funcprop.comparison.subject.functions import Function
from funcprop.composites import Wrapper
from funcprop.layer import Array, Context, Layer, Params


@dataclass(frozen=True)
class Surrogate(Wrapper):
    """A layer in whose derivative's place another's backward stands; its values are its own."""

    def stops(self, params: Params, x: Any, context: Context) -> bool:
        """Whether finite differences would see more than its derivative."""
        return "stop_gradient" in str(jax.make_jaxpr(self.layer.forward)(params, x, context))


@dataclass(frozen=True)
class Subject:
    """A layer, what it is tried on, and a peer: the layer whose forward JAX differentiates.

    A peer that is a `Surrogate` has other values than the layer.
    """

    layer: Layer
    params: Params
    x: Any
    context: Context
    key: Array
    peer: Layer

    @property
    def by_rule(self) -> bool:
        """Whether JAX differentiates the target, by rules that stand in it."""
        return isinstance(self.layer, Function)

    @property
    def given(self) -> tuple[Params, Any, Context]:
        return self.params, self.x, self.context

    @property
    def name(self) -> str:
        """How rows call it: a target that is no layer of ours has one gradient and no name."""
        own = self.peer is self.layer or isinstance(self.peer, Surrogate)
        return place_name(self.layer, ()) if own else ""
