"""Projection to a large vocabulary and cross-entropy in one, without the logits in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.initializers import GlorotUniform, Initializer, Zeros
from funcprop.layer import (
    Array,
    Context,
    check_count,
    check_input,
    check_number,
    check_params,
    widen,
)
from funcprop.losses.loss import Loss, check_classes, valid_classes


class Projection(NamedTuple):
    """The parameters of s = h w + b."""

    w: Array  # [D, V]
    b: Array | None  # [V], or None where the layer has no bias


class LinearCrossEntropyResiduals(NamedTuple):
    """What LinearCrossEntropy keeps."""

    h: Array  # [..., D]: dw is its product with the gradient of the logits
    target: Array  # int [...]
    peak: Array  # max s [...]: apart from the logarithm, so that large logits stay exact
    log_total: Array  # log Σ e^(s − peak) [...]; NaN where the target is not a class
    counted: Array | None  # bool [...]: the rows that count, where any was masked or ignored


@dataclass(frozen=True)
class LinearCrossEntropy(Loss):
    """SoftmaxCrossEntropy of s = cap(h w + b) in chunks of rows: memory O(chunk · V), not O(N · V).

    label_smoothing  α: targets (1 − α) y + α / V
    ignore_index     rows with this target do not count
    z_loss           ζ: adds ζ (log Σ eˢ)² per row, which keeps logits small (PaLM, 2022)
    soft_cap         c: s = c tanh((h w + b) / c)
    chunk            rows at a time; the result does not depend on it

    Under `Tied`, w is the embedding's table.

    forward   (h, target): h [..., D], target int [...] -> the loss
    keeps     h, the target, and of each row the log-sum-exp; the logits are made again, by chunks
    backward  ds = (p (1 + 2ζ log Σ eˢ) − y) dC    dz = ds (1 − (s/c)²)
              dh = dz wᵀ    dw = hᵀ dz    db = Σ dz, in the same loop
    """

    vocabulary: int
    bias: bool = False
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    z_loss: float = 0.0
    soft_cap: float | None = None
    chunk: int = 128
    w_init: Initializer = GlorotUniform()
    b_init: Initializer = Zeros()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "vocabulary", self.vocabulary)
        check_count(self, "chunk", self.chunk)
        check_number(self, "label_smoothing", self.label_smoothing, 0, 1)
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

        def of_chunk(h: Array, target: Array) -> tuple[Array, Array, Array]:
            s = self._scores(params, h)
            peak = jax.lax.stop_gradient(s.max(-1))
            log_total = jnp.log(jnp.sum(jnp.exp(s - peak[:, None]), -1))
            safe = jnp.clip(target, 0, self.vocabulary - 1)[:, None]
            of_target = jnp.take_along_axis(s, safe, -1)[:, 0] - peak
            values = log_total - (1 - self.label_smoothing) * of_target
            if self.label_smoothing:
                values = values - self.label_smoothing * jnp.mean(s - peak[:, None], -1)
            return values + self.z_loss * jnp.square(log_total + peak), peak, log_total

        rows = self._chunked(of_chunk, h.reshape(-1, h.shape[-1]), target.reshape(-1))
        values, peak, log_total = (row.reshape(target.shape) for row in rows)
        log_total = jnp.where(valid, log_total, jnp.nan)
        loss = self.reduce(jnp.where(valid, values, jnp.nan), counted, h.dtype)
        return loss, LinearCrossEntropyResiduals(h, target, peak, log_total, counted)

    def backward(
        self, params: Projection, residuals: LinearCrossEntropyResiduals, dy: Array
    ) -> tuple[tuple[Array, None], Projection]:
        h, target, peak, log_total, counted = residuals
        dvalues = jnp.broadcast_to(self.share(dy, target.shape, counted), target.shape)
        if counted is not None:
            # what does not count may hold NaN, which 0 · NaN would let into dw
            h = jnp.where(counted[..., None], h, 0)
            peak, log_total = jnp.where(counted, peak, 0), jnp.where(counted, log_total, 0)
            dvalues = jnp.where(counted, dvalues, 0)
        wide = widen(params.w).dtype
        zero = jnp.zeros(params.w.shape, wide)
        start = (zero, None if params.b is None else zero[0])

        def of_chunk(total: Any, row: Any) -> tuple[Any, Array]:
            h, target, peak, log_total, dvalues = row
            s = self._scores(params, h)
            p = jnp.exp(s - peak[:, None] - log_total[:, None])
            if self.z_loss:
                p = p * (1 + 2 * self.z_loss * (peak + log_total)[:, None])
            y = jax.nn.one_hot(target, self.vocabulary, dtype=p.dtype)
            ds = p - (1 - self.label_smoothing) * y - self.label_smoothing / self.vocabulary
            dz = ds * dvalues[:, None]
            if self.soft_cap is not None:
                dz = dz * (1 - jnp.square(s / self.soft_cap))
            dz = dz.astype(h.dtype)
            dw = total[0] + widen(h).T @ widen(dz)
            db = None if total[1] is None else total[1] + dz.astype(wide).sum(0)
            return (dw, db), dz @ params.w.T

        rows = [leaf.reshape(-1) for leaf in (target, peak, log_total, dvalues)]
        (dw, db), dh = self._scanned(of_chunk, start, h.reshape(-1, h.shape[-1]), *rows)
        db = None if db is None else db.astype(params.w.dtype)
        return (dh.reshape(h.shape), None), Projection(dw.astype(params.w.dtype), db)

    def _scores(self, params: Projection, h: Array) -> Array:
        z = widen(h @ params.w if params.b is None else h @ params.w + params.b)
        return z if self.soft_cap is None else self.soft_cap * jnp.tanh(z / self.soft_cap)

    def _chunked(self, f: Any, *rows: Array) -> Any:
        """f over chunks of the rows, and over the shorter rest; outputs [N]."""
        return self._scanned(lambda _, row: (None, f(*row)), None, *rows)[1]

    def _scanned(self, f: Any, carry: Any, *rows: Array) -> tuple[Any, Any]:
        """A scan of f over chunks of the rows, then one call for the shorter rest: no padding,
        so nothing padded can enter a sum."""
        n = rows[0].shape[0]
        whole = n // self.chunk * self.chunk
        parts = []
        if whole:
            chunks = [row[:whole].reshape(-1, self.chunk, *row.shape[1:]) for row in rows]
            carry, ys = jax.lax.scan(f, carry, tuple(chunks))
            parts.append(jax.tree.map(lambda y: y.reshape(whole, *y.shape[2:]), ys))
        if whole < n:
            carry, ys = f(carry, tuple(row[whole:] for row in rows))
            parts.append(ys)
        return carry, jax.tree.map(lambda *ys: jnp.concatenate(ys), *parts)
