"""Derivative rules of qpax."""

from __future__ import annotations

import numpy as np
import qpax

from rules_in_the_wild.call import Call

Q = np.array([[3.0, 0.4], [0.4, 2.5]], np.float32)
L = np.array([0.7, -1.1], np.float32)
A = np.array([[1.0, 1.0]], np.float32)
B = np.array([0.3], np.float32)
G = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
H = np.array([0.9, 0.2], np.float32)


def relaxed(q, c, a, b, g, h):
    q = (q + q.T) / 2
    return qpax.solve_qp_primal(q, c, a, b, g, h, solver_tol=1e-10, target_kappa=1e-8)


CALLS = [
    Call(
        "qpax.explicit.diff_qp.solve_qp_primal",
        relaxed,
        (Q, L, A, B, G, H),
        changed=False,
        kind="convention",
        why="the gradient is that of a relaxed problem, κ = 1e-8 here, which "
        "is smooth where a constraint becomes active",
    ),
]
