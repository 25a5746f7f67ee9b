"""Derivative rules of JAXopt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import jaxopt
import numpy as np
from jaxopt import isotonic, perturbations, projection
from jaxopt._src import projection as inner

from rules_in_the_wild.call import Call

X = np.array([-0.7, 0.4, 1.8, 0.1], np.float32)
A = np.array([[1.2, -0.3], [0.5, 0.9], [-0.4, 1.6]], np.float32)
B = np.array([0.7, -1.1, 0.3], np.float32)
KEY = jax.random.key(2)
IMPLICIT = "jaxopt._src.implicit_diff._custom_root.solver_fun_flat"
PERTURBED = ("the gradient of a smoothed function, estimated from samples: the function itself is "
             "constant between its steps")  # fmt: skip


def implicit(solver, *start):
    return lambda *args: solver.run(*start, *args).params


def ridge(w, a, b, l2):
    return jnp.mean((a @ w - b) ** 2) + l2 * jnp.sum(w**2)


def argmax(x):
    return jax.nn.one_hot(jnp.argmax(x, -1), x.shape[-1], dtype=x.dtype)


L2 = np.float32(0.3)
ONES = np.ones(2, np.float32)

CALLS = [
    Call("jaxopt._src.projection._projection_unit_simplex", projection.projection_simplex, (X,)),
    Call(
        "jaxopt._src.projection._projection_unit_simplex",
        lambda x: projection.projection_l1_ball(x, 0.8),
        (X,),
        note="through projection_l1_ball",
    ),
    Call(
        "jaxopt._src.projection._projection_unit_sparse_simplex",
        lambda x: inner._projection_unit_sparse_simplex(x, 3),
        (X,),
    ),
    Call("jaxopt._src.isotonic._isotonic_l2_pav", isotonic.isotonic_l2_pav, (X,), changed=False),
    Call(
        "jaxopt._src.perturbations.make_perturbed_argmax.forward_pert",
        lambda x: perturbations.make_perturbed_argmax(argmax, num_samples=16, sigma=0.5)(x, KEY),
        (X,),
        changed=False,
        kind="convention",
        why=PERTURBED,
    ),
    Call(
        "jaxopt._src.perturbations.make_perturbed_max.forward_pert",
        lambda x: perturbations.make_perturbed_max(argmax, num_samples=16, sigma=0.5)(x, KEY),
        (X,),
        changed=False,
        kind="convention",
        why=PERTURBED,
    ),
    Call(
        IMPLICIT,
        lambda a, b, l2: (
            jaxopt.GradientDescent(ridge, maxiter=2000, tol=1e-13, stepsize=0.3, acceleration=False)
            .run(jnp.ones(2, a.dtype), a, b, l2)
            .params
        ),
        (A, B, L2),
        changed=False,
        note="GradientDescent, differentiated implicitly",
    ),
    Call(
        IMPLICIT,
        lambda a, b, l2: (
            jaxopt.LBFGS(ridge, maxiter=200, tol=1e-13).run(jnp.ones(2, a.dtype), a, b, l2).params
        ),
        (A, B, L2),
        changed=False,
        note="LBFGS, differentiated implicitly",
    ),
    Call(
        IMPLICIT,
        lambda a: (
            jaxopt.Bisection(
                lambda x, a: x**3 + x - a,
                lower=-3.0,
                upper=3.0,
                tol=1e-14,
                maxiter=80,
                check_bracket=False,
            )
            .run(None, a)
            .params
        ),
        (np.float32(1.7),),
        changed=False,
        note="Bisection, differentiated implicitly",
    ),
    Call(
        IMPLICIT,
        lambda a: (
            jaxopt.FixedPointIteration(lambda x, a: jnp.cos(a * x), tol=1e-14, maxiter=500)
            .run(jnp.ones_like(a), a)
            .params
        ),
        (np.float32(0.7),),
        changed=False,
        note="FixedPointIteration",
    ),
]
