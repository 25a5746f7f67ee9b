"""Derivative rules of Lineax."""

from __future__ import annotations

import jax.numpy as jnp
import lineax as lx
import numpy as np

from rules_in_the_wild.call import Call

X = np.array([[0.7, -0.4, 1.8], [0.3, 1.1, -0.5]], np.float32)
A = np.array([[3.0, 0.4, -0.2], [0.1, 2.5, 0.6], [-0.7, 0.3, 4.0]], np.float32)
TALL = np.array([[1.2, -0.3], [0.5, 0.9], [-0.4, 1.6]], np.float32)
B = np.array([0.7, -1.1, 0.3], np.float32)
RANDOM = np.random.default_rng(0)
# what these solvers call a breakdown: that they cannot come nearer, of a million times a cotangent
LOOSE = {"rtol": 1e-3}
LARGE = (8 * np.eye(12) + RANDOM.normal(size=(12, 12))).astype(np.float32)
RIGHT = RANDOM.normal(size=12).astype(np.float32)
SOLVE = "lineax._solve.linear_solve_p"


def solved(solver, *tags, throw=True):
    def of(a, b):
        a = (a + a.T) / 2 if tags else a
        chosen = solver(float(jnp.finfo(b.dtype).eps)) if callable(solver) else solver
        operator = lx.MatrixLinearOperator(a, tags)
        return lx.linear_solve(operator, b, chosen, throw=throw).value

    return of


def p(function, *args, **options):
    return Call(SOLVE, function, args, seen_as="linear_solve_p", changed=False, **options)


CALLS = [
    Call("lineax._norm._two_norm", lx.internal.two_norm, (X,), note="zero at zero on purpose"),
    Call("lineax._norm._two_norm", lx.internal.rms_norm, (X,), note="through rms_norm"),
    Call("lineax._norm._zero_grad_at_zero", lx.internal.max_norm, (X,), note="through max_norm"),
    p(solved(lx.LU()), A, B, note="LU"),
    p(solved(lx.QR()), TALL, B, note="QR, least squares"),
    p(solved(lx.SVD()), TALL, B, note="SVD, least squares"),
    p(solved(lx.QR()), TALL.T.copy(), B[:2], note="QR, the least norm"),
    p(solved(lx.Cholesky(), lx.positive_semidefinite_tag), A, B, note="Cholesky"),
    p(solved(lambda eps: lx.CG(10 * eps, 10 * eps), lx.positive_semidefinite_tag), A, B, note="CG"),
    p(solved(lambda eps: lx.GMRES(eps**0.5, eps**0.5)), LARGE, RIGHT, note="GMRES", options=LOOSE),
    p(
        solved(lambda eps: lx.BiCGStab(eps**0.5, eps**0.5), throw=False),
        LARGE,
        RIGHT,
        note="BiCGStab",
        options=LOOSE,
    ),
    p(
        lambda d, b: lx.linear_solve(lx.DiagonalLinearOperator(d), b).value,
        B,
        B * 2 + 1,
        note="a diagonal",
    ),
    p(
        lambda d, lo, up, b: (
            lx.linear_solve(lx.TridiagonalLinearOperator(d, lo, up), b, lx.Tridiagonal()).value
        ),
        B + 4,
        B[:2],
        B[1:],
        B,
        note="tridiagonal",
    ),
]
