"""LoRA: a linear map that stays, and a small one beside it that learns."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.initializers import GlorotUniform, Initializer, LecunNormal, Zeros
from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    Params,
    check_cotangent,
    check_count,
    check_number,
    check_params,
    spell,
)
from funcprop.layers.dense import Affine, Dense, weight_gradient
from funcprop.sharding import beside, out_like, placed, product_out


class LowRank(NamedTuple):
    """The parameters of z = x w + b + s (x a) c, all of one float dtype.

    w  [in, out], frozen
    b  [out], frozen, or None where the layer has no bias
    a  [in, rank]
    c  [rank, out]
    """

    w: Array
    b: Array | None
    a: Array
    c: Array


class LoRAResiduals(NamedTuple):
    """What LoRA keeps."""

    x: Array  # [..., in]: da is its product with s dz cᵀ
    h: Array  # x a [..., rank]: dc is its product with dz


@dataclass(frozen=True)
class LoRA(Layer):
    """z = x w + b + s (x a) c with s = alpha / rank: low-rank adaptation (Hu et al., 2021).

    w and b are frozen: their gradient is None, and xᵀ dz [in, out] is computed nowhere. c starts at
    zero, so that training starts from w. `adapt` starts from a trained Dense, `merge` makes one
    again, and so does `fp.inference`.

    forward   x [..., in] -> z [..., out]
    keeps     x and h = x a
    backward  g = s dz cᵀ [..., rank]    dx = dz wᵀ + g aᵀ
              da = xᵀ g    dc = s hᵀ dz    dw = db = None
    dtypes    any float, one for x and the parameters; z and all gradients have it
    raises    LayerError where features or rank is no positive whole number or alpha negative, x is
              not a float array of as many features as w has rows, params is no LowRank of its
              dtype, dz has not the shape and dtype of z, or `adapt` gets the parameters of another
              Dense
    source    Hu et al., 2021, arXiv:2106.09685

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> layer, x = fp.LoRA(3, rank=1), jnp.ones((2, 4))
    >>> params = layer.init(jax.random.key(0), x)
    >>> z, residuals = jax.eval_shape(layer.forward, params, x)
    >>> dx, dparams = jax.eval_shape(layer.backward, params, residuals, z)
    >>> dparams.w, dparams.a.shape, dparams.c.shape
    (None, (4, 1), (1, 3))
    """

    features: int
    rank: int
    _: KW_ONLY
    alpha: float | None = None  # None: the rank, and s = 1
    bias: bool = True
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()
    a_init: Initializer = LecunNormal()
    c_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        check_count(self, "features", self.features)
        check_count(self, "rank", self.rank)
        if self.alpha is not None:
            check_number(self, "alpha", self.alpha, 0)

    @property
    def scale(self) -> float:
        """s = alpha / rank."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def dense(self) -> Dense:
        """The layer without what learns beside it."""
        return Dense(self.features, bias=self.bias, w_init=self.w_init, b_init=self.b_init)

    def init(self, key: Array, x: Any) -> LowRank:
        dense_key, key = jax.random.split(key)
        return self.adapt(key, self.dense.init(dense_key, x))

    def adapt(self, key: Array, trained: Affine) -> LowRank:
        """Parameters that start from those of a trained Dense."""
        check_params(self, trained, Affine)
        if trained.w.shape[1:] != (self.features,) or (trained.b is not None) != self.bias:
            raise LayerError(
                self,
                f"w is {spell(trained.w)} and b {spell(trained.b)}: they are not of {self.dense!r}",
                f"write LoRA({trained.w.shape[-1]}, {self.rank}, bias={trained.b is not None})",
            )
        a_key, c_key = jax.random.split(key)
        w = trained.w
        a = self.a_init(a_key, (w.shape[0], self.rank), w.dtype)
        return LowRank(w, trained.b, a, self.c_init(c_key, (self.rank, self.features), w.dtype))

    def merge(self, params: LowRank) -> Affine:
        """The parameters of the Dense that computes the same: w + s a c, and b."""
        return Affine(params.w + self.scale * (params.a @ params.c), params.b)

    def forward(
        self, params: LowRank, x: Array, context: Context = Context()
    ) -> tuple[Array, LoRAResiduals]:
        check_params(self, params, LowRank, like=x)
        frozen = jax.lax.stop_gradient(Affine(params.w, params.b))  # for jax.grad, as backward
        z, _ = self.dense.forward(frozen, x)
        params = beside(params, x)
        h = jnp.matmul(x, params.a, **product_out(x, params.a))
        return z + self.scale * jnp.matmul(h, params.c, **product_out(h, params.c)), LoRAResiduals(
            x, h
        )

    def backward(
        self, params: LowRank, residuals: LoRAResiduals, dz: Array
    ) -> tuple[Array, LowRank]:
        x, h = residuals
        check_cotangent(self, dz, (*x.shape[:-1], self.features), x.dtype)
        given, params = params, beside(params, x)
        g = self.scale * jnp.matmul(dz, params.c.T, **out_like(h, dz, params.c))
        dx = jnp.matmul(dz, params.w.T, **out_like(x, dz, params.w))
        dx = dx + jnp.matmul(g, params.a.T, **out_like(x, g, params.a))
        da = weight_gradient(x, g, given.a)
        dc = self.scale * weight_gradient(h, dz, given.c)
        da, dc = placed((da, dc), (given.a, given.c))
        return dx, LowRank(None, None, da, dc)  # type: ignore[arg-type]

    def inference(self, params: LowRank, statistics: Any) -> tuple[Layer, Params]:
        return self.dense, self.merge(params)
