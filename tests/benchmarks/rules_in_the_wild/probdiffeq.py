"""Derivative rules of ProbDiffEq."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from probdiffeq.backend import linalg

from rules_in_the_wild.call import Call, slope

A = np.array([[1.2, -0.3], [0.5, 0.9], [-0.4, 1.6]], np.float32)


def confirm():
    base = A.astype(np.float64)

    def corner(t):  # R of the QR decomposition, with its signs made those of the start
        moved = base.copy()
        moved[2, 0] += t
        r = np.linalg.qr(moved, mode="r")
        return (r * np.sign(np.diag(r))[:, None] * SIGNS[:, None])[1, 1]

    SIGNS = np.sign(np.diag(np.linalg.qr(base, mode="r")))
    jacobian = jax.jacfwd(linalg.qr_r)(jnp.asarray(base))
    lower = jacobian[1, 0, 2, 0]
    return {
        "the rule, dR[1, 1] by A[2, 0]": jacobian[1, 1, 2, 0],
        "central differences, dR[1, 1] by A[2, 0]": slope(corner, 0.0),
        "the rule, dR[1, 0] by A[2, 0]": lower,
        "R[1, 0] is always": 0.0,
    }


CALLS = [
    Call(
        "probdiffeq.backend.linalg.qr_r",
        linalg.qr_r,
        (A,),
        changed=False,
        confirm=confirm,
        kind="convention",
        why="Q is held constant, as the docstring says: dR = Qᵀ dA is right in "
        "RᵀR alone, which is what its users form; its lower triangle is not zero",
    ),
    Call(
        "probdiffeq.backend.linalg.qr_r",
        lambda a: (lambda r: r.T @ r)(linalg.qr_r(a)),
        (A,),
        changed=False,
        note="in RᵀR, which is what is formed of it",
    ),
]
