"""Derivative rules of OTT-JAX."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from ott.geometry import costs, geometry, regularizers
from ott.math import fixed_point_loop, matrix_square_root, utils
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from rules_in_the_wild.call import Call

X = np.array([[-0.7, 0.4, 1.8], [0.3, 1.7, -0.2]], np.float32)
W = np.array([[0.5, 1.2, 0.3], [1.5, 0.1, 0.7]], np.float32)
SPD = np.array([[3.0, 0.4, -0.2], [0.4, 2.5, 0.6], [-0.2, 0.6, 4.0]], np.float32)
TIGHT = {"threshold": 1e-12, "min_iterations": 40, "max_iterations": 60}


def symmetric(function):
    return lambda a: function((a + a.T) / 2, **TIGHT)


def potentials(c):
    problem = linear_problem.LinearProblem(geometry.Geometry(c, epsilon=1.0))
    found = sinkhorn.Sinkhorn(threshold=1e-11, max_iterations=2000)(problem)
    return found.matrix


def babylonian(a):
    """The square root of a by a loop whose backward pass is fixpoint_iter_backprop's."""
    return fixed_point_loop.fixpoint_iter_backprop(
        lambda i, c, s: i < 8, lambda i, c, s, _: (s + c / s) / 2, 8, 8, 4, a, jnp.ones_like(a)
    )


CALLS = [
    Call(
        "ott.math.utils.norm",
        lambda x: utils.norm(x, axis=-1),
        (X,),
        note="zero at zero on purpose",
    ),
    Call("ott.math.utils.logsumexp", lambda x: utils.logsumexp(x, axis=-1), (X,)),
    Call(
        "ott.math.utils.logsumexp",
        lambda x, b: utils.logsumexp(x, axis=-1, b=b),
        (X, W),
        changed=False,
        note="weighted",
    ),
    Call(
        "ott.math.utils.logsumexp",
        lambda x, b: utils.logsumexp(x, axis=-1, b=b, return_sign=True)[0],
        (X, W - 0.6),
        changed=False,
        note="with weights of either sign",
    ),
    Call("ott.math.utils.softmin", lambda x: utils.softmin(x, 0.7, -1), (X,)),
    Call(
        "ott.math.utils.softmin",
        lambda x, g: utils.softmin(x, g, -1),
        (X, np.float32(0.7)),
        changed=False,
        note="by the smoothing parameter",
    ),
    Call("ott.math.utils.lambertw", lambda z: utils.lambertw(z, 1e-14), (W,), changed=False),
    Call(
        "ott.math.matrix_square_root.sqrtm",
        symmetric(lambda a, **o: matrix_square_root.sqrtm(a, **o)[:2]),
        (SPD,),
        changed=False,
    ),
    Call(
        "ott.math.matrix_square_root.sqrtm_only",
        symmetric(matrix_square_root.sqrtm_only),
        (SPD,),
        changed=False,
    ),
    Call(
        "ott.math.matrix_square_root.inv_sqrtm_only",
        symmetric(matrix_square_root.inv_sqrtm_only),
        (SPD,),
        changed=False,
    ),
    Call("ott.math.fixed_point_loop.fixpoint_iter", babylonian, (W,), changed=False),
    Call(
        "ott.solvers.linear.sinkhorn.iterations",
        potentials,
        (X**2,),
        changed=False,
        note="implicit differentiation of Sinkhorn's iterations",
    ),
    Call(
        "ott.geometry.costs.RegTICost.h_legendre.fn",
        costs.RegTICost(regularizers.L1(), lam=0.3).h_legendre,
        (X[0],),
        changed=False,
    ),
]
