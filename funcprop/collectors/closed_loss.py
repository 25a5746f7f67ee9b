"""Closed form of LinearCrossEntropy: the gradients of single examples, without all the logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from funcprop.collectors.closed import PREPARED, closed_form, rows_of
from funcprop.collectors.form import Form, by_example, registered, scaled, squares
from funcprop.collectors.forms import Full
from funcprop.layer import Array, LayerError, spell, widen
from funcprop.losses import LinearCrossEntropy
from funcprop.losses.linear_cross_entropy import LinearCrossEntropyResiduals, Projection, Rows
from funcprop.losses.loss import less_one, one_hot

# the gradient made in the forward pass is already summed over the examples
PREPARED[LinearCrossEntropy] = lambda layer: replace(layer, one_pass=False)


@registered("layer")
class Softmaxes(Form):
    """g_b = Σ_n h_n δ_nᵀ with δ = (p − y) dC over a large vocabulary: δ is made again when needed.

    `squared` is ‖g_b‖², which came with dh in the same loop.
    """

    rows: Rows  # of every example [B, N]
    dvalues: Array  # [B, N]
    params: Projection
    squared: Array  # [B]
    layer: LinearCrossEntropy

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return self.params.w.shape

    @property
    def dtype(self) -> Any:  # type: ignore[override]
        return self.params.w.dtype

    @property
    def mappable(self) -> bool:
        return False

    def squared_norms(self) -> Array:
        return self.squared

    def each(self) -> tuple[Any, ...]:
        return (*self.rows[:4], self.dvalues)

    def materialize(self) -> Array:
        def one(row: tuple[Array, ...]) -> Array:
            return of_rows(self.layer, self.params, row)[0].w.astype(self.dtype)

        return jax.lax.map(one, self.each())

    def weighted(self, c: Array) -> Array:
        each = (*self.rows[:4], scaled(c, self.dvalues))
        return of_rows(self.layer, self.params, each)[0].w.astype(self.dtype)

    def picked_columns(self, ids: Array) -> Array:
        """g_b[:, ids_b]: ids [B, M] -> [B, M, D]; of the scores only these columns are made."""
        layer, (w, b) = self.layer, self.params

        def one(each: Any) -> Array:
            (h, target, peak, log_total, dvalues), ids = each
            columns = Projection(w[:, ids], None if b is None else b[ids])
            s = layer.scores(columns, h)
            p = jnp.exp(s - peak[:, None] - log_total[:, None])
            p = p * (1 + 2 * layer.z_loss * (peak + log_total)[:, None])
            y = (target[:, None] == ids).astype(p.dtype) * (1 - layer.label_smoothing)
            dz = (p - y - layer.label_smoothing / layer.vocabulary) * dvalues[:, None]
            if layer.soft_cap is not None:
                dz = dz * (1 - jnp.square(s / layer.soft_cap))
            return dz.T @ widen(h)

        numbers = ids.shape[1] * (w.shape[0] + 2 * self.dvalues.shape[1])
        return by_example(jax.vmap(one), numbers, (self.each(), ids))


def of_rows(layer: LinearCrossEntropy, params: Projection, each: Any) -> tuple[Projection, Array]:
    """-> dw and db summed over the rows [...], and dh."""

    def of_chunk(params: Projection, total: Any, row: Any) -> tuple[Any, Array]:
        h, target, peak, log_total, _ = row
        s = layer.scores(params, h)
        p = jnp.exp(s - peak[:, None] - log_total[:, None])
        slope = less_one(p, one_hot(target, layer.vocabulary))
        return layer.chunk_gradient(params, total, s, slope, *row)

    return layer.in_chunks(of_chunk, params, each, True)


@closed_form(LinearCrossEntropy)
def of_linear_cross_entropy(
    layer: LinearCrossEntropy,
    params: Projection,
    residuals: LinearCrossEntropyResiduals,
    dy: Array,
) -> tuple[tuple[Array, None], Projection]:
    rows = residuals.rows
    assert rows is not None  # see PREPARED
    if rows.target.ndim == 0:
        raise LayerError(layer, f"was given {spell(rows.h)}: one example, and no batch")
    shape, examples = rows.h.shape, rows.h.shape[0]
    dvalues = jnp.broadcast_to(layer.share(dy, rows.target.shape, rows.counted), rows.target.shape)
    log_total = rows.log_total
    if rows.counted is not None:
        log_total = jnp.where(rows.counted, log_total, 0)
        dvalues = jnp.where(rows.counted, dvalues, 0)
    flat = [a.reshape(examples, -1) for a in (rows.target, rows.peak, log_total, dvalues)]
    each = (rows_of(layer, rows.h), *flat)

    def one(row: Any) -> tuple[Array, Array, Array | None]:
        dparams, dh = of_rows(layer, params, row)
        return dh, squares(dparams.w[None])[0], dparams.b

    numbers = (shape[-1] + flat[0].shape[1]) * layer.vocabulary
    dh, squared, db = by_example(jax.vmap(one), numbers, each)
    kept = Rows(*each[:4], counted=None)
    w = Softmaxes(kept, each[4], params, squared, layer)
    b = None if db is None else Full(db.astype(params.w.dtype))
    return (dh.reshape(shape).astype(rows.h.dtype), None), Projection(w, b)  # type: ignore
