"""Exercise batch-norm: features of mean 0 and deviation 1 over the batch. Write `backward`."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

import funcprop as fp


class Gain(NamedTuple):
    """The parameters, and in the same form their gradients: each [features]."""

    gamma: jax.Array
    beta: jax.Array


class Kept(NamedTuple):
    """What backward needs."""

    normal: jax.Array  # x̂ [batch, features], before gamma and beta
    rstd: jax.Array  # 1 / √(variance + eps) [features]


@dataclass(frozen=True)
class BatchNorm(fp.Layer):
    """y = γ x̂ + β, with x̂ = (x − μ) / √(σ² + ε), μ and σ² over the batch."""

    eps: float = 1e-5

    def init(self, key, x):
        return Gain(jnp.ones(x.shape[-1], x.dtype), jnp.zeros(x.shape[-1], x.dtype))

    def forward(self, params, x, context=fp.Context()):
        rstd = jax.lax.rsqrt(x.var(0) + self.eps)
        normal = (x - x.mean(0)) * rstd
        return params.gamma * normal + params.beta, Kept(normal, rstd)

    def backward(self, params, kept, dy):
        """kept, dy [batch, features] -> dx [batch, features], Gain(dgamma, dbeta) [features].

        forward  y = γ x̂ + β     x̂ = (x − μ) / √(σ² + ε)
        kept     x̂ and 1 / √(σ² + ε)
        hint 1   γ and β are shared by the batch: dβ = Σ dy and dγ = Σ dy x̂, over axis 0
        hint 2   with g = γ dy, three paths lead to x, of which two go through μ and σ²:
                 dx = (g − mean(g) − x̂ · mean(g x̂)) / √(σ² + ε), the means over the batch
        """
        normal, rstd = kept
        g = params.gamma * dy
        dx = rstd * (g - g.mean(0) - normal * (g * normal).mean(0))
        return dx, Gain((dy * normal).sum(0), dy.sum(0))


layer = BatchNorm()
x = 1 + 2 * jax.random.normal(jax.random.key(0), (6, 4), jnp.float32)
