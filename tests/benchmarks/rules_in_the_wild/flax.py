"""Derivative rules of Flax."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from flax.linen import fp8_ops

from rules_in_the_wild.call import Call

A = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
B = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
SCALE, HISTORY = np.ones(1, np.float32), np.array([1.0, 2.0, 0.5], np.float32)
DIMENSIONS = (((1,), (0,)), ((), ()))
F8 = jnp.float8_e4m3fn
FP8 = "flax.linen.fp8_ops."
WHY = ("quantization to eight bits: a straight-through estimate, and the cotangents of scale and "
       "history are their new values")  # fmt: skip

CALLS = [
    Call(
        FP8 + "in_qdq",
        lambda x, s, h: fp8_ops.in_qdq(x.dtype, F8, x, s, h),
        (A, SCALE, HISTORY),
        changed=False,
        kind="convention",
        why=WHY,
    ),
    Call(
        FP8 + "out_qdq",
        lambda x, s, h: fp8_ops.out_qdq(x.dtype, jnp.float8_e5m2, x, s, h),
        (A, SCALE, HISTORY),
        changed=False,
        kind="convention",
        why=WHY,
    ),
    Call(
        FP8 + "dot_general_with_precision",
        lambda a, b: fp8_ops.dot_general_with_precision(a, b, DIMENSIONS),
        (A, B),
    ),
]
