"""Exercise dense: the layer that has the weights. Write `backward`."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

import funcprop as fp


class Affine(NamedTuple):
    """The parameters, and in the same form their gradients."""

    w: jax.Array  # [in, out]
    b: jax.Array  # [out]


@dataclass(frozen=True)
class Dense(fp.Layer):
    """z = x w + b. A row of x is an example."""

    features: int

    def init(self, key, x):
        w = jax.random.normal(key, (x.shape[-1], self.features), x.dtype)
        return Affine(w, jnp.zeros(self.features, x.dtype))

    def forward(self, params, x, context=fp.Context()):
        return x @ params.w + params.b, x

    def backward(self, params, x, dz):
        """x [batch, in], dz [batch, out] -> dx [batch, in], Affine(dw [in, out], db [out]).

        forward  z = x w + b
        kept     x
        hint 1   ∂C/∂x[b, j] sums over the outputs that x[b, j] feeds: Σₖ dz[b, k] w[j, k]
        hint 2   every example uses the same w and b, so theirs sum over the batch; the shapes
                 leave one way to multiply: [in, batch] times [batch, out] is [in, out]
        """
        dx = dz @ params.w.T
        dw = x.T @ dz
        db = dz.sum(0)
        return dx, Affine(dw, db)


layer = Dense(4)  # square on purpose: shapes alone do not tell w from its transpose
x = jax.random.normal(jax.random.key(0), (5, 4), jnp.float32)
