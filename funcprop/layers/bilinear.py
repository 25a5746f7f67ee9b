"""Bilinear: a linear map of all products of two inputs' features."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax

from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_count,
    check_input,
    check_params,
    spell,
)
from funcprop.layers.dense import Affine, Dense
from funcprop.sharding import whole


@dataclass(frozen=True)
class Bilinear(Layer):
    """z = Σᵢⱼ uᵢ vⱼ w[i, j] + b, for a pair x = (u, v): Dense on the products of their features.

    The weight of PyTorch's Bilinear is [out, m, n], and w [m, n, out].

    forward   (u [..., m], v [..., n]) -> z [..., out]
    keeps     u and v
    backward  dz Wᵀ are the gradients of the products, [..., m, n], of which du is the sum with v
              and dv that with u; dw = Σ u vᵀ dz, db = Σ dz over all leading axes
    dtypes    any float, one for u, v, w and b; z and all gradients have it
    raises    LayerError where features is no positive whole number, x is no pair of float arrays
              that agree in all axes but the last and in dtype, params is no Affine with w
              [m, n, out] of that dtype, or dz has not the shape and dtype of z

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.Bilinear(4), (jnp.ones((8, 2)), jnp.ones((8, 3)))
    >>> params = layer.init(jax.random.key(0), x)
    >>> params.w.shape, layer.forward(params, x)[0].shape
    ((2, 3, 4), (8, 4))
    """

    features: int
    _: KW_ONLY
    bias: bool = True
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_count(self, "features", self.features)

    def init(self, key: Array, x: Any) -> Affine:
        u, v = self._pair(x)
        w_key, b_key = jax.random.split(key)
        m, n = u.shape[-1], v.shape[-1]
        w = self.w_init(w_key, (m * n, self.features), u.dtype).reshape(m, n, self.features)
        return Affine(w, self.b_init(b_key, (self.features,), u.dtype) if self.bias else None)

    def forward(
        self, params: Affine, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, tuple[Array, Array]]:
        u, v = self._pair(x)
        check_params(self, params, Affine, like=u)
        if params.w.shape != (u.shape[-1], v.shape[-1], self.features):
            raise LayerError(
                self,
                f"x is {spell(x)} and w {spell(params.w)}, wanted w "
                f"[{u.shape[-1]}, {v.shape[-1]}, {self.features}]",
                "PyTorch's weight is [out, m, n]: write Affine(weight.transpose(1, 2, 0), bias)",
            )
        return Dense(self.features).forward(self._flat(params), products(u, v))[0], (u, v)

    def backward(
        self, params: Affine, residuals: tuple[Array, Array], dz: Array
    ) -> tuple[tuple[Array, Array], Affine]:
        u, v = (whole(part, -1) for part in residuals)
        dproducts, flat = Dense(self.features).backward(self._flat(params), products(u, v), dz)
        d = whole(dproducts, -1).reshape(*u.shape, v.shape[-1])
        du, dv = (d * v[..., None, :]).sum(-1), (d * u[..., None]).sum(-2)
        return (du, dv), Affine(flat.w.reshape(params.w.shape), flat.b)

    def _pair(self, x: Any) -> tuple[Any, Any]:
        if not isinstance(x, tuple) or len(x) != 2:
            raise LayerError(self, f"x is {spell(x)}, wanted a pair of arrays", "write (u, v)")
        for part in x:
            check_input(self, part, rank=1)
        if (x[0].shape[:-1], x[0].dtype) != (x[1].shape[:-1], x[1].dtype):
            raise LayerError(
                self, f"x is {spell(x)}: all axes but the last, and the dtypes, must agree"
            )
        return x

    def _flat(self, params: Affine) -> Affine:
        return Affine(params.w.reshape(-1, self.features), params.b)


def products(u: Array, v: Array) -> Array:
    """[..., m], [..., n] -> [..., m n]: every feature of u times every feature of v."""
    u, v = whole(u, -1), whole(v, -1)
    return (u[..., None] * v[..., None, :]).reshape(*u.shape[:-1], u.shape[-1] * v.shape[-1])
