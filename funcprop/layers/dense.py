"""Dense: a linear map of the features."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

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
from funcprop.sharding import beside, is_spread, out_like, placed, product_out


class Affine(NamedTuple):
    """The parameters of z = x w + b, all of one float dtype.

    w  [in, out]
    b  [out], or None where the layer has no bias
    """

    w: Array
    b: Array | None


TRANSPOSED = "w is [in, out], the transpose of PyTorch's weight: write Affine(weight.T, bias)"


@dataclass(frozen=True)
class Dense(Layer):
    """z = x w + b, for row vectors x.

    The weight of PyTorch's Linear is [out, in], the transpose of w. Where both sizes are the same
    nothing can tell them apart: transpose it.

    forward   x [..., in] -> z [..., out]
    keeps     x: dw is its product with dz
    backward  dx = dz wᵀ    dw = xᵀ dz    db = Σ dz, both summed over all leading axes
    dtypes    any float, one for x, w and b; z and all gradients have it
    raises    LayerError where features is no positive whole number, x is not a float array of as
              many features as w has rows, params is no Affine of the dtype of x, or dz has not the
              shape and dtype of z

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.Dense(3), jnp.ones((2, 4))
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = layer.forward(params, x)
    >>> dx, dparams = layer.backward(params, residuals, jnp.ones((2, 3)))
    >>> z.shape, dx.shape, dparams.w.shape
    ((2, 3), (2, 4), (4, 3))
    >>> dparams.b
    Array([2., 2., 2.], dtype=float32)
    """

    features: int
    _: KW_ONLY
    bias: bool = True
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_count(self, "features", self.features)

    def init(self, key: Array, x: Any) -> Affine:
        check_input(self, x, rank=1)
        w_key, b_key = jax.random.split(key)
        w = self.w_init(w_key, (x.shape[-1], self.features), x.dtype)
        b = self.b_init(b_key, (self.features,), x.dtype) if self.bias else None
        return Affine(w, b)

    def forward(
        self, params: Affine, x: Array, context: Context = Context()
    ) -> tuple[Array, Array]:
        check_input(self, x, rank=1)
        check_params(self, params, Affine, like=x)
        if params.w.ndim != 2 or (params.b is not None and params.b.shape != params.w.shape[1:]):
            turned = params.b is not None and params.b.shape == params.w.shape[:1]
            raise LayerError(
                self,
                f"w is {spell(params.w)} and b {spell(params.b)}, wanted w [in, out] and b [out]",
                TRANSPOSED if turned else "make them with layer.init(key, x)",
            )
        sizes = (self.features, x.shape[-1])
        if params.w.shape == sizes != sizes[::-1]:
            raise LayerError(
                self,
                f"x is {spell(x)} and w {spell(params.w)}, wanted w [{x.shape[-1]}, out]",
                TRANSPOSED,
            )
        check_input(self, x, features=params.w.shape[0])
        params = beside(params, x)
        z = jnp.matmul(x, params.w, **product_out(x, params.w))
        return (z if params.b is None else z + params.b), x

    def backward(self, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
        check_cotangent(self, dz, (*x.shape[:-1], params.w.shape[1]), x.dtype)
        leading = tuple(range(x.ndim - 1))
        w = beside(params.w, x)
        dx = jnp.matmul(dz, w.T, **out_like(x, dz, w))
        dw = weight_gradient(x, dz, params.w)
        db = None if params.b is None else dz.sum(leading)
        return dx, placed(Affine(dw, db), params)


def weight_gradient(x: Array, dz: Array, w: Array) -> Array:
    """xᵀ dz, summed over all leading axes: x [..., in], dz [..., out] -> [in, out], as w lies."""
    leading = tuple(range(x.ndim - 1))
    if dz.shape[-1] > 32 or math.prod(x.shape[:-1]) > 128 or is_spread(x, dz):
        return jnp.tensordot(x, dz, (leading, leading), **out_like(w, x, dz))
    # A narrow product: XLA on CPU has a fast kernel for dzᵀ x and none for xᵀ dz, and folds the
    # transposes of the one into the other unless barriers hold them apart (docs/benchmarks.md).
    rows, columns = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
    # The second is one of a flat array: jaxlib 0.10 ends the process where a batch of products
    # (vmap over w) is transposed behind a barrier.
    transposed = jax.lax.optimization_barrier(columns.T)
    flat = jax.lax.optimization_barrier((transposed @ rows).reshape(-1))
    return flat.reshape(w.shape[::-1]).T
