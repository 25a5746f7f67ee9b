"""Derivative rules of jax-finufft."""

from __future__ import annotations

import jax_finufft
import numpy as np

from rules_in_the_wild.call import Call

C, D = (np.random.default_rng(i).normal(size=6).astype(np.float32) for i in range(2))
X = np.random.default_rng(2).uniform(-3, 3, size=6).astype(np.float32)
S = np.random.default_rng(3).uniform(-3, 3, size=4).astype(np.float32)
EPS = {"eps": 1e-13}


def parts(z):
    return z.real, z.imag


def spread(c, d, x):
    return parts(jax_finufft.nufft1(5, c + 1j * d, x, **EPS))


def gathered(c, d, x):
    return parts(jax_finufft.nufft2(c + 1j * d, x, **EPS))


def between(c, d, x, s):
    return parts(jax_finufft.nufft3(c + 1j * d, x, s, **EPS))


CALLS = [
    Call("jax_finufft.ops.nufft1_p", spread, (C, D, X), changed=False),
    Call("jax_finufft.ops.nufft2_p", gathered, (C, D, X), changed=False),
    Call("jax_finufft.ops.nufft3_p", between, (C, D, X, S), changed=False),
]
