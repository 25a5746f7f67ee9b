"""Derivative rules of OTT-JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import costs, geometry, regularizers
from ott.math import fixed_point_loop, matrix_square_root, utils
from ott.problems.linear import linear_problem
from ott.solvers.linear import sinkhorn

from rules_in_the_wild.call import Call, slope

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


def cosines(least):
    """s = cos(c s), eight times over: between `least` and eight iterations, four at a time."""
    return lambda c: fixed_point_loop.fixpoint_iter_backprop(
        lambda i, c, s: i < 8, lambda i, c, s, _: jnp.cos(c * s), least, 8, 4, c, jnp.ones_like(c)
    )


def of_cosines():
    def value(c):
        s = 1.0
        for _ in range(8):
            s = np.cos(c * s)
        return s

    rule = jax.grad(lambda c: cosines(8)(c))(jnp.asarray(0.7))
    return {"the rule": rule, "central differences": slope(value, 0.7)}


def of_softmin():
    """−γ log Σ exp(−x / γ) by γ."""
    x = np.array([-0.7, 0.4, 1.8])
    rule = jax.grad(lambda g: utils.softmin(jnp.asarray(x), g, -1))(0.7)
    return {
        "the rule": rule,
        "central differences": slope(lambda g: -g * np.log(np.exp(-x / g).sum()), 0.7),
    }


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
        confirm=of_softmin,
        smallest="x = jnp.array([-0.7, 0.4, 1.8])\n"
        "jax.grad(lambda g: ott.math.utils.softmin(x, g, -1))(0.7)",
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
    Call(
        "ott.math.fixed_point_loop.fixpoint_iter",
        cosines(4),
        (W,),
        changed=False,
        note="fewer iterations at least than at most: a while loop",
    ),
    Call(
        "ott.math.fixed_point_loop.fixpoint_iter",
        cosines(8),
        (W,),
        changed=False,
        note="as many iterations at least as at most: a scan, whose backward pass starts at the "
        "first of the states that were kept and not at the last",
        confirm=of_cosines,
        smallest="body = lambda i, c, s, _: jnp.cos(c * s)\n"
        "f = fixed_point_loop.fixpoint_iter_backprop\n"
        "jax.grad(lambda c: f(lambda i, c, s: i < 8, body, 8, 8, 4, c, jnp.ones(())))(0.7)",
    ),
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
