"""Derivative rules of Diffrax."""

from __future__ import annotations

import diffrax
import jax.numpy as jnp
import numpy as np

from rules_in_the_wild.call import Call

Y = np.array([0.5, 0.1], np.float32)
W = np.float32(1.3)


def swing(t, y, w):
    return jnp.stack([y[1], -w * jnp.sin(y[0]) + 0.1 * t])


def solved(adjoint):
    def of(y, w):
        found = diffrax.diffeqsolve(
            diffrax.ODETerm(swing), diffrax.Tsit5(), 0.0, 0.8, 0.1, y, w, adjoint=adjoint,
            stepsize_controller=diffrax.ConstantStepSize(), max_steps=64,
        )  # fmt: skip
        return found.ys[-1]

    return of


CALLS = [
    Call(
        "diffrax._adjoint._loop_backsolve",
        solved(diffrax.BacksolveAdjoint()),
        (Y, W),
        seen_as="fn_wrapped",
        changed=False,
        note="the adjoint method; it agrees to the solver's tolerance only",
    ),
    Call(
        "equinox.internal._loop.checkpointed._checkpointed_while_loop",
        solved(diffrax.RecursiveCheckpointAdjoint()),
        (Y, W),
        seen_as="fn_wrapped",
        changed=False,
        note="RecursiveCheckpointAdjoint, by Equinox's loop",
    ),
]
