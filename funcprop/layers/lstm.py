"""LSTM: a cell state that gates write, keep and read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array
from funcprop.layers.recurrence import Recurrent, RecurrentWeights
from funcprop.layers.steps import State, gates_of, project


@dataclass(frozen=True)
class LSTM(Recurrent):
    """i, f, o = σ(z), g = tanh(z), z = x w_x + h w_h + b;  c′ = f c + i g,  h′ = o tanh c′.

    Hochreiter and Schmidhuber (1997) with the forget gate of Gers et al. (2000). The gates lie in
    PyTorch's order i, f, g, o: w_x = weight_ihᵀ, w_h = weight_hhᵀ, b = bias_ih + bias_hh.
    A step that `context.mask` hides keeps h and c, and its y is zero. `reverse` walks from the last
    step to the first; ys stay in the order of xs.

    forward   xs [..., T, in] -> ys [..., T, H], or (xs, (h0, c0)) -> (ys, (hT, cT))
    keeps     x, the gates, and h and c before each step: float32 where x has 16 bits
    backward  dc′ += dh′ · o(1 − tanh²c′)    dz_o = dh′ · tanh(c′) o(1 − o)
              dz_i = dc′ · g i(1 − i)    dz_f = dc′ · c f(1 − f)    dz_g = dc′ · i(1 − g²)
              dh = dz w_hᵀ    dc = dc′ f    dx = dz w_xᵀ
              dw_x = xᵀ dz    dw_h = hᵀ dz    db = Σ dz
    dtypes    any float, one for x, the parameters and the states; y and all gradients have it, the
              walk is in float32 at least
    raises    LayerError where features is no positive whole number or reverse or bias no bool, x is
              not a float array [..., T, in] with a step, or this and a pair of states, params are
              no RecurrentWeights of its features and dtype, `context.mask` is not bool [..., T], or
              dy has not the tree, shapes and dtype of y
    source    Hochreiter and Schmidhuber, Long short-term memory, 1997; Gers, Schmidhuber and
              Cummins, Learning to forget, 2000

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, xs = fp.LSTM(4), jax.ShapeDtypeStruct((8, 10, 3), jnp.float32)
    >>> params = jax.eval_shape(layer.init, jax.random.key(0), xs)
    >>> state = jax.ShapeDtypeStruct((8, 4), jnp.float32)
    >>> (ys, (h, c)), residuals = jax.eval_shape(layer.forward, params, (xs, (state, state)))
    >>> ys.shape, h.shape, c.shape
    ((8, 10, 4), (8, 4), (8, 4))
    """

    blocks: ClassVar[int] = 4
    states: ClassVar[tuple[str, ...]] = ("h", "c")

    def step(self, params: RecurrentWeights, z: Array, state: State) -> tuple[State, Array]:
        h, c = state
        # σ(z) = ½ + ½ tanh(z/2), so that one loop makes all gates: on a CPU every loop costs a step
        slope = jnp.asarray(np.repeat((0.5, 0.5, 1, 0.5), self.features), z.dtype)
        gates = slope * jnp.tanh(slope * (z + project(h, params.w_h))) + (1 - slope)
        i, f, g, o = gates_of(gates, self.features)
        c = f * c + i * g
        return (o * jnp.tanh(c), c), gates

    def factors(self, gates: Array, before: State, h: Array) -> tuple[Array, ...]:
        i, f, g, o = gates_of(gates, self.features)
        c = before[1]
        t = jnp.tanh(f * c + i * g)
        of_z = (g * i * (1 - i), c * f * (1 - f), i * (1 + g) * (1 - g), t * o * (1 - o))
        return *of_z, o * (1 + t) * (1 - t), f

    def step_backward(
        self, w_t: Array, factors: tuple[Array, ...], dstate: State
    ) -> tuple[Array, State]:
        (of_i, of_f, of_g, of_o, of_c, f), (dh, dc) = factors, dstate
        dc = dc + dh * of_c
        dz = jnp.concatenate([dc * of_i, dc * of_f, dc * of_g, dh * of_o], -1)
        return dz, (project(dz, w_t), dc * f)
