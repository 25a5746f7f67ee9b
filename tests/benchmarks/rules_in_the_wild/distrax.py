"""Derivative rules of Distrax."""

from __future__ import annotations

import distrax
import jax
import jax.numpy as jnp
import numpy as np
from distrax._src.utils import math

from rules_in_the_wild.call import Call

X = np.array([0.7, -1.4, 1.8, 2.6], np.float32)
C = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
KEY = jax.random.key(3)
VON_MISES = "distrax._src.distributions.von_mises."

CALLS = [
    Call("distrax._src.utils.math.multiply_no_nan", math.multiply_no_nan, (X, C)),
    Call("distrax._src.utils.math.power_no_nan", math.power_no_nan, (C, X), changed=False),
    Call(
        VON_MISES + "_von_mises_cdf",
        lambda x, c: distrax.VonMises(0.0, c).cdf(x),
        (X, C),
        changed=False,
        note="a series at small concentrations",
    ),
    Call(
        VON_MISES + "_von_mises_cdf",
        lambda x, c: distrax.VonMises(0.0, c).cdf(x),
        (X / 4, C + 12),
        changed=False,
        note="a normal approximation at large ones",
    ),
    Call(
        VON_MISES + "_von_mises_sample",
        lambda c: distrax.VonMises(jnp.zeros_like(c), c).sample(seed=KEY),
        (C,),
        changed=False,
        kind="convention",
        why="implicit reparametrization: the derivative is that of the "
        "quantile at the sample, and finite differences follow the rejection sampler's path",
    ),
]
