"""Rewired: a layer that sends back something else than its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.composites.composite import Composite
from funcprop.composites.wrapper import Wrapper
from funcprop.layer import (
    Array,
    Layer,
    LayerError,
    Params,
    Residuals,
    is_float,
    spell,
    two,
)
from funcprop.sharding import placed


class RewiredParams(NamedTuple):
    """The parameters of a rewired layer.

    params    the layer's own, of the shapes and dtypes it gives them
    feedback  what the rewiring owns, a tree of arrays, for example [out, in]; or ()
    """

    params: Params
    feedback: Any


@dataclass(frozen=True)
class Rewired(Wrapper):
    """A layer with another first result of backward; a subclass says which, in `send`.

    The layer's own parameters are those that it has without the rewiring, drawn from the same key.
    `fp.inference` returns the layer itself.

    forward   x -> y, the layer's, any trees, for example [..., in] -> [..., out]
    keeps     what the layer keeps, and nothing else
    backward  dx = send(dy)    dparams: the layer's own, for the dy that came
    dtypes    those of the layer
    raises    LayerError where params is no RewiredParams; NotImplementedError where `send` is not
              defined; the layer's own errors

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> class Halved(fp.composites.Rewired):
    ...     def send(self, params, residuals, dy):
    ...         return self.layer.backward(params.params, residuals, dy)[0] / 2
    >>> model, x = Halved(fp.Bias()), jnp.ones((1, 2))
    >>> params = model.init(jax.random.key(0), x)
    >>> y, residuals = model.forward(params, x)
    >>> model.backward(params, residuals, jnp.ones((1, 2)))[0]
    Array([[0.5, 0.5]], dtype=float32)
    """

    trained: ClassVar[bool] = True  # whether the layer's own parameters have a gradient
    learns: ClassVar[bool] = False  # whether the feedback has one that is not zero
    linear: ClassVar[bool] = True  # whether `send` is linear in dy

    @property
    def mixes(self) -> bool:
        """Whether what one example is sent depends on the others in the batch."""
        return False

    def feedback(self, key: Array, params: Params, x: Any) -> Any:
        """What the rewiring owns, given the layer's new parameters: arrays, or ()."""
        return ()

    def send(self, params: RewiredParams, residuals: Residuals, dy: Any) -> Any:
        """-> dx: what goes to the layer before."""
        raise NotImplementedError(f"{type(self).__name__} does not define send")

    def dfeedback(self, params: RewiredParams, dparams: Params) -> Any:
        """The feedback's gradient, given the layer's: zeros, where feedback does not learn."""
        return zeros(params.feedback)

    def init(self, key: Array, x: Any) -> RewiredParams:
        params = self.layer.init(key, x)
        return RewiredParams(params, self.feedback(feedback_key(key), params, x))

    def own_params(self, params: Params) -> Params:
        return checked(self, params).params

    def backward(
        self, params: RewiredParams, residuals: Residuals, dy: Any
    ) -> tuple[Any, RewiredParams | None]:
        own = self.own_params(params)
        _, dparams = two(self.layer, "backward", self.layer.backward(own, residuals, dy))
        dx = self.send(params, residuals, dy)
        return dx, RewiredParams(dparams, self.dfeedback(params, dparams))


def feedback_key(key: Array) -> Array:
    """A key for the feedback, which the layer's own draws do not touch."""
    # fold_in(key, i) is split(key, n)[i]: a number that no split reaches
    return jax.random.fold_in(key, 0xFEEDBACC)


def checked(layer: Layer, params: Any) -> RewiredParams:
    """params, which are RewiredParams."""
    if not isinstance(params, RewiredParams):
        raise LayerError(
            layer,
            f"params is {spell(params)}, wanted RewiredParams",
            "make them with layer.init(key, x), and put trained ones in: new._replace(params=old)",
        )
    return params


def zeros(feedback: Any) -> Any:
    """Zeros for floats, None for anything else."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if is_float(leaf) else None, feedback)
    return placed(zeros, feedback)


def rewirings(layer: Layer) -> Iterator[Rewired]:
    """Every rewired layer of a model, outer ones first.

    Layers that hold others without being a Composite or Rewired are not entered.

    >>> import funcprop as fp
    >>> model = fp.Serial(fp.composites.Rewired(fp.Dense(3)), fp.Tanh())
    >>> [rewired.layer for rewired in fp.composites.rewirings(model)]
    [Dense(3)]
    """
    if isinstance(layer, Rewired):
        yield layer
        yield from rewirings(layer.layer)
    elif isinstance(layer, Composite):
        for child in layer.layers:
            yield from rewirings(child)
