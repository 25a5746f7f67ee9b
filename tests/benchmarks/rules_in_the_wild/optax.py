"""Derivative rules of Optax."""

from __future__ import annotations

import numpy as np
import optax
from optax._src import utils
from optax.losses import _classification
from optax.projections import _projections

from rules_in_the_wild.call import Call

X = np.array([[-0.7, 0.4, 1.8, 0.1], [0.3, 1.7, -0.2, 0.9]], np.float32)
W = np.array([[0.5, 1.2, 0.3, 2.0], [1.5, 0.1, 0.7, 0.4]], np.float32)
LOGSOFTMAX = "optax.losses._classification.weighted_logsoftmax"

CALLS = [
    Call(LOGSOFTMAX, _classification.weighted_logsoftmax, (X, W)),
    Call(
        LOGSOFTMAX,
        optax.losses.safe_softmax_cross_entropy,
        (X, W / W.sum(1, keepdims=True)),
        note="through safe_softmax_cross_entropy",
    ),
    Call(
        "optax.projections._projections._projection_unit_simplex",
        _projections._projection_unit_simplex,
        (X[0],),
    ),
    Call(
        "optax.projections._projections._projection_unit_simplex",
        optax.projections.projection_simplex,
        (X[0],),
        note="through projection_simplex",
    ),
    Call(
        "optax.projections._projections._projection_unit_simplex",
        lambda x: optax.projections.projection_l1_ball(x, 0.8),
        (X[0],),
        note="through projection_l1_ball",
    ),
    Call(
        "optax._src.utils._scale_gradient",
        lambda x: utils.scale_gradient(x * x, 0.3),
        (X,),
        kind="convention",
        why="the identity whose gradient is scaled on purpose",
    ),
]
