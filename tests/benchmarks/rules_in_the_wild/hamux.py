"""Derivative rules of HAMUX."""

from __future__ import annotations

import jax
import numpy as np
from hamux import lagrangians

from rules_in_the_wild.call import Call, slope

X = np.array([0.7, -0.4, 1.8], np.float32)
BETA = np.float32(1.3)


def confirm(function, closed):
    def numbers():
        x, beta = 0.7, 1.3
        return {
            "the rule": jax.grad(function, 1)(x, beta),
            "central differences": slope(lambda b: closed(x, b), beta),
        }

    return numbers


def log_cosh(x, beta):
    return np.log(np.cosh(beta * x)) / beta


def softplus(x, beta):
    return np.log1p(np.exp(beta * x)) / beta


CALLS = [
    Call(
        "hamux.lagrangians._lagr_tanh", lambda x: lagrangians._lagr_tanh(x, 1.3), (X,), note="by x"
    ),
    Call(
        "hamux.lagrangians._lagr_tanh",
        lagrangians._lagr_tanh,
        (X, BETA),
        changed=False,
        note="by x and beta",
        confirm=confirm(lagrangians._lagr_tanh, log_cosh),
        smallest="jax.grad(hamux.lagrangians._lagr_tanh, 1)(0.7, 1.3)",
    ),
    Call(
        "hamux.lagrangians._lagr_sigmoid",
        lambda x: lagrangians._lagr_sigmoid(x, 1.3),
        (X,),
        changed=False,
        note="by x",
    ),
    Call(
        "hamux.lagrangians._lagr_sigmoid",
        lagrangians._lagr_sigmoid,
        (X, BETA),
        changed=False,
        note="by x and beta",
        confirm=confirm(lagrangians._lagr_sigmoid, softplus),
        smallest="jax.grad(hamux.lagrangians._lagr_sigmoid, 1)(0.7, 1.3)",
    ),
]
