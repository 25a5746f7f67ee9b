"""Exercise layer-norm: every example with mean 0 and deviation 1. Write `backward`."""

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
    rstd: jax.Array  # 1 / √(variance + eps) [batch, 1]


@dataclass(frozen=True)
class LayerNorm(fp.Layer):
    """y = γ x̂ + β, with x̂ = (x − μ) / √(σ² + ε), μ and σ² over the features of an example."""

    eps: float = 1e-5

    def init(self, key, x):
        return Gain(jnp.ones(x.shape[-1], x.dtype), jnp.zeros(x.shape[-1], x.dtype))

    def forward(self, params, x, context=fp.Context()):
        rstd = jax.lax.rsqrt(x.var(1, keepdims=True) + self.eps)
        normal = (x - x.mean(1, keepdims=True)) * rstd
        return params.gamma * normal + params.beta, Kept(normal, rstd)

    def backward(self, params, kept, dy):
        """kept, dy [batch, features] -> dx [batch, features], Gain(dgamma, dbeta) [features].

        forward  y = γ x̂ + β     x̂ = (x − μ) / √(σ² + ε)
        kept     x̂ [batch, features] and 1 / √(σ² + ε) [batch, 1]
        hint 1   dγ and dβ sum over the batch (axis 0), as ever: every example uses them
        hint 2   the statistics are of one example now: with g = γ dy the formula is batch
                 norm's, its two means over the features (axis 1, keepdims=True)
        """
        normal, rstd = kept
        g = params.gamma * dy
        mean = g.mean(1, keepdims=True)
        along = (g * normal).mean(1, keepdims=True)
        return rstd * (g - mean - normal * along), Gain((dy * normal).sum(0), dy.sum(0))


layer = LayerNorm()
x = 1 + 2 * jax.random.normal(jax.random.key(0), (6, 4), jnp.float32)
