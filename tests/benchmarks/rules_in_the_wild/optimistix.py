"""Derivative rules of Optimistix."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optimistix as optx

from rules_in_the_wild.call import Call

A = np.array([[1.2, -0.3], [0.5, 0.9], [-0.4, 1.6]], np.float32)
B = np.array([0.7, -1.1, 0.3], np.float32)
RULE = "optimistix._ad._implicit_impl"


def tight(args):
    """Tolerances that the dtype can meet."""
    eps = 100 * float(jnp.finfo(args[0].dtype).eps)
    return {"rtol": eps, "atol": eps}


def start(args, size=2):
    return jnp.full(size, 0.5, args[0].dtype)


def root(a, b):
    found = optx.root_find(
        lambda y, args: args[0][:2] @ jnp.sinh(y) - args[1][:2], optx.Newton(**tight((a, b))),
        start((a, b)), (a, b),
    )  # fmt: skip
    return found.value


def least(a, b):
    found = optx.least_squares(
        lambda y, args: args[0] @ jnp.sinh(y) - args[1], optx.LevenbergMarquardt(**tight((a, b))),
        start((a, b)), (a, b), max_steps=512,
    )  # fmt: skip
    return found.value


def smallest(a, b):
    found = optx.minimise(
        lambda y, args: jnp.sum((args[0] @ y - args[1]) ** 4) + jnp.sum(y**2),
        optx.BFGS(**tight((a, b))), start((a, b)), (a, b), max_steps=512,
    )  # fmt: skip
    return found.value


def fixed(a, b):
    found = optx.fixed_point(
        lambda y, args: jnp.cos(args[0][0] * y) * args[1][:2],
        optx.FixedPointIteration(**tight((a, b))),
        start((a, b)), (a, b), max_steps=1000,
    )  # fmt: skip
    return found.value


def solved(function, args, note):
    return Call(RULE, function, args, changed=False, note=note, seen_as="fn_wrapper")


CALLS = [
    solved(root, (A, B), note="Newton"),
    solved(least, (A, B), note="Levenberg-Marquardt"),
    solved(smallest, (A, B), note="BFGS"),
    solved(fixed, (A, B / 3), note="fixed-point iteration"),
]
