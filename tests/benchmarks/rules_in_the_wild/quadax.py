"""Derivative rules of quadax."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import quadax

from rules_in_the_wild.call import Call

A = np.array([0.7, 1.1], np.float32)
ENDS = np.array([0.2, 1.5], np.float32)


def integral(ends, a):
    tolerance = 100 * float(jnp.finfo(a.dtype).eps)
    return quadax.quadgk(lambda x, a: jnp.sin(a[0] * x) * jnp.exp(a[1] * x), ends, args=(a,),
                         epsabs=tolerance, epsrel=tolerance)[0]  # fmt: skip


CALLS = [
    Call("quadax._adjoint._direct", integral, (ENDS, A), changed=False, seen_as="fn_wrapper"),
]
