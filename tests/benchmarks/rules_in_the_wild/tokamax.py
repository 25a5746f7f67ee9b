"""Derivative rules of Tokamax, and kernels that are compared with its own reference."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import tokamax
from jax.experimental.pallas import tpu as pltpu
from tokamax._src.ops.attention import base
from tokamax._src.ops.linear_softmax_cross_entropy_loss import (
    pallas_mosaic_tpu_kernel as kernel,
)

from rules_in_the_wild.call import Call

RANDOM = np.random.default_rng(0)
Q, K, V = (RANDOM.normal(size=(1, 6, 2, 4)).astype(np.float32) for _ in range(3))
X = RANDOM.normal(size=(5, 4)).astype(np.float32)
W = RANDOM.normal(size=(4, 7)).astype(np.float32)
LABELS = np.array([0, 3, 6, 1, 1], np.int32)
GATED = RANDOM.normal(size=(4, 2, 3)).astype(np.float32)
GROUPS = jnp.array([2, 3])
STACK = RANDOM.normal(size=(2, 4, 3)).astype(np.float32)
SCALE, OFFSET = (RANDOM.normal(size=4).astype(np.float32) for _ in range(2))
OP = "tokamax._src.ops.op.Op.__call__.f"
ROWS, WIDTH, WORDS = 1024, 128, 100


def op(function, *args, **options):
    return Call(OP, function, args, **options)


def kernel_loss(x, w, labels):
    """The kernel for TPUs, interpreted on this machine: its rule calls this forward pass."""
    with pltpu.force_tpu_interpret_mode():
        return kernel.linear_softmax_cross_entropy_loss_fwd_pallas_mosaic_tpu(
            x, labels, w, b_block_size=1024, h_block_size=128, v_block_size=128, reduction="sum"
        )[0]  # fmt: skip


def small_vocabulary():
    """The loss of 1024 rows and 100 words, in blocks of 128 words."""
    random = np.random.default_rng(1)
    x = 0.1 * random.normal(size=(ROWS, WIDTH)).astype(np.float32)
    w = 0.1 * random.normal(size=(WIDTH, WORDS)).astype(np.float32)
    labels = random.integers(0, WORDS, ROWS).astype(np.int32)
    logits = x.astype(np.float64) @ w.astype(np.float64)
    top = logits.max(1)
    logs = np.log(np.exp(logits - top[:, None]).sum(1)) + top
    return {
        "the kernel": float(kernel_loss(x, w, labels)),
        "NumPy, float64": float((logs - logits[np.arange(ROWS), labels]).sum()),
    }


CALLS = [
    Call("tokamax._src.ops.attention.base._softmax", lambda x: base._softmax(x, True)[0], (X,)),
    Call(
        "tokamax._src.ops.attention.base._softmax",
        lambda x: base._softmax(x, False)[0],
        (X,),
        changed=False,
        note="not normalized",
    ),
    op(
        lambda q, k, v: tokamax.dot_product_attention(q, k, v, implementation="xla_chunked"),
        Q,
        K,
        V,
        changed=False,
        note="attention, xla_chunked",
        against=lambda q, k, v: tokamax.dot_product_attention(q, k, v, implementation="xla"),
    ),
    op(
        lambda q, k, v: tokamax.dot_product_attention(
            q, k, v, is_causal=True, implementation="xla"
        ),
        Q,
        K,
        V,
        changed=False,
        note="attention, xla, causal",
    ),
    op(
        lambda x, s, o: tokamax.layer_norm(x, s, o, implementation="xla"),
        X,
        SCALE,
        OFFSET,
        changed=False,
        note="layer_norm, xla",
    ),
    op(
        lambda x, w: tokamax.gated_linear_unit(x, w, activation=jnp.tanh, implementation="xla"),
        X,
        GATED,
        changed=False,
        note="gated_linear_unit, xla",
    ),
    op(
        lambda x, w: tokamax.ragged_dot(x, w, GROUPS, implementation="xla"),
        X,
        STACK,
        changed=False,
        note="ragged_dot, xla",
    ),
    op(
        lambda x, w: tokamax.linear_softmax_cross_entropy_loss(x, LABELS, w, implementation="xla"),
        X,
        W,
        changed=False,
        note="linear_softmax_cross_entropy_loss, xla",
    ),
    Call(
        "tokamax._src.ops.linear_softmax_cross_entropy_loss.pallas_mosaic_tpu_kernel"
        ".linear_softmax_cross_entropy_loss_fwd_pallas_mosaic_tpu",
        None,
        (),
        note="a vocabulary of 100 words in a block of 128: the zeros that fill the block up enter "
        "the log-sum-exp",
        confirm=small_vocabulary,
    ),
]
