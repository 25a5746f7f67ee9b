"""Derivative rules of ExoJAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
from exojax.opacity.lpf import lpf
from exojax.postproc import spin_rotation
from exojax.rt import chord
from exojax.special import faddeeva

from rules_in_the_wild.call import Call

X = np.array([0.3, 1.1, -0.6, 2.2], np.float32)
A = np.array([0.6, 1.3, 0.7, 0.2], np.float32)
INSIDE = np.array([0.3, -0.6, 0.7, 0.1], np.float32)


def thrice():
    """3 Re w(0.3 + i y) by y: the cotangent is 3, and one term of the rule does not see it."""
    rule = jax.grad(lambda y: 3 * faddeeva.rewofzx(0.3, y))(0.6)
    with mpmath.workdps(40):

        def real(y):
            z = mpmath.mpc(0.3, y)
            return (mpmath.exp(-z * z) * mpmath.erfc(-1j * z)).real

        return {"the rule": rule, "mpmath, 40 digits": 3 * float(mpmath.diff(real, 0.6))}


CALLS = [
    Call("exojax.rt.chord.safe_sqrt", chord.safe_sqrt, (A,)),
    Call(
        "exojax.special.faddeeva.rewofzx",
        lambda x: jax.vmap(faddeeva.rewofzx)(x, jnp.asarray(A, x.dtype)),
        (X,),
        changed=False,
        note="by x",
    ),
    Call(
        "exojax.special.faddeeva.rewofzx",
        jax.vmap(faddeeva.rewofzx),
        (X, A),
        changed=False,
        note="by x and y; a term of the second does not see the cotangent",
        confirm=thrice,
        smallest="jax.grad(lambda y: 3 * exojax.special.faddeeva.rewofzx(0.3, y))(0.6)",
    ),
    Call("exojax.opacity.lpf.lpf.hjert", jax.vmap(lpf.hjert), (X, A), changed=False),
    Call(
        "exojax.postproc.spin_rotation.rotkernel_Gimenez",
        spin_rotation.rotkernel_Gimenez,
        (INSIDE, A / 3, A / 4),
        changed=False,
    ),
    Call(
        "exojax.postproc.spin_rotation.integrated_rotkernel_trans",
        spin_rotation.integrated_rotkernel_trans,
        (INSIDE, INSIDE / 2 + 0.2),
        changed=False,
    ),
]
