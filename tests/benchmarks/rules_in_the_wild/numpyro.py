"""Derivative rules of NumPyro."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import util

from rules_in_the_wild.call import Call

X = np.array([0.7, 1.4, 1.8, 2.6], np.float32)
ALPHA = np.array([-0.7, 0.4, 1.8, -2.1], np.float32)
LOW, HIGH = np.float32(0.5), np.float32(3.2)
POWER = "numpyro.distributions.truncated.DoublyTruncatedPowerLaw."


def power(alpha, low, high):
    return dist.DoublyTruncatedPowerLaw(alpha, low, high)


def of_bounds():
    """log p = α log x + log(1 + α) − log(high¹⁺ᵅ − low¹⁺ᵅ), by low and high, in closed form."""
    x, a, low, high = 1.4, 0.4, 0.5, 3.2
    width = high ** (1 + a) - low ** (1 + a)
    rule = jax.grad(
        lambda *bounds: power(jnp.asarray(a), *bounds).log_prob(jnp.asarray(x)), (0, 1)
    )(jnp.asarray(low), jnp.asarray(high))
    return {
        "the rule, by low": rule[0],
        "closed form, by low": (1 + a) * low**a / width,
        "the rule, by high": rule[1],
        "closed form, by high": -(1 + a) * high**a / width,
    }


def of_bounds_at_minus_one():
    """log p = −log x − log log(high / low)."""
    x, low, high = 1.4, 0.5, 3.2
    rule = jax.grad(
        lambda *bounds: power(jnp.asarray(-1.0), *bounds).log_prob(jnp.asarray(x)), (0, 1)
    )(jnp.asarray(low), jnp.asarray(high))
    return {
        "the rule, by low": rule[0],
        "closed form, by low": 1 / (low * np.log(high / low)),
        "the rule, by high": rule[1],
        "closed form, by high": -1 / (high * np.log(high / low)),
    }


SMALLEST = (
    "alpha, low, x = jnp.array({}), jnp.array(0.5), jnp.array(1.4)\n"
    "jax.grad(lambda high: dist.DoublyTruncatedPowerLaw(alpha, low, high).log_prob(x))(3.2)"
)

CALLS = [
    Call("numpyro.distributions.util.log1mexp", util.log1mexp, (-X,), changed=False),
    Call(
        POWER + "log_prob.f",
        lambda x, a, lo, hi: power(a, lo, hi).log_prob(x),
        (X, ALPHA, LOW, HIGH),
        confirm=of_bounds,
        smallest=SMALLEST.format(0.4),
        changed=False,
    ),
    Call(
        POWER + "cdf.f",
        lambda x, a, lo, hi: power(a, lo, hi).cdf(x),
        (X, ALPHA, LOW, HIGH),
        changed=False,
    ),
    Call(
        POWER + "icdf.f",
        lambda q, a, lo, hi: power(a, lo, hi).icdf(q),
        (X / 3, ALPHA, LOW, HIGH),
        changed=False,
    ),
    Call(
        POWER + "log_prob.f",
        lambda x, lo, hi: power(-jnp.ones((), x.dtype), lo, hi).log_prob(x),
        (X, LOW, HIGH),
        changed=False,
        confirm=of_bounds_at_minus_one,
        smallest=SMALLEST.format(-1.0),
        note="at the exponent −1",
    ),
    Call(
        POWER + "log_prob.f",
        lambda a: power(a, *(jnp.asarray(b, a.dtype) for b in (LOW, HIGH))).log_prob(
            jnp.asarray(X, a.dtype)
        ),
        (np.full(4, -1.0005, np.float32),),
        changed=False,
        note="near the exponent −1, where an approximation stands",
    ),
    Call(
        POWER + "cdf.f",
        lambda a: power(a, *(jnp.asarray(b, a.dtype) for b in (LOW, HIGH))).cdf(
            jnp.asarray(X, a.dtype)
        ),
        (np.full(4, -1.0005, np.float32),),
        changed=False,
        note="near the exponent −1, where an approximation stands",
    ),
]
