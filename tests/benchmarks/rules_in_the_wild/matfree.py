"""Derivative rules of matfree."""

from __future__ import annotations

import numpy as np
from matfree import decomp, lstsq

from rules_in_the_wild.call import Call

A = np.array([[3.0, 0.4, -0.2, 1.0], [0.4, 2.5, 0.6, -0.3], [-0.2, 0.6, 4.0, 0.2],
              [1.0, -0.3, 0.2, 2.0]], np.float32)  # fmt: skip
V = np.array([0.5, -1.0, 2.0, 0.3], np.float32)
TALL = np.array([[1.2, -0.3], [0.5, 0.9], [-0.4, 1.6]], np.float32)
B = np.array([0.7, -1.1, 0.3], np.float32)


def product(v, a):
    return (a + a.T) @ v / 2


def tridiagonal(reortho):
    return lambda v, a: decomp.tridiag_sym(3, reortho=reortho)(product, v, a)[:2]


def hessenberg(v, a):
    return decomp.hessenberg(3, reortho="full")(lambda v, a: a @ v, v, a)[:2]


def least(b, a):
    solve = lstsq.lsmr(atol=1e-14, btol=1e-14, ctol=1e-14, maxiter=50)
    return solve(lambda v, a: a.T @ v, b, a)[0]


CALLS = [
    Call(
        "matfree.decomp._tridiag_reortho_none._estimate",
        tridiagonal("none"),
        (V, A),
        changed=False,
        note="Lanczos",
    ),
    Call(
        "matfree.decomp.hessenberg._estimate",
        tridiagonal("full"),
        (V, A),
        changed=False,
        note="Lanczos, reorthogonalized",
    ),
    Call(
        "matfree.decomp.hessenberg._estimate",
        hessenberg,
        (V, A + np.tri(4, dtype=np.float32)),
        changed=False,
        note="Arnoldi",
    ),
    Call("matfree.lstsq.lsmr._run", least, (B, TALL), changed=False, note="LSMR"),
]
