"""Derivative rules of jaxoplanet."""

from __future__ import annotations

import numpy as np
from jaxoplanet import utils
from jaxoplanet.core.kepler import kepler
from jaxoplanet.core.limb_dark import light_curve

from rules_in_the_wild.call import Call

M = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
E = np.array([0.1, 0.35, 0.62, 0.8], np.float32)
B = np.array([0.1, 0.35, 0.95, 0.5], np.float32)
U = np.array([0.3, 0.2], np.float32)

CALLS = [
    Call("jaxoplanet.core.kepler._kepler", kepler, (M, E), changed=False),
    Call("jaxoplanet.utils.zero_safe_sqrt", utils.zero_safe_sqrt, (M,), changed=False),
    Call(
        "jaxoplanet.core.limb_dark._p_integral",
        lambda u, b, r: light_curve(u, b, r),
        (U, np.float32(0.35), np.float32(0.1)),
        changed=False,
        note="inside of the disk",
    ),
    Call(
        "jaxoplanet.core.limb_dark._p_integral",
        lambda u, b, r: light_curve(u, b, r),
        (U, np.float32(0.95), np.float32(0.1)),
        changed=False,
        note="across the limb",
    ),
]
