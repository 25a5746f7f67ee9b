"""DenseGeneral: a linear map of several axes to several."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax

from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_cotangent,
    check_count,
    check_input,
    check_params,
    spell,
)
from funcprop.layers.dense import Affine, Dense
from funcprop.sharding import placed, reshaped, whole


@dataclass(frozen=True)
class DenseGeneral(Layer):
    """z = x w + b over the last `axes` axes of x, which become those of `features`.

    A Dense of the axes laid flat: [..., heads, size] to [..., features], say, or back. Flax's
    DenseGeneral of other axes is this one behind an `fp.Transpose`.

    features  sizes of the new axes
    axes      how many of the last axes of x they take the place of

    forward   x [..., *in] -> z [..., *features]
    keeps     x: dw is its product with dz
    backward  dx = dz wᵀ    dw = xᵀ dz    db = Σ dz, both summed over all leading axes
    dtypes    any float, one for x, w and b; z and all gradients have it
    raises    LayerError where features is no tuple of positive whole numbers or axes none, x is not
              a float array of as many axes, params is no Affine with w [*in, *features] of its
              dtype, or dz has not the shape and dtype of z

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.DenseGeneral((3, 4)), jnp.ones((8, 5))
    >>> params = layer.init(jax.random.key(0), x)
    >>> params.w.shape, layer.forward(params, x)[0].shape
    ((5, 3, 4), (8, 3, 4))
    """

    features: tuple[int, ...]
    _: KW_ONLY
    axes: int = 1
    bias: bool = True
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        if not isinstance(self.features, tuple) or not self.features:
            raise LayerError(
                self,
                f"features is {self.features!r}, wanted a tuple of sizes",
                f"write features=({self.features or 8},)",
            )
        for size in self.features:
            check_count(self, "features", size)
        check_count(self, "axes", self.axes)

    def init(self, key: Array, x: Any) -> Affine:
        check_input(self, x, rank=self.axes)
        old = x.shape[x.ndim - self.axes :]
        w_key, b_key = jax.random.split(key)
        w = self.w_init(w_key, (math.prod(old), math.prod(self.features)), x.dtype)
        b = self.b_init(b_key, self.features, x.dtype) if self.bias else None
        return Affine(w.reshape(*old, *self.features), b)

    def forward(
        self, params: Affine, x: Array, context: Context = Context()
    ) -> tuple[Array, Array]:
        check_input(self, x, rank=self.axes)
        check_params(self, params, Affine, like=x)
        leading, old = x.shape[: x.ndim - self.axes], x.shape[x.ndim - self.axes :]
        if params.w.shape != (*old, *self.features) or (
            params.b is not None and params.b.shape != self.features
        ):
            raise LayerError(
                self,
                f"x is {spell(x)}, w {spell(params.w)} and b {spell(params.b)}, wanted w of shape "
                f"{(*old, *self.features)} and b of {self.features}",
                "make them with layer.init(key, x)",
            )
        z, _ = self._dense().forward(self._matrix(params), self._rows(x))
        return reshaped(z, (*leading, *self.features), 1), x

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        leading, new = x.shape[: x.ndim - self.axes], len(self.features)
        check_cotangent(self, dz, (*leading, *self.features), x.dtype)
        flat = reshaped(dz, (*leading, math.prod(self.features)), new)
        dx, (dw, db) = self._dense().backward(self._matrix(params), self._rows(x), flat)
        own = Affine(
            whole(dw).reshape(params.w.shape),
            None if db is None else whole(db).reshape(self.features),
        )
        return reshaped(dx, x.shape, 1), placed(own, params)

    def _dense(self) -> Dense:
        return Dense(math.prod(self.features))

    def _rows(self, x: Array) -> Array:
        leading, old = x.shape[: x.ndim - self.axes], x.shape[x.ndim - self.axes :]
        return reshaped(x, (*leading, math.prod(old)), self.axes)

    def _matrix(self, params: Affine) -> Affine:
        out = math.prod(self.features)
        b = None if params.b is None else whole(params.b).reshape(out)
        return Affine(whole(params.w).reshape(-1, out), b)
