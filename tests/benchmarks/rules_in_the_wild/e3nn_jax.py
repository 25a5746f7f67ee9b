"""Derivative rules of e3nn-jax."""

from __future__ import annotations

import e3nn_jax
import numpy as np
from e3nn_jax._src.utils import einsum

from rules_in_the_wild.call import Call

X = np.array([[0.7, -0.4, 1.8], [0.3, 1.1, -0.5]], np.float32)
W = np.array([[0.5, 1.2], [0.3, -0.7], [1.5, 0.1]], np.float32)
RULE = "e3nn_jax._src.spherical_harmonics._custom_jvp_spherical_harmonics"


def harmonics(degrees, normalization, *algorithm):
    irreps = " + ".join(f"1x{d}{'eo'[d % 2]}" for d in degrees)
    options = {"normalization": normalization, "algorithm": (*algorithm, "custom_jvp")}
    return lambda x: e3nn_jax.spherical_harmonics(irreps, x, normalize=False, **options).array


CALLS = [
    Call(
        RULE, harmonics((0, 1, 2, 3), "integral", "recursive", "dense"), (X,), note="degrees 0 to 3"
    ),
    Call(
        RULE,
        harmonics((4, 6), "component", "legendre", "dense"),
        (X,),
        note="degrees 4 and 6, component",
    ),
    Call(RULE, harmonics((1, 2), "norm", "recursive", "sparse"), (X,), note="norm"),
    Call(
        "e3nn_jax._src.utils.einsum.einsum", lambda x, w: einsum.einsum("ij,jk->ik", x, w), (X, W)
    ),
    Call(
        "e3nn_jax._src.utils.einsum.einsum",
        lambda x, w: einsum.einsum("ij,jk,il->kl", x, w, x),
        (X, W),
        note="three operands",
    ),
]
