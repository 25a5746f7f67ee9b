"""Derivative rules of NetKet."""

from __future__ import annotations

import jax.numpy as jnp
import netket as nk
import numpy as np

from rules_in_the_wild.call import Call

P = np.array([0.7, -0.4], np.float32)
S = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0]], np.float32)
EVERY = jnp.array([True, False, True, True])


def log_pdf(p, s):
    return jnp.tanh(s @ p)


def observed(p, s):
    return jnp.sin(s @ p) + s[..., 0] * p[1]


CALLS = [
    Call(
        "netket.jax._expect._expect",
        lambda p: nk.jax.expect(log_pdf, observed, p, S)[0],
        (P,),
        changed=False,
        kind="convention",
        why="the gradient of an expectation value, estimated by the score function: its samples "
        "follow the parameters, and those that are given do not",
    ),
    Call(
        "netket.jax._apply_packed._apply_packed_local",
        lambda p: nk.jax.apply_packed(
            lambda p, x: jnp.sin(x @ p), p, S, EVERY, fill=p[0], chunk_size=2
        ),
        (P,),
        seen_as="<unknown>",
        changed=False,
    ),
]
