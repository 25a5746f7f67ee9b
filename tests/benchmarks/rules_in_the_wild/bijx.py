"""Derivative rules of bijx."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from bijx import cg, solvers

from rules_in_the_wild.call import Call

Y = np.array([0.5, 0.1], np.float32)
W = np.float32(1.3)
SMALL = 0.01
ADJOINT = "the adjoint method; it agrees to the solver's tolerance only"


def swing(t, y, w):
    return jnp.stack([y[1], -w * jnp.sin(y[0]) + 0.1 * t])


CALLS = [
    Call(
        "bijx.solvers._rk4_odeint",
        lambda y, w: solvers.odeint_rk4(swing, y, 0.8, w, step_size=SMALL),
        (Y, W),
        changed=False,
        note=ADJOINT,
    ),
    Call(
        "bijx.cg._crouch_grossmann",
        lambda y, w: cg.crouch_grossmann(
            lambda t, y, w: swing(t, y, w),
            y,
            w,
            0.0,
            0.8,
            SMALL,
            manifold_types=cg.Euclidean(),
            tableau=cg.CG3,
        ),
        (Y, W),
        changed=False,
        note=ADJOINT,
    ),
]
