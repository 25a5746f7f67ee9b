"""Exercise quadratic: the cost that has the ½. Write `backward`."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import funcprop as fp


@dataclass(frozen=True)
class Quadratic(fp.Layer):
    """C = 1/m Σ ½‖a − y‖², the mean over a batch of m examples. A cost is a layer on a pair."""

    def forward(self, params, x, context=fp.Context()):
        a, y = x
        difference = a - y
        return 0.5 * jnp.square(difference).sum() / len(a), difference

    def backward(self, params, difference, dcost):
        """difference [m, features], dcost [] -> (da, dy), both [m, features], and ().

        forward  C = 1/m Σ over examples and features of ½ (a − y)²
        kept     a − y
        hint 1   the derivative of ½ u² is u: the ½ is there to cancel the 2. The 1/m stays
        hint 2   y counts the other way round: dy = −da. Both are multiplied by dcost, which is 1
                 where C is the last thing computed, and is another number where it is not
        in funcprop compare's table  da is dx[0], dy is dx[1], and dcost is called dy
        """
        da = dcost * difference / len(difference)
        return (da, -da), ()


layer = Quadratic()
keys = jax.random.split(jax.random.key(0))
x = tuple(jax.random.normal(key, (5, 3), jnp.float32) for key in keys)  # a and y
