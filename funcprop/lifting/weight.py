"""Weight: one parameter of a lifted function, as the leaf layer that rules are asked at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.collectors.closed import closed_form
from funcprop.collectors.form import Form
from funcprop.gradient import combine, partition
from funcprop.layer import Context, Layer, LayerError, Params, Residuals


class Place(NamedTuple):
    """Where a parameter is read.

    primitive  what JAX calls the operation that reads it: "dot_general"
    source     file, line and function: "model.py:31 (loss)"
    module     the name stack, which a Flax module sets: "Dense_0"
    """

    primitive: str  # "dot_general"
    source: str  # "model.py:31 (loss)"
    module: str  # the name stack: "Dense_0"

    @property
    def words(self) -> str:
        inside = f" in {self.module}" if self.module else ""
        return f"{self.primitive} at {self.source}{inside}"


class Whole(NamedTuple):
    """What is kept where only the gradient is asked for: nothing."""


@jax.tree_util.register_static
@dataclass(frozen=True, eq=False)
class Function:
    """What an equation computes of a weight and of its other operands."""

    function: Callable[..., list[Any]]
    position: int

    def __call__(self, weight: Any, operands: Any) -> list[Any]:
        given = list(operands)
        given.insert(self.position, weight)
        return self.function(*given)


class At(NamedTuple):
    """What is kept at one use, where it is asked for what it sends back."""

    operands: Any
    function: Function


class Examples(NamedTuple):
    """What is kept where single examples are asked for."""

    form: Form  # of all uses together


@dataclass(frozen=True)
class Weight(Layer):
    """One parameter of a lifted function, used wherever the function reads it.

    path    in the tree of parameters, as JAX prints it: "['params']['Dense_0']['kernel']"
    places  where it meets data: primitive, source line, name stack

    forward   x -> x: a tree of what its uses have seen, of which the layer around it knows
    keeps     x
    backward  dparams, the parameter's shape: the sum over its uses
    dtypes    that of the parameter
    raises    LayerError where something else than `Lifted` asks it

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer = fp.lift(lambda w, x: jnp.tanh(x @ w), jnp.ones((3, 2)), jnp.ones((4, 3)))
    >>> (weight,) = layer.layers
    >>> weight.path, weight.places[0].primitive
    ('', 'dot_general')
    """

    path: str
    places: tuple[Place, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """The primitives by which it is read: `rewire` knows it by them."""
        return frozenset(place.primitive for place in self.places)

    @property
    def origin(self) -> str:
        """Which parameter it is and where it is read, in words."""
        words = [place.words for place in self.places[:3]]
        more = ["..."] if len(self.places) > 3 else []
        return f"params{self.path}" + (f", read by {', '.join(words + more)}" if words else "")

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(place.primitive for place in self.places))
        return f"Weight({self.path!r}: {names})" if names else f"Weight({self.path!r})"

    def forward(
        self, params: Params, x: Any, context: Context = Context()
    ) -> tuple[Any, Residuals]:
        if isinstance(x, Seen):
            return x.y, x
        return (), x

    def backward(self, params: Params, residuals: Residuals, dy: Any) -> tuple[Any, Params]:
        if isinstance(residuals, Whole):
            return None, dy
        if isinstance(residuals, At):
            operands, function = residuals
            floats, rest = partition(operands)

            def f(weight: Any, floats: Any) -> Any:
                return function(weight, combine(floats, rest))[0]

            dweight, dx = jax.vjp(f, params, floats)[1](dy)
            return dx, dweight
        if isinstance(residuals, Examples):
            return None, added(residuals.form)
        if isinstance(residuals, Seen):
            return residuals.dx, residuals.gradient
        raise LayerError(self, "is no layer of its own", "ask the layer that fp.lift made")


def added(form: Form) -> Any:
    """The gradient that those of single examples add up to."""
    return form.weighted(jnp.ones(jax.tree.leaves(form)[0].shape[0], jnp.float32))


class Seen(NamedTuple):
    """What is kept where a rule asks for what a parameter has seen: an entry a use."""

    operands: tuple[Any, ...]
    y: tuple[Any, ...]
    dx: tuple[Any, ...]
    gradient: Any


@closed_form(Weight)
def of_weight(layer: Weight, params: Params, residuals: Any, dy: Any) -> tuple[Any, Any]:
    if not isinstance(residuals, Examples):
        raise LayerError(layer, "was asked for single examples, and has kept none")
    return None, residuals.form
