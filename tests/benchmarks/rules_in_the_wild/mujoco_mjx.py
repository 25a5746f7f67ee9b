"""Derivative rules of MuJoCo MJX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from mujoco.mjx._src import collision_sdf as sdf

from rules_in_the_wild.call import Call, slope

SIZE = np.array([0.5, 0.8, 0.0], np.float32)
PLACES = {
    "outside of the side": np.array([0.7, 0.4, 0.3], np.float32),
    "outside of a cap": np.array([0.1, 0.2, 1.1], np.float32),
    "outside of the rim": np.array([0.7, 0.4, 1.1], np.float32),
    "inside": np.array([0.1, 0.2, 0.3], np.float32),
}


def value(pos, size):
    """The signed distance in NumPy, in float64."""
    a = np.hypot(pos[0], pos[1]) - size[0], abs(pos[2]) - size[1]
    return min(max(a), 0) + np.hypot(max(a[0], 0), max(a[1], 0))


def confirm():
    pos = np.array([0.7, 0.4, 0.3])

    def of_radius(r):
        return value(pos, (r, 0.8))

    rule = jax.grad(sdf._cylinder, 1)(jnp.asarray(pos), jnp.array([0.5, 0.8, 0.0]))
    return {"the rule": rule[0], "central differences": slope(of_radius, 0.5)}


CALLS = [
    *(
        Call(
            "mujoco.mjx._src.collision_sdf._cylinder",
            lambda pos: sdf._cylinder(pos, jnp.asarray(SIZE, pos.dtype)),
            (pos,),
            changed=False,
            note=f"by the position, {place}",
        )
        for place, pos in PLACES.items()
    ),
    Call(
        "mujoco.mjx._src.collision_sdf._cylinder",
        sdf._cylinder,
        (PLACES["outside of the side"], SIZE),
        changed=False,
        note="by position and size",
        confirm=confirm,
        smallest="jax.grad(collision_sdf._cylinder, 1)("
        "jnp.array([0.7, 0.4, 0.3]), jnp.array([0.5, 0.8, 0.0]))",
    ),
]
