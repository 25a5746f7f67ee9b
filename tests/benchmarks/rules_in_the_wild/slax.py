"""Derivative rules of slax."""

from __future__ import annotations

import numpy as np
from slax.models import surrogates

from rules_in_the_wild.call import Call

X = np.array([-0.6, 0.4, 1.1, -2.2], np.float32)
WHY = "a surrogate gradient: the function is a step"


def heaviside(name, function):
    return Call(f"slax.models.surrogates.{name}", function, (X,), changed=False,
                kind="convention", why=WHY)  # fmt: skip


CALLS = [
    heaviside("fast_sigmoid.fs", surrogates.fast_sigmoid()),
    heaviside("atan.arctangent", surrogates.atan()),
    heaviside("multi_gauss.forward", surrogates.multi_gauss()),
]
