"""Derivative rules of JAX-GalSim."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from jax_galsim import bessel

from rules_in_the_wild.call import Call

NU = np.array([1.7, 0.4, 3.1, 2.2], np.float32)
X = np.array([0.6, 1.3, 2.7, 4.2], np.float32)


def confirm():
    with mpmath.workdps(40):
        right = float(mpmath.diff(lambda v: mpmath.besselk(v, mpmath.mpf(0.6)), 1.7))
    return {"the rule": jax.grad(bessel.kv, 0)(1.7, 0.6), "mpmath, 40 digits": right}


CALLS = [
    Call(
        "jax_galsim.bessel.kv",
        lambda x: bessel.kv(jnp.asarray(NU, x.dtype), x),
        (X,),
        changed=False,
        note="by the argument",
    ),
    Call(
        "jax_galsim.bessel.kv",
        lambda v: bessel.kv(v, jnp.asarray(X, v.dtype)),
        (NU,),
        changed=False,
        note="by the order",
        kind="convention",
        confirm=confirm,
        why="the docstring says that the gradient by the order is not supported, and zero",
        smallest="jax.grad(jax_galsim.bessel.kv, 0)(1.7, 0.6)",
    ),
]
