"""Derivative rules of jaxsnn."""

from __future__ import annotations

import jax
import numpy as np
from jaxsnn.discrete.functional import threshold
from jaxsnn.event.solver import lif_analytical

from rules_in_the_wild.call import Call

X = np.array([0.6, 1.3, 2.7, 4.2], np.float32)
SIGNED = np.array([-0.6, 0.4, 1.1, -2.2], np.float32)

CALLS = [
    Call(
        "jaxsnn.event.solver.lif_analytical._lambertwk0",
        jax.vmap(lambda x: lif_analytical._lambertwk0(x, 12)),
        (X,),
        changed=False,
    ),
    Call(
        "jaxsnn.discrete.functional.threshold.superspike",
        threshold.superspike,
        (SIGNED,),
        kind="convention",
        why="a surrogate gradient: the function is a step",
    ),
]
