"""Derivative rules of JaxSim."""

from __future__ import annotations

import numpy as np
from jaxsim import math

from rules_in_the_wild.call import Call

X = np.array([[0.3, -2.2, 4.4], [1.0, 0.2, -0.3]], np.float32)

CALLS = [
    Call(
        "jaxsim.math.utils._make_safe_norm._safe_norm",
        lambda x: math.safe_norm(x, axis=-1),
        (X,),
        note="zero at zero on purpose",
    ),
    Call(
        "jaxsim.math.utils._make_safe_norm._safe_norm",
        lambda x: math.safe_norm(x),
        (X[0],),
        note="of a vector",
    ),
]
