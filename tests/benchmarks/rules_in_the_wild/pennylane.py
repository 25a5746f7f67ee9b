"""Derivative rules of PennyLane."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pennylane as qml

from rules_in_the_wild.call import Call


def state(x):
    """A density matrix of one qubit, of full rank, from three real numbers."""
    half = jnp.tanh(x) / 2
    off = half[0] - 1j * half[1]
    return jnp.array([[0.5 + half[2], off], [jnp.conj(off), 0.5 - half[2]]])


X = np.array([0.3, -0.2, 0.4], np.float32)
Y = np.array([-0.1, 0.5, 0.2], np.float32)

CALLS = [
    Call(
        "pennylane.math.fidelity._register_jax_vjp._compute_fidelity_jax",
        lambda x, y: qml.math.fidelity(state(x), state(y)).real,
        (X, Y),
        changed=False,
    ),
]
