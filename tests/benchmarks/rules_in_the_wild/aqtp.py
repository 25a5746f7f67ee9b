"""Derivative rules of AQT."""

from __future__ import annotations

import numpy as np
from aqt.jax_legacy.jax import primitives

from rules_in_the_wild.call import Call

X = np.array([0.7, -0.4, 1.8, 0.2], np.float32)
WHY = "a straight-through estimate: the function rounds"

CALLS = [
    Call(
        "aqt.jax_legacy.jax.primitives.floor_with_gradient",
        primitives.floor_with_gradient,
        (X,),
        kind="convention",
        why=WHY,
    ),
    Call(
        "aqt.jax_legacy.jax.primitives.round_with_gradient",
        primitives.round_with_gradient,
        (X,),
        kind="convention",
        why=WHY,
    ),
]
