"""Exercise attention: every position looks at all others. Write `backward`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp


@dataclass(frozen=True)
class Attention(fp.Layer):
    """y = softmax(q kᵀ / √K) v: one head, without a mask."""

    def forward(self, params, x, context=fp.Context()):
        q, k, v = x
        s = q @ k.mT * k.shape[-1] ** -0.5
        p = jax.nn.softmax(s)
        return p @ v, (q, k, v, p)

    def backward(self, params, residuals, dy):
        """dy [batch, time, K] -> (dq, dk, dv), each [batch, time, K], and ().

        forward  s = q kᵀ / √K     p = softmax(s)     y = p v
        kept     q, k, v and p [batch, time, time]
        hint 1   from the end: dv = pᵀ dy and dp = dy vᵀ, as in a dense layer. m.mT transposes the
                 last two axes
        hint 2   a row of p sums to 1, so through the softmax ds = p (dp − Σ p dp), the sum over
                 the last axis; then dq = ds k / √K and dk = dsᵀ q / √K
        """
        q, k, v, p = residuals
        dv = p.mT @ dy
        dp = dy @ v.mT
        ds = p * (dp - (p * dp).sum(-1, keepdims=True))
        ds = ds * k.shape[-1] ** -0.5
        return (ds @ k, ds.mT @ q, dv), ()


layer = Attention()
keys = jax.random.split(jax.random.key(0), 3)
x = tuple(jax.random.normal(key, (2, 4, 3), jnp.float32) for key in keys)  # q, k and v
