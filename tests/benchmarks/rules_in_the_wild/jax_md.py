"""Derivative rules of JAX MD."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax_md import rigid_body, space
from jax_md._nn.uma.common import rotation
from jax_md.mm_forcefields.reaxff import reaxff_helper

from rules_in_the_wild.call import Call

X = np.array([0.6, 0.3, 0.7, 0.2], np.float32)
Q = np.array([0.5, -0.5, 0.7, 0.1], np.float32)
V = np.array([0.3, -2.2, 1.4], np.float32)
BOX = np.array([[2.0, 0.3], [0.1, 1.5]], np.float32)
R = np.array([[0.3, 0.2], [0.8, 0.5]], np.float32)


CALLS = [
    Call("jax_md._nn.uma.common.rotation.safe_acos", rotation.safe_acos, (X,), changed=False),
    Call("jax_md._nn.uma.common.rotation.safe_atan2", rotation.safe_atan2, (X, Q), changed=False),
    Call("jax_md.mm_forcefields.reaxff.reaxff_helper.safe_sqrt", reaxff_helper.safe_sqrt, (X,)),
    Call(
        "jax_md.rigid_body._quaternion_rotate",
        lambda q, v: rigid_body._quaternion_rotate(q / jnp.sqrt(jnp.sum(q**2)), v),
        (Q, V),
        changed=False,
        note="of a normalized quaternion",
    ),
    Call(
        "jax_md.rigid_body._quaternion_rotate",
        rigid_body._quaternion_rotate,
        (Q, V),
        changed=False,
        kind="convention",
        note="of any quaternion",
        why="the gradient is projected onto the tangent space of unit quaternions",
    ),
    Call(
        "jax_md.space.transform",
        space.transform,
        (BOX, R),
        changed=False,
        kind="convention",
        why="the docstring says that the gradient stays in the coordinates of real space: it is "
        "handed on without the box",
    ),
]
