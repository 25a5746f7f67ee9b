"""Exercise rnn: one step of a network with a memory. Write `backward`."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

import funcprop as fp


class Cell(NamedTuple):
    """The parameters, and in the same form their gradients."""

    w: jax.Array  # [in, out], for what is read
    u: jax.Array  # [out, out], for what is remembered
    b: jax.Array  # [out]


@dataclass(frozen=True)
class RNNStep(fp.Layer):
    """h = tanh(x w + memory u + b): what is read, and what was remembered, make the new memory."""

    features: int

    def init(self, key, x):
        read, memory = x
        one, other = jax.random.split(key)
        w = jax.random.normal(one, (read.shape[-1], self.features), read.dtype)
        u = jax.random.normal(other, (memory.shape[-1], self.features), read.dtype)
        return Cell(w, u, jnp.zeros(self.features, read.dtype))

    def forward(self, params, x, context=fp.Context()):
        read, memory = x
        h = jnp.tanh(read @ params.w + memory @ params.u + params.b)
        return h, (read, memory, h)

    def backward(self, params, residuals, dh):
        """dh [batch, out] -> (dread [batch, in], dmemory [batch, out]), Cell(dw, du, db).

        forward  h = tanh(z)     z = x w + memory u + b
        kept     x, the memory it began with, and h
        hint 1   first through tanh, once: dz = dh (1 − h²). All five gradients use dz
        hint 2   then two dense layers that share dz: what x is to w, the memory is to u
        """
        read, memory, h = residuals
        dz = dh * (1 - h * h)
        dx = (dz @ params.w.T, dz @ params.u.T)
        return dx, Cell(read.T @ dz, memory.T @ dz, dz.sum(0))


layer = RNNStep(4)
keys = jax.random.split(jax.random.key(0))
x = (jax.random.normal(keys[0], (5, 3), jnp.float32), jnp.tanh(jax.random.normal(keys[1], (5, 4))))
