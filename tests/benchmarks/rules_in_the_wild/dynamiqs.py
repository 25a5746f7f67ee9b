"""Derivative rules of Dynamiqs."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from dynamiqs.integrators.core import low_rank_integrator as low_rank

from rules_in_the_wild.call import Call

A = np.array([[1.2, -0.3], [0.5, 0.9], [-0.4, 1.6]], np.float32)
B = np.array([[0.7, 0.1], [-1.1, 0.4], [0.3, 2.0]], np.float32)


def by_qr(a, b):
    return low_rank._qr_solve_cached(a, jnp.linalg.qr(a), b)


def by_pseudoinverse(a, b):
    return low_rank._cholesky_solve_cached(a, jnp.linalg.solve(a.T @ a, a.T), b)


CALLS = [
    Call(
        "dynamiqs.integrators.core.low_rank_integrator._qr_solve_cached",
        by_qr,
        (A, B),
        changed=False,
    ),
    Call(
        "dynamiqs.integrators.core.low_rank_integrator._cholesky_solve_cached",
        by_pseudoinverse,
        (A, B),
        changed=False,
    ),
]
