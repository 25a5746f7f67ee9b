"""GRU: one state, a gate that forgets and a gate that mixes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import Array
from funcprop.layers.recurrence import Recurrent
from funcprop.layers.steps import State, gates_of, project


class GRUWeights(NamedTuple):
    """The parameters of a GRU, all of one float dtype; the blocks r, u, n side by side.

    w_x  [in, 3 H]
    w_h  [H, 3 H]
    b    [3 H], or None where the layer has no bias
    b_n  [H], inside the reset of n; None with b
    """

    w_x: Array
    w_h: Array
    b: Array | None
    b_n: Array | None


@dataclass(frozen=True)
class GRU(Recurrent):
    """h′ = (1 − u) n + u h, with r, u = σ(z + h w_h), m = h w_h + b_n, n = tanh(z + r m).

    z = x w_x + b, and each of r, u, n reads its own block of z and w_h. Cho et al. (2014) in the
    form of PyTorch and cuDNN: the reset gate r acts after the product with h. The blocks lie in
    PyTorch's order r, z, n (its z is u here): w_x = weight_ihᵀ, w_h = weight_hhᵀ, b = bias_ih +
    (bias_hh with its last third set to 0), b_n = the last third of bias_hh.
    A step that `context.mask` hides keeps h, and its y is zero. `reverse` walks from the last step
    to the first; ys stay in the order of xs.

    forward   xs [..., T, in] -> ys [..., T, H], or (xs, h0) -> (ys, hT)
    keeps     x, r, u, n, m, and h before each step: float32 where x has 16 bits
    backward  dz_n = dh′ · (1 − u)(1 − n²)    dm = dz_n · r    dz_r = dz_n · m r(1 − r)
              dz_u = dh′ · (h − n) u(1 − u)    dh = dh′ u + (dz_r, dz_u, dm) w_hᵀ
              dx, dw_x, db from (dz_r, dz_u, dz_n), dw_h and db_n from (dz_r, dz_u, dm)
    dtypes    any float, one for x, the parameters and the states; y and all gradients have it, the
              walk is in float32 at least
    raises    LayerError where features is no positive whole number or reverse or bias no bool, x is
              not a float array [..., T, in] with a step, or this and a state, params are no
              GRUWeights of its features and dtype, `context.mask` is not bool [..., T], or dy has
              not the tree, shapes and dtype of y
    source    Cho et al., 2014, arXiv:1406.1078

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, xs = fp.GRU(4), jax.ShapeDtypeStruct((8, 10, 3), jnp.float32)
    >>> params = jax.eval_shape(layer.init, jax.random.key(0), xs)
    >>> ys, residuals = jax.eval_shape(layer.forward, params, xs)
    >>> params.w_x.shape, ys.shape
    ((3, 12), (8, 10, 4))
    """

    blocks: ClassVar[int] = 3
    weights: ClassVar[type] = GRUWeights

    def init(self, key: Array, x: Any) -> GRUWeights:
        key, b_key = jax.random.split(key)
        w_x, w_h, b = super().init(key, x)
        b_n = None if b is None else self.b_init(b_key, (self.features,), b.dtype)
        return GRUWeights(w_x, w_h, b, b_n)

    def step(self, params: GRUWeights, z: Array, state: State) -> tuple[State, Array]:
        (h,), split = state, 2 * self.features
        hidden = project(h, params.w_h)
        r, u = gates_of(jax.nn.sigmoid(z[..., :split] + hidden[..., :split]), self.features)
        m = hidden[..., split:]
        m = m if params.b_n is None else m + params.b_n.astype(m.dtype)
        n = jnp.tanh(z[..., split:] + r * m)
        return ((1 - u) * n + u * h,), jnp.concatenate([r, u, n, m], -1)

    def factors(self, gates: Array, before: State, h: Array) -> tuple[Array, ...]:
        r, u, n, m = gates_of(gates, self.features)
        of_n = (1 - u) * (1 + n) * (1 - n)
        of_u = (before[0] - n) * u * (1 - u)
        return of_n * m * r * (1 - r), of_u, of_n * r, of_n, u

    def step_backward(
        self, w_t: Array, factors: tuple[Array, ...], dstate: State
    ) -> tuple[Array, State]:
        (*of_z, u), (dh,) = factors, dstate
        dz = jnp.concatenate([dh * of for of in of_z], -1)
        return dz, (dh * u + project(self.sides(dz)[1], w_t),)

    def sides(self, dz: Array) -> tuple[Array, Array]:
        """(dz_r, dz_u, dm, dz_n) -> (dz_r, dz_u, dz_n), (dz_r, dz_u, dm)."""
        both, split = dz[..., : 2 * self.features], 3 * self.features
        return jnp.concatenate([both, dz[..., split:]], -1), dz[..., :split]

    def weights_backward(self, params: GRUWeights, x: Array, h: Array, dz: Array) -> GRUWeights:
        dw_x, dw_h, db = super().weights_backward(params, x, h, dz)
        dm = gates_of(dz, self.features)[2]
        return GRUWeights(dw_x, dw_h, db, None if db is None else dm.sum(range(dm.ndim - 1)))
