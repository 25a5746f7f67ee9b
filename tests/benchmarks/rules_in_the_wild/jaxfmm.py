"""Derivative rules of jaxfmm."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxfmm import near

from rules_in_the_wild.call import Call

X = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
SORTED = np.array([0, 1, 1, 3], np.int32)

CALLS = [
    Call("jaxfmm.near._take_sorted", lambda x: near._take_sorted(x, jnp.asarray(SORTED)), (X,)),
]
