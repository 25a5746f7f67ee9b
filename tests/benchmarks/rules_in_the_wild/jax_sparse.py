"""Sparse matrices of JAX: jax.experimental.sparse."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse

from rules_in_the_wild.call import Call

M = np.array([[0.3, 0, 0.7, 0], [0, -0.5, 0, 1.1], [1.9, 0, 0, -0.4]], np.float32)
N = np.array([[1.1, 0.2], [-0.6, 0.9], [0.8, -1.3], [0.4, 0.1]], np.float32)
V = np.array([0.5, -1.0, 2.0, 0.3], np.float32)
DATA = M[np.nonzero(M)]
ROWS, COLUMNS = (part.astype(np.int32) for part in np.nonzero(M))
STARTS = np.array([0, 2, 4, 6], np.int32)
PAIRS = np.stack([ROWS, COLUMNS], 1)


def p(file, name, function, *args, **options):
    return Call(f"jax.experimental.sparse.{file}.{name}_p", function, args, **options)


def bcoo(data, indices=PAIRS):
    return sparse.BCOO((data, jnp.asarray(indices)), shape=M.shape)


def bcsr(data):
    return sparse.BCSR((data, jnp.asarray(COLUMNS), jnp.asarray(STARTS)), shape=M.shape)


CALLS = [
    p("bcoo", "bcoo_todense", lambda a: bcoo(a).todense(), DATA),
    p("bcoo", "bcoo_fromdense", lambda m: sparse.bcoo_fromdense(m, nse=6).data, M, changed=False),
    p(
        "bcoo",
        "bcoo_extract",
        lambda m: sparse.bcoo_extract(bcoo(jnp.asarray(DATA)), m, assume_unique=True).data,
        M,
    ),
    p("bcoo", "bcoo_transpose", lambda a: bcoo(a).T.data, DATA),
    p("bcoo", "bcoo_dot_general", lambda a, n: bcoo(a) @ n, DATA, N),
    p("bcoo", "bcoo_dot_general", lambda a, n: n.T @ bcoo(a).T, DATA, N, note="from the right"),
    p(
        "bcoo",
        "bcoo_dot_general_sampled",
        lambda a, b: sparse.bcoo_dot_general_sampled(
            a, b, jnp.asarray(PAIRS), dimension_numbers=(((1,), (0,)), ((), ()))
        ),
        M @ N,
        np.concatenate([N.T]),
        changed=False,
    ),
    p("bcoo", "bcoo_spdot_general", lambda a, b: (bcoo(a) @ bcoo(b).T).todense(), DATA, DATA * 2),
    p("bcoo", "bcoo_sort_indices", lambda a: bcoo(a, PAIRS[::-1].copy()).sort_indices().data, DATA),
    p(
        "bcoo",
        "bcoo_sum_duplicates",
        lambda a: bcoo(a, PAIRS[[0, 0, 2, 3, 3, 5]]).sum_duplicates(nse=4).data,
        DATA,
    ),
    p("bcsr", "bcsr_todense", lambda a: bcsr(a).todense(), DATA),
    p("bcsr", "bcsr_fromdense", lambda m: sparse.bcsr_fromdense(m, nse=6).data, M, changed=False),
    p(
        "bcsr",
        "bcsr_extract",
        lambda m: sparse.bcsr_extract(jnp.asarray(COLUMNS), jnp.asarray(STARTS), m),
        M,
    ),
    p("bcsr", "bcsr_dot_general", lambda a, n: bcsr(a) @ n, DATA, N),
    p(
        "coo",
        "coo_todense",
        lambda a: sparse.coo_todense(sparse.COO((a, ROWS, COLUMNS), shape=M.shape)),
        DATA,
    ),
    p("coo", "coo_fromdense", lambda m: sparse.coo_fromdense(m, nse=6).data, M, changed=False),
    p("coo", "coo_matvec", lambda a, v: sparse.COO((a, ROWS, COLUMNS), shape=M.shape) @ v, DATA, V),
    p("coo", "coo_matmat", lambda a, n: sparse.COO((a, ROWS, COLUMNS), shape=M.shape) @ n, DATA, N),
    p(
        "csr",
        "csr_todense",
        lambda a: sparse.csr_todense(sparse.CSR((a, COLUMNS, STARTS), shape=M.shape)),
        DATA,
    ),
    p("csr", "csr_fromdense", lambda m: sparse.csr_fromdense(m, nse=6).data, M, changed=False),
    p(
        "csr",
        "csr_matvec",
        lambda a, v: sparse.CSR((a, COLUMNS, STARTS), shape=M.shape) @ v,
        DATA,
        V,
    ),
    p(
        "csr",
        "csr_matmat",
        lambda a, n: sparse.CSR((a, COLUMNS, STARTS), shape=M.shape) @ n,
        DATA,
        N,
    ),
]
