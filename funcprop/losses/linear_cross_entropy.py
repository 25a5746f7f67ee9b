"""Projection to a large vocabulary and cross-entropy in one, without the logits in memory."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    check_cotangent,
    check_count,
    check_input,
    check_number,
    check_params,
    widen,
)
from funcprop.losses.loss import Loss, check_classes, check_index, less_one, one_hot, valid_classes
from funcprop.sharding import entries, fresh, on_each_device, placed, total, whole


class Projection(NamedTuple):
    """The parameters of s = h w + b."""

    w: Array  # [D, V]
    b: Array | None  # [V], or None where the layer has no bias


class Rows(NamedTuple):
    """Of every row what its logits and their gradient can be made from again."""

    h: Array  # [..., D]; 0 where a row does not count, since what it holds may be NaN
    target: Array  # int [...]
    peak: Array  # max s [...]: apart from the logarithm, so that large logits stay exact
    log_total: Array  # log Σ e^(s − peak) [...]; NaN where the target is not a class
    counted: Array | None  # bool [...]: the rows that count, where any was masked or ignored


class Gradient(NamedTuple):
    """The gradient for dC = 1, in float32 where the parameters are narrower: it may be small."""

    h: Array  # [..., D]
    params: Projection


class LinearCrossEntropyResiduals(NamedTuple):
    """What LinearCrossEntropy keeps: one of the two."""

    rows: Rows | None
    gradient: Gradient | None


@dataclass(frozen=True)
class LinearCrossEntropy(Loss):
    """SoftmaxCrossEntropy of s = cap(h w + b) in chunks of rows: memory O(chunk · V), not O(N · V).

    label_smoothing  α: targets (1 − α) y + α / V
    ignore_index     rows with this target do not count
    z_loss           ζ: adds ζ (log Σ eˢ)² per row, which keeps logits small (PaLM, 2022)
    soft_cap         c: s = c tanh((h w + b) / c)
    chunk            rows at a time; the result does not depend on it
    one_pass         of a mean or a sum, forward makes the gradient too, while it has the logits:
                     a quarter fewer operations. A forward pass alone, outside jit, then costs
                     three times as much, and what is kept has no example axis

    Under `Tied`, w is the embedding's table.

    forward   (h, target): h [..., D], target int [...] -> the loss
    keeps     the gradient for dC = 1, as large as h and the parameters; unreduced or without
              `one_pass` h, the target and of each row the log-sum-exp, and the logits are made
              again, by chunks
    backward  ds = (p (1 + 2ζ log Σ eˢ) − y) dC    dz = ds (1 − (s/c)²)
              dh = dz wᵀ    dw = hᵀ dz    db = Σ dz, in one loop
    dtypes    any float, one for h, w and b, which the loss and the gradients have; targets of any
              integer dtype; sums are made in float32 at least
    raises    LayerError where vocabulary or chunk is no positive whole number, label_smoothing not
              in [0, 1), z_loss negative, soft_cap not positive or reduction unknown, h is empty or
              has not as many features as w has rows, params is no Projection of its dtype, the
              target is not int [...], a class that counts is known and out of range, a mask is not
              bool [...], a mean is over no example, or dC has not the shape of the loss
    source    Wijmans et al., 2024, arXiv:2411.09009; z_loss: Chowdhery et al., 2022,
              arXiv:2204.02311

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> loss = fp.LinearCrossEntropy(vocabulary=4, w_init=fp.initializers.Zeros())
    >>> x = jnp.ones((2, 3)), jnp.array([0, 3])
    >>> params = loss.init(jax.random.key(0), x)
    >>> C, residuals = loss.forward(params, x)
    >>> print(f"{C:.3f}", params.w.shape)
    1.386 (3, 4)
    """

    vocabulary: int
    _: KW_ONLY
    bias: bool = False
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    z_loss: float = 0.0
    soft_cap: float | None = None
    chunk: int = 256
    one_pass: bool = True
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "vocabulary", self.vocabulary)
        check_count(self, "chunk", self.chunk)
        check_number(self, "label_smoothing", self.label_smoothing, 0, 1)
        if self.ignore_index is not None:
            check_index(self, self.ignore_index)
        check_number(self, "z_loss", self.z_loss, 0)
        if self.soft_cap is not None:
            check_number(self, "soft_cap", self.soft_cap, 1e-8)

    def init(self, key: Array, x: Any) -> Projection:
        h, _ = self.pair(x)
        w_key, b_key = jax.random.split(key)
        w = self.w_init(w_key, (h.shape[-1], self.vocabulary), h.dtype)
        b = self.b_init(b_key, (self.vocabulary,), h.dtype) if self.bias else None
        return Projection(w, b)

    def forward(
        self, params: Projection, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, LinearCrossEntropyResiduals]:
        h, target = self.pair(x)
        check_params(self, params, Projection, like=h)
        check_input(self, h, features=params.w.shape[0], rank=1)
        check_classes(self, h, target)
        ignored = None if self.ignore_index is None else target != self.ignore_index
        counted = self.counted(target.shape, context.mask, ignored)
        valid = valid_classes(self, target, self.vocabulary, counted)

        if counted is not None:
            h = jnp.where(counted[..., None], h, 0)
        early = self.one_pass and self.reduction != "none"

        def of_chunk(params: Projection, sums: Any, row: Any) -> tuple[Any, Any]:
            h, target, valid, dvalues = row
            s = self.scores(params, h)
            peak = jax.lax.stop_gradient(s.max(-1))
            e = jnp.exp(s - peak[:, None])
            safe = jnp.clip(target, 0, self.vocabulary - 1)
            less = less_one(e, one_hot(safe, self.vocabulary))
            rest = jnp.where(valid, jnp.sum(less, -1), jnp.nan)
            log_total = jnp.log1p(rest)
            behind = peak - jnp.take_along_axis(s, safe[:, None], -1)[:, 0]
            values = log_total + (1 - self.label_smoothing) * behind
            if self.label_smoothing:
                values = values + self.label_smoothing * jnp.mean(peak[:, None] - s, -1)
            values = values + self.z_loss * jnp.square(log_total + peak)
            if not early:
                return sums, (values, (peak, log_total))
            own = one_hot(safe, self.vocabulary)
            slope = (less - jnp.where(own, rest[:, None], 0)) / (rest + 1)[:, None]
            sums, dh = self.chunk_gradient(
                params, sums, s, slope, h, target, peak, log_total, dvalues
            )
            return sums, (values, dh)

        wide = widen(h).dtype
        dvalues = None
        if early:
            each = self.share(jnp.ones((), wide), target.shape, counted)
            dvalues = jnp.broadcast_to(each, target.shape)
            dvalues = dvalues if counted is None else jnp.where(counted, dvalues, 0)
        given = (h, target, valid, dvalues)
        carried, (values, kept) = self.in_chunks(of_chunk, params, given, early)
        loss = self.reduce(values, counted, h.dtype)
        if early:
            return loss, LinearCrossEntropyResiduals(None, Gradient(kept, carried))
        peak, log_total = kept
        rows = Rows(h, target, peak, log_total, counted)
        return loss, LinearCrossEntropyResiduals(rows, None)

    def backward(
        self, params: Projection, residuals: LinearCrossEntropyResiduals, dy: Array
    ) -> tuple[tuple[Array, None], Projection]:
        rows, gradient = residuals
        dtype = params.w.dtype
        if gradient is not None:
            check_cotangent(self, dy, (), dtype)
            scaled = jax.tree.map(lambda leaf: (leaf * widen(dy)).astype(dtype), gradient)
            return (scaled.h, None), placed(scaled.params, params)
        assert rows is not None
        h, target, peak, log_total, counted = rows
        dvalues = jnp.broadcast_to(self.share(dy, target.shape, counted), target.shape)
        if counted is not None:
            # 0 · NaN would let into dw what does not count
            log_total = jnp.where(counted, log_total, 0)
            dvalues = jnp.where(counted, dvalues, 0)

        def of_chunk(params: Projection, sums: Any, row: Any) -> tuple[Any, Array]:
            h, _, peak, log_total, _ = row
            s = self.scores(params, h)
            p = jnp.exp(s - peak[:, None] - log_total[:, None])
            slope = less_one(p, one_hot(row[1], self.vocabulary))
            return self.chunk_gradient(params, sums, s, slope, *row)

        given = (h, target, peak, log_total, dvalues)
        sums, dh = self.in_chunks(of_chunk, params, given, True)
        dparams = jax.tree.map(lambda leaf: leaf.astype(dtype), sums)
        return (dh.astype(h.dtype), None), placed(dparams, params)

    def zeros(self, params: Projection) -> Projection:
        zero = jnp.zeros(params.w.shape, widen(params.w).dtype)
        return Projection(zero, None if params.b is None else zero[0])

    def chunk_gradient(
        self, params: Projection, sums: Projection, s: Array, slope: Array, h: Array,
        target: Array, peak: Array, log_total: Array, dvalues: Array,
    ) -> tuple[Projection, Array]:  # fmt: skip
        """What a chunk with scores s and slope p − y adds to (dw, db), and its dh."""
        ds = slope
        if self.z_loss or self.label_smoothing:
            own = jax.nn.one_hot(target, self.vocabulary, dtype=slope.dtype)
            ds = ds + (slope + own) * (2 * self.z_loss * (peak + log_total)[:, None])
            ds = ds + self.label_smoothing * (own - 1 / self.vocabulary)
        dz = ds * dvalues[:, None]
        if self.soft_cap is not None:
            dz = dz * (1 - jnp.square(s / self.soft_cap))
        # held apart, or XLA multiplies by a transposed view, which takes its CPU twice the time
        ht = jax.lax.optimization_barrier(widen(h).T)
        dw = sums.w + ht @ dz
        db = None if sums.b is None else sums.b + dz.sum(0)
        return Projection(dw, db), dz @ widen(params.w).T

    def scores(self, params: Projection, h: Array) -> Array:
        # 16-bit logits would lose what the softmax then reads off their last digits
        z = jnp.matmul(h, params.w, preferred_element_type=widen(h).dtype)
        z = z if params.b is None else z + widen(params.b)
        return z if self.soft_cap is None else self.soft_cap * jnp.tanh(z / self.soft_cap)

    def in_chunks(self, f: Any, params: Projection, rows: Any, sums: bool) -> tuple[Any, Any]:
        """f(params, sums, chunk) -> sums, results: over chunks of the rows [...]."""
        lead = entries(rows[1])

        def own(params: Projection, rows: Any) -> tuple[Any, Any]:
            zeros = self.zeros(params) if sums else None
            carry = jax.tree.map(lambda x: fresh(x, (None,) * x.ndim, rows), zeros)
            carry, ys = self.walk(lambda *given: f(params, *given), carry, rows)
            return total(carry, *lead), ys

        return on_each_device(
            own,
            (whole(params), rows),
            (lambda x: (None,) * x.ndim, lambda x: lead + (None,) * (x.ndim - len(lead))),
            ((), lead),
        )

    def walk(self, f: Any, carry: Any, rows: Any) -> tuple[Any, Any]:
        """A scan of f over chunks of the rows [...], then one call for the shorter rest: no
        padding, so nothing padded can enter a sum."""
        shape = rows[1].shape
        n, axes = math.prod(shape), len(shape)
        rows = jax.tree.map(lambda row: row.reshape(n, *row.shape[axes:]), rows)
        whole = n // self.chunk * self.chunk
        parts = []
        if whole:
            chunks = jax.tree.map(
                lambda row: row[:whole].reshape(-1, self.chunk, *row.shape[1:]), rows
            )
            carry, ys = jax.lax.scan(f, carry, chunks)
            parts.append(jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys))
        if whole < n:
            carry, ys = f(carry, jax.tree.map(lambda row: row[whole:], rows))
            parts.append(ys)
        ys = jax.tree.map(lambda *ys: jnp.concatenate(ys) if ys[1:] else ys[0], *parts)
        return carry, jax.tree.map(lambda y: y.reshape(*shape, *y.shape[1:]), ys)
