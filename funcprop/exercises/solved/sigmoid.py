"""Exercise sigmoid: a neuron's squashing function. Write `backward`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp


@dataclass(frozen=True)
class Sigmoid(fp.Layer):
    """a = σ(z) = 1 / (1 + e⁻ᶻ), elementwise."""

    def forward(self, params, z, context=fp.Context()):
        a = jax.nn.sigmoid(z)
        return a, a  # the output, and what is kept for the way back: the output too

    def backward(self, params, a, da):
        """a, da [batch, features] -> dz [batch, features], and () since there are no parameters.

        forward  a = 1 / (1 + e⁻ᶻ)
        kept     a
        hint 1   dz = da · σ′(z): every number has its own slope, nothing is summed
        hint 2   σ′(z) = σ(z)(1 − σ(z)), and σ(z) is what was kept: do not apply σ again
        """
        return da * a * (1 - a), ()


layer = Sigmoid()
x = 2 * jax.random.normal(jax.random.key(0), (5, 4), jnp.float32)
