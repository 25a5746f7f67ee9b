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
SOLVE = "lineax._solve.linear_solve_p"


def solved(solver, *tags):
    def of(a, b):
        a = (a + a.T) / 2 if tags else a
        chosen = solver(10 * float(jnp.finfo(b.dtype).eps)) if callable(solver) else solver
        return lx.linear_solve(lx.MatrixLinearOperator(a, tags), b, chosen).value

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
    p(solved(lambda eps: lx.CG(eps, eps), lx.positive_semidefinite_tag), A, B, note="CG"),
    p(solved(lambda eps: lx.GMRES(eps, eps)), A, B, note="GMRES"),
    p(solved(lambda eps: lx.BiCGStab(eps, eps)), A, B, note="BiCGStab"),
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
