"""Derivative rules of RLax."""

from __future__ import annotations

import numpy as np
import rlax

from rules_in_the_wild.call import Call

X = np.array([0.3, -2.2, 4.4], np.float32)

CALLS = [
    Call(
        "rlax._src.clipping.clip_gradient",
        lambda x: rlax.clip_gradient(x**2, -1.0, 1.0) * 3,
        (X,),
        seen_as="wrapped_fun",
        kind="convention",
        why="the identity whose gradient is clipped on purpose",
    ),
]
