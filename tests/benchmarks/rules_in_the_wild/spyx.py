"""Derivative rules of Spyx."""

from __future__ import annotations

import numpy as np
from spyx import axn

from rules_in_the_wild.call import Call

X = np.array([-0.6, 0.4, 1.1, -2.2], np.float32)
WHY = "a surrogate gradient: the function is a step"


def heaviside(function, note):
    return Call("spyx.axn.custom.f", function, (X,), changed=False, kind="convention", why=WHY,
                note=note, seen_as="wrapped_fun")  # fmt: skip


CALLS = [
    heaviside(axn.superspike(), "superspike"),
    heaviside(axn.tanh(), "tanh"),
    heaviside(axn.triangular(), "triangular"),
    heaviside(axn.arctan(), "arctan"),
]
