"""Derivative rules of NumPyro."""

from __future__ import annotations

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


CALLS = [
    Call("numpyro.distributions.util.log1mexp", util.log1mexp, (-X,), changed=False),
    Call(POWER + "log_prob.f", lambda x, a, lo, hi: power(a, lo, hi).log_prob(x),
         (X, ALPHA, LOW, HIGH), changed=False),
    Call(POWER + "cdf.f", lambda x, a, lo, hi: power(a, lo, hi).cdf(x),
         (X, ALPHA, LOW, HIGH), changed=False),
    Call(POWER + "icdf.f", lambda q, a, lo, hi: power(a, lo, hi).icdf(q),
         (X / 3, ALPHA, LOW, HIGH), changed=False),
    Call(POWER + "log_prob.f", lambda x, lo, hi: power(-jnp.ones((), x.dtype), lo, hi).log_prob(x),
         (X, LOW, HIGH), changed=False, note="at the exponent −1"),
    Call(POWER + "log_prob.f", lambda a: power(a, LOW, HIGH).log_prob(jnp.asarray(X, a.dtype)),
         (np.full(4, -1.0005, np.float32),), changed=False,
         note="near the exponent −1, where an approximation stands"),
    Call(POWER + "cdf.f", lambda a: power(a, LOW, HIGH).cdf(jnp.asarray(X, a.dtype)),
         (np.full(4, -1.0005, np.float32),), changed=False,
         note="near the exponent −1, where an approximation stands"),
]
