"""Bidirectional: a sequence read from both ends."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from funcprop.composites import Branch
from funcprop.layer import Layer, LayerError


@dataclass(frozen=True, init=False, repr=False)
class Bidirectional(Branch):
    """A recurrent layer and the same layer walking the other way, side by side.

    It is Branch(layer, reversed layer, combine="concatenate"), with parameters for each direction
    (Schuster and Paliwal, 1997).

    forward   xs [..., T, in] -> ys [..., T, 2 H]
    keeps     what the two layers keep
    backward  dx is the sum of theirs
    dtypes    any float, one for xs and the parameters; ys and all gradients have it
    raises    LayerError where the layer has no field `reverse`; the layers' own errors, with their
              place in the model
    source    Schuster and Paliwal, Bidirectional recurrent neural networks, 1997

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> model, xs = fp.Bidirectional(fp.RNN(4)), jnp.zeros((8, 10, 3))
    >>> params = jax.eval_shape(model.init, jax.random.key(0), xs)
    >>> jax.eval_shape(model.forward, params, xs)[0].shape
    (8, 10, 8)
    """

    def __init__(self, layer: Layer) -> None:
        if not (dataclasses.is_dataclass(layer) and hasattr(layer, "reverse")):
            object.__setattr__(self, "layers", (layer,))
            raise LayerError(
                self, "the layer has no direction to reverse", "write Bidirectional(LSTM(64))"
            )
        other = dataclasses.replace(layer, reverse=not layer.reverse)  # type: ignore[call-overload]
        super().__init__(layer, other, combine="concatenate")

    def __repr__(self) -> str:
        return f"Bidirectional({self.layers[0]!r})"
