"""RNN: the state is the output, and the output the state."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from funcprop.layer import Array, check_choice
from funcprop.layers.recurrence import Recurrent, RecurrentWeights
from funcprop.layers.steps import State, project


@dataclass(frozen=True)
class RNN(Recurrent):
    """h′ = φ(z), z = x w_x + h w_h + b, with φ = tanh or relu (Elman, 1990).

    PyTorch's parameters: w_x = weight_ihᵀ, w_h = weight_hhᵀ, b = bias_ih + bias_hh.
    A step that `context.mask` hides keeps h, and its y is zero. `reverse` walks from the last step
    to the first; ys stay in the order of xs.

    forward   xs [..., T, in] -> ys [..., T, H], or (xs, h0) -> (ys, hT)
    keeps     x and the states: φ′ needs only the output; float32 where x has 16 bits
    backward  dz = dh′ · (1 − h′²), or dh′ · [h′ > 0] for relu;    dh = dz w_hᵀ
              dx = dz w_xᵀ    dw_x = xᵀ dz    dw_h = hᵀ dz    db = Σ dz
    dtypes    any float, one for x, the parameters and the states; y and all gradients have it, the
              walk is in float32 at least
    raises    LayerError where features is no positive whole number, reverse or bias no bool or
              activation unknown, x is not a float array [..., T, in] with a step, or this and a
              state, params are no RecurrentWeights of its features and dtype, `context.mask` is not
              bool [..., T], or dy has not the tree, shapes and dtype of y
    source    Elman, Finding structure in time, 1990; the walk back: Werbos, Backpropagation through
              time, 1990

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, xs = fp.RNN(4), jax.ShapeDtypeStruct((8, 10, 3), jnp.float32)
    >>> params = jax.eval_shape(layer.init, jax.random.key(0), xs)
    >>> ys, residuals = jax.eval_shape(layer.forward, params, xs)
    >>> ys.shape
    (8, 10, 4)
    """

    _: KW_ONLY
    activation: Literal["tanh", "relu"] = "tanh"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "activation", self.activation, ("tanh", "relu"))

    def step(self, params: RecurrentWeights, z: Array, state: State) -> tuple[State, None]:
        z = z + project(state[0], params.w_h)
        return (jnp.tanh(z) if self.activation == "tanh" else jax.nn.relu(z),), None

    def factors(self, gates: None, before: State, h: Array) -> Array:
        return (1 + h) * (1 - h) if self.activation == "tanh" else (h > 0).astype(h.dtype)

    def step_backward(self, w_t: Array, factors: Array, dstate: State) -> tuple[Array, State]:
        dz = dstate[0] * factors
        return dz, (project(dz, w_t),)
