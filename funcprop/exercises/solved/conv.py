"""Exercise conv: the same small weights at every place of an image. Write `backward`."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

import funcprop as fp


class Kernel(NamedTuple):
    """The parameters, and in the same form their gradients."""

    w: jax.Array  # [size, size, in, out]
    b: jax.Array  # [out]


@dataclass(frozen=True)
class Conv(fp.Layer):
    """y[r, c] = Σᵢⱼ x[r + i, c + j] w[i, j] + b: without padding, so y is smaller than x."""

    channels: int
    size: int

    def init(self, key, x):
        w = jax.random.normal(key, (self.size, self.size, x.shape[-1], self.channels), x.dtype)
        return Kernel(w, jnp.zeros(self.channels, x.dtype))

    def forward(self, params, x, context=fp.Context()):
        height, width = x.shape[1] - self.size + 1, x.shape[2] - self.size + 1
        y = params.b
        for i in range(self.size):
            for j in range(self.size):
                y = y + x[:, i : i + height, j : j + width] @ params.w[i, j]
        return y, x

    def backward(self, params, x, dy):
        """x [batch, H, W, in], dy [batch, H − size + 1, W − size + 1, out] -> dx, Kernel(dw, db).

        forward  y = b + Σᵢⱼ (the part of x that begins at i, j) @ w[i, j]
        kept     x
        hint 1   each i, j is a dense layer on a part of x: its dw[i, j] is that part times dy,
                 summed over the batch and both places: jnp.tensordot(part, dy, ((0, 1, 2),) * 2)
        hint 2   a pixel was in several parts, so what comes back adds up: start with
                 jnp.zeros_like(x), and dx = dx.at[:, i : i + height, j : j + width].add(...)
        """
        _, height, width, _ = dy.shape
        dx, dw = jnp.zeros_like(x), jnp.zeros_like(params.w)
        for i in range(self.size):
            for j in range(self.size):
                part = x[:, i : i + height, j : j + width]
                dw = dw.at[i, j].set(jnp.tensordot(part, dy, ((0, 1, 2),) * 2))
                back = dy @ params.w[i, j].T
                dx = dx.at[:, i : i + height, j : j + width].add(back)
        return dx, Kernel(dw, dy.sum((0, 1, 2)))


layer = Conv(4, 2)  # in = out on purpose, as in dense; all other sizes are different ones
x = jax.random.normal(jax.random.key(0), (3, 6, 8, 4), jnp.float32)
