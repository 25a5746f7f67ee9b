"""Linear algebra of JAX: jax.numpy.linalg, jax.scipy.linalg, jax.lax.linalg."""

from __future__ import annotations

import jax.numpy as jnp
import jax.scipy.linalg as jsl
import numpy as np
from jax import lax

from rules_in_the_wild.call import Call

SQUARE = np.array([[3.0, 0.4, -0.2], [0.1, 2.5, 0.6], [-0.7, 0.3, 4.0]], np.float32)
SPD = np.array([[3.0, 0.4, -0.2], [0.4, 2.5, 0.6], [-0.2, 0.6, 4.0]], np.float32)
TALL = np.array([[1.0, 0.2], [-0.5, 1.5], [0.3, 0.8]], np.float32)
FOUR = np.array(
    [[3, 0.4, -0.2, 1], [0.1, 2.5, 0.6, -0.3], [-0.7, 0.3, 4, 0.2], [0.5, 0.9, -1, 2]], np.float32
)
V = np.array([0.5, -1.0, 2.0], np.float32)
NUMPY = "jax._src.numpy.linalg."


def p(name, function, *args, **options):
    return Call(f"jax.lax.{name}_p", function, args, changed=False, **options)


def custom(name, function, *args, **options):
    return Call(NUMPY + name, function, args, changed=False, **options)


def symmetric(function):
    return lambda a: function((a + a.T) / 2)


def gauge_free(vectors):
    """Of eigenvectors, what does not depend on their signs."""
    return vectors * jnp.sign(vectors[:1])


CALLS = [
    p("cholesky", symmetric(jnp.linalg.cholesky), SPD),
    p(
        "cholesky",
        symmetric(lambda a: jsl.cho_solve(jsl.cho_factor(a), jnp.asarray(V, a.dtype))),
        SPD,
        note="through cho_solve",
    ),
    p("eigh", symmetric(jnp.linalg.eigvalsh), SPD, note="eigenvalues"),
    p("eigh", symmetric(lambda a: gauge_free(jnp.linalg.eigh(a)[1])), SPD, note="eigenvectors"),
    p("eig", lambda a: jnp.sort(jnp.linalg.eigvals(a).real), SQUARE, note="eigenvalues"),
    p("lu", lambda a: jsl.lu(a)[1:], SQUARE),
    p("lu", jnp.linalg.inv, SQUARE, note="through inv"),
    p("linear_solve", jnp.linalg.solve, SQUARE, V, note="through solve"),
    p("qr", lambda a: jnp.linalg.qr(a), TALL),
    p("qr", lambda a: jnp.linalg.qr(a), FOUR, note="a square matrix"),
    p("svd", lambda a: jnp.linalg.svd(a, compute_uv=False), TALL, note="singular values"),
    p(
        "svd",
        lambda a: (lambda u, s, v: (u * s) @ v * s.sum())(*jnp.linalg.svd(a, full_matrices=False)),
        TALL,
        note="with vectors",
    ),
    p("triangular_solve", lambda a, b: jsl.solve_triangular(a, b, lower=True), SQUARE, V),
    p(
        "tridiagonal_solve",
        lambda a, b, c, d: lax.linalg.tridiagonal_solve(a, b, c, d[:, None]),
        np.array([0, 0.4, -0.3], np.float32),
        V + 5,
        np.array([0.2, 0.7, 0], np.float32),
        V,
    ),
    custom("_slogdet_lu", lambda a: jnp.linalg.slogdet(a)[1], FOUR),
    custom("_slogdet_small", lambda a: jnp.linalg.slogdet(a)[1], SQUARE[:2, :2]),
    custom("_slogdet_qr", lambda a: jnp.linalg.slogdet(a, method="qr")[1], SQUARE),
    custom("_det", jnp.linalg.det, FOUR),
    custom("_pinv", jnp.linalg.pinv, TALL),
    custom(
        "_pinv",
        symmetric(lambda a: jnp.linalg.pinv(a, hermitian=True)),
        SPD,
        note="a symmetric matrix",
    ),
    p("eigh", symmetric(lambda a: jsl.eigh(a, eigvals_only=True)), SPD, note="jax.scipy.linalg"),
    p("lu", jsl.expm, SQUARE / 4, note="through expm"),
    p("svd", lambda a: jnp.linalg.lstsq(a, jnp.asarray(V, a.dtype))[0], TALL, note="through lstsq"),
    p("svd", lambda a: jnp.linalg.norm(a, "nuc"), TALL, note="the nuclear norm"),
]
