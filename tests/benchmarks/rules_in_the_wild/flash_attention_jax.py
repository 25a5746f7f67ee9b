"""Derivative rules of flash-attention-jax."""

from __future__ import annotations

import flash_attention_jax as fa
import numpy as np

from rules_in_the_wild.call import Call

RANDOM = np.random.default_rng(0)
Q, K, V = (RANDOM.normal(size=(1, 2, 6, 4)).astype(np.float32) for _ in range(3))
MASK = np.array([[True, True, False, True, True, True]])
N = "flash_attention_jax."

EPSILON = "an ε of 1e-10 is added to the row sums; saturated inputs are left out"
CALLS = [
    Call(
        N + "flash_attention.flash_attention",
        lambda q, k, v: fa.flash_attention(q, k, v, MASK),
        (Q, K, V),
        changed=False,
        note=EPSILON,
    ),
    Call(
        N + "causal_flash_attention.causal_flash_attention",
        fa.causal_flash_attention,
        (Q, K, V),
        changed=False,
        note=EPSILON,
    ),
    Call(
        N + "cosine_sim_flash_attention.cosine_sim_flash_attention_after_l2norm",
        lambda q, k, v: fa.cosine_sim_flash_attention(q, k, v, MASK[0]),
        (Q[0, 0], K[0, 0], V[0, 0]),
        changed=False,
    ),
]
