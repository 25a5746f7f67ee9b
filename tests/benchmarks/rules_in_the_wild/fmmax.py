"""Derivative rules of FMMAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from fmmax import eig

from rules_in_the_wild.call import Call

A = np.array([[3.0, 0.4, -0.2], [0.1, 1.5, 0.6], [-0.7, 0.3, 5.0]], np.float32)


def parts(a):
    values, vectors = eig.eig(a.astype(jnp.complex128 if a.dtype == jnp.float64 else jnp.complex64))
    order = jnp.argsort(values.real)
    values, vectors = values[order], vectors[:, order]
    shown = vectors / vectors[:1]  # the scale of an eigenvector is free
    return values.real, shown.real


CALLS = [
    Call("fmmax.eig.eig", lambda a: parts(a)[0], (A,), changed=False, note="eigenvalues"),
    Call("fmmax.eig.eig", parts, (A,), changed=False, note="and eigenvectors, their scale fixed"),
]
