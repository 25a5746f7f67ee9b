"""What a layer sees as pictures: attention and its dS, feature maps and their δ."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from funcprop.explorer.arrays import picture
from funcprop.layer import Layer
from funcprop.layers import Conv, DotProductAttention, MaxPool

LONGEST = 64  # tokens of an attention that is drawn, and pixels of a feature map
MOST = 8  # heads or channels


def maps_of(layer: Layer, trace: Any) -> list[dict[str, Any]]:
    """The pictures of a layer's first example; none of a layer that has none."""
    if type(layer) is DotProductAttention:
        return attention(layer, trace)
    if type(layer) in (Conv, MaxPool) and trace.y.ndim == 4:
        return features(trace)
    return []


def attention(layer: DotProductAttention, trace: Any) -> list[dict[str, Any]]:
    """P and dS of every head: softmax over the keys, and the error of the scores."""
    if len(trace.x) != 3 or layer.window is not None or layer.soft_cap is not None:
        return []
    q, k, v, dy = (np.asarray(leaf, np.float64) for leaf in (*trace.x, trace.dy))
    while q.ndim > 3:  # the first example
        q, k, v, dy = q[0], k[0], v[0], dy[0]
    (T, N, K), (S, M, _) = q.shape, k.shape
    if max(T, S) > LONGEST or T == 0:
        return []
    k, v = np.repeat(k, N // M, 1), np.repeat(v, N // M, 1)
    scores = np.einsum("tnk,snk->nts", q, k) * (layer.scale or 1 / math.sqrt(K))
    if layer.causal:
        scores = np.where(np.tril(np.ones((T, S), bool)), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    dp = np.einsum("tnv,snv->nts", dy, v)
    ds = p * (dp - (p * dp).sum(-1, keepdims=True))
    pairs = [pair(f"head {n + 1}", p[n], ds[n]) for n in range(min(N, MOST))]
    note = "Above p, the softmax over the keys: a row is a query. Below dS = p ⊙ (dp − Σ p·dp)."
    return [{"title": "Attention of the first example", "note": note, "pairs": pairs}]


def features(trace: Any) -> list[dict[str, Any]]:
    """Channels of the first example, and the error that each receives."""
    y, dy = np.asarray(trace.y)[0], np.asarray(trace.dy)[0]
    if max(y.shape[:2]) > LONGEST or min(y.shape[:2]) < 3:
        return []
    channels = range(min(y.shape[2], MOST))
    pairs = [pair(f"channel {c + 1}", y[..., c], dy[..., c]) for c in channels]
    note = "Above the values of a channel, below the δ that comes back to it."
    return [{"title": "Feature maps of the first example", "note": note, "pairs": pairs}]


def pair(name: str, value: Any, error: Any) -> dict[str, Any]:
    return {"name": name, "value": picture(value), "error": picture(error)}
