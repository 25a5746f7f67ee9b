"""Dropout: noise that prediction does without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.layer import (
    Array,
    Context,
    Layer,
    Params,
    check_cotangent,
    check_input,
    check_number,
)
from funcprop.layers.shape import Identity


@dataclass(frozen=True)
class Dropout(Layer):
    """y = x · kept / (1 − rate): each element is dropped with probability `rate`.

    Needs `context.key`; a batch draws other numbers than its examples would one at a time.
    `fp.inference` replaces it by the identity.

    forward   x [...] -> y [...]
    keeps     kept: bool [...], one byte an element (None at rate 0, where nothing is drawn)
    backward  dx = dy · kept / (1 − rate)
    """

    rate: float

    def __post_init__(self) -> None:
        check_number(self, "rate", self.rate, 0, 1)

    def forward(
        self, params: tuple, x: Array, context: Context = Context()
    ) -> tuple[Array, Array | None]:
        check_input(self, x)
        if self.rate == 0:
            return x, None
        kept = jax.random.bernoulli(context.key_for(self), 1 - self.rate, x.shape)
        return self._masked(x, kept), kept

    def backward(self, params: tuple, kept: Array | None, dy: Array) -> tuple[Array, tuple]:
        if kept is None:
            return dy, ()
        check_cotangent(self, dy, kept.shape, dy.dtype)
        return self._masked(dy, kept), ()

    def _masked(self, x: Array, kept: Array) -> Array:
        return jnp.where(kept, x / (1 - self.rate), 0)

    def inference(self, params: Params, statistics: Any) -> tuple[Layer, Params]:
        return Identity(), ()
