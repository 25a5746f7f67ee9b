"""Derivative rules of Brax."""

from __future__ import annotations

import numpy as np
from brax import math

from rules_in_the_wild.call import Call

X = np.array([-0.7, 0.4, 0.8, 0.1], np.float32)

CALLS = [
    Call("brax.math.safe_arccos", math.safe_arccos, (X,), changed=False),
    Call("brax.math.safe_arcsin", math.safe_arcsin, (X,), changed=False),
]
