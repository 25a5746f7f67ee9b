"""Exercise dropout: a layer that draws random numbers. Write `backward`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp


@dataclass(frozen=True)
class Dropout(fp.Layer):
    """y = x · mask / (1 − rate): a share `rate` is dropped, the rest grows to make up for it."""

    rate: float

    def forward(self, params, x, context=fp.Context()):
        kept = jax.random.bernoulli(context.key_for(self), 1 - self.rate, x.shape)
        return jnp.where(kept, x / (1 - self.rate), 0), kept

    def backward(self, params, kept, dy):
        """kept [batch, features] of True and False, dy [batch, features] -> dx, and ().

        forward  y = x / (1 − rate) where kept, else 0
        kept     which were kept
        hint 1   a number that was dropped moved nothing: its gradient is 0
        hint 2   the others were multiplied by 1 / (1 − rate), and so is their gradient; it must
                 be the mask of this pass, so no new one is drawn
        """
        return jnp.where(kept, dy / (1 - self.rate), 0), ()


layer = Dropout(0.4)
x = jax.random.normal(jax.random.key(0), (5, 4), jnp.float32)
context = fp.Context(key=jax.random.key(1))
