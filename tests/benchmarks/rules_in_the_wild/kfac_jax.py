"""Derivative rules of KFAC-JAX."""

from __future__ import annotations

import numpy as np
from kfac_jax._src.utils import math

from rules_in_the_wild.call import Call

X = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
RULE = "kfac_jax._src.utils.math._sqrt_bound_derivative"

CALLS = [
    Call(RULE, math.stable_sqrt, (X,), note="the slope is bounded by 1000"),
    Call(
        RULE,
        math.stable_sqrt,
        (X * 1e-8,),
        changed=False,
        note="where the bound is met",
        kind="convention",
        why="the slope of the square root is bounded on purpose",
    ),
]
