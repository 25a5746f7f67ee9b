"""Derivative rules of NIFTy."""

from __future__ import annotations

import numpy as np
from nifty8.re.multi_grid import util

from rules_in_the_wild.call import Call

SPD = np.array([[3.0, 0.4, -0.2], [0.4, 2.5, 0.6], [-0.2, 0.6, 4.0]], np.float32)
B = np.array([0.7, -1.1, 0.3], np.float32)


def symmetric(function):
    return lambda a, *rest: function((a + a.T) / 2, *rest)


CALLS = [
    Call("nifty8.re.multi_grid.util.solve", symmetric(util.solve), (SPD, B), changed=False),
    Call(
        "nifty8.re.multi_grid.util.solve",
        symmetric(util.solve),
        (SPD, SPD[:, :2] - B[:, None]),
        changed=False,
        note="two right-hand sides",
    ),
    Call("nifty8.re.multi_grid.util.sqrtm", symmetric(util.sqrtm), (SPD,), changed=False),
]
