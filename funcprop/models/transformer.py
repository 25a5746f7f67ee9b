"""The block that vit and gpt repeat."""

from __future__ import annotations

from funcprop.blocks import SelfAttention
from funcprop.composites import Serial, Skip
from funcprop.initializers import GlorotUniform, Initializer
from funcprop.layer import Layer
from funcprop.layers import GELU, Dense, Dropout, LayerNorm


def transformer_block(
    width: int,
    heads: int,
    dropout: float = 0.0,
    causal: bool = False,
    w_init: Initializer = GlorotUniform(),
    fused: bool = True,
) -> Serial:
    """x + attention of LayerNorm x, then x + MLP of LayerNorm x: x [..., T, width] -> the same.

    As in GPT-2: the norm comes first, the MLP has four times the width and GELU in its tanh form.

    dropout  rate, on both of what is added; the attention's own weights are not dropped
    causal   a position reads no later one
    fused    one Dense for queries, keys and values (`SelfAttention`)

    Raises LayerError for sizes and rates that cannot be.
    """
    drop: tuple[Layer, ...] = (Dropout(dropout),) if dropout else ()
    attention = SelfAttention(width, heads, causal=causal, fused=fused, w_init=w_init)
    inner, outer = Dense(4 * width, w_init=w_init), Dense(width, w_init=w_init)
    return Serial(
        Skip(Serial(LayerNorm(), attention, *drop)),
        Skip(Serial(LayerNorm(), inner, GELU(approximate=True), outer, *drop)),
    )
