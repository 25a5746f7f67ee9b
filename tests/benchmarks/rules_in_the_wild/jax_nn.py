"""Functions of jax.nn, jax.experimental and jax.image with rules of their own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax._src.nn.functions import _softmax
from jax.experimental.ode import odeint

from rules_in_the_wild.call import Call

SIGNED = np.array([[-2.1, -0.7, 0.4, 1.8], [3.3, 6.7, -0.2, 0.9]], np.float32)
A = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
NN = "jax._src.nn.functions."
TIMES = np.array([0.0, 0.3, 0.8], np.float32)


def swing(y, t, w):
    return jnp.stack([y[1], -w * jnp.sin(y[0]) + 0.1 * t])


CALLS = [
    Call(NN + "relu", jax.nn.relu, (SIGNED,)),
    Call(NN + "relu6", jax.nn.relu6, (SIGNED,)),
    Call(NN + "log1mexp", jax.nn.log1mexp, (A,), changed=False),
    Call(NN + "_softmax", lambda x: _softmax(x, -1), (SIGNED,)),
    Call(
        NN + "_softmax", lambda x: _softmax(x, -1, jnp.arange(4) < 3), (SIGNED,), note="with a mask"
    ),
    Call(
        "jax.experimental.ode._odeint",
        lambda y, t, w: odeint(swing, y, t, w, rtol=1e-10, atol=1e-10),
        (np.array([0.5, 0.1], np.float32), TIMES, np.float32(1.3)),
        changed=False,
        note="the adjoint method; it agrees to the solver's tolerance only",
    ),
]
