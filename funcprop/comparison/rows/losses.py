"""Rows of the catalogue: losses beyond the first ones."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop import losses
from funcprop.comparison.inputs import Classes, Mask, Normal, Probabilities
from funcprop.comparison.row import Mutant, Row
from funcprop.layer import Array, Context


def plain_linear_cross_entropy(params: Any, x: tuple[Array, Array], context: Context) -> Array:
    """Logits, log-softmax, and the entry of the target."""
    h, target = x
    log_p = jax.nn.log_softmax(h @ params.w)
    return -jnp.take_along_axis(log_p, target[..., None], -1).mean()


def uniform_cotangent(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """The weight gradient of a uniform cotangent, whatever dy says: as if made in forward."""
    dx, _ = layer.backward(params, residuals, dy)
    _, dparams = layer.backward(params, residuals, jnp.full_like(dy, dy.mean()))
    return dx, dparams


def norm_held_constant(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """The derivative of the norm forgotten: da = −ŷ dC / ‖a‖."""
    a, y, counted = residuals
    (_, dtarget), _ = layer.backward(params, residuals, dy)
    return (layer.spread(dy, -a.scale * y.direction, counted), dtarget), ()


def weight_not_differentiated(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """The focal weight (1 − p)^γ taken for a constant."""
    log_p, target, counted = residuals
    p = jnp.take_along_axis(jnp.exp(log_p), target[..., None], -1)
    y = jax.nn.one_hot(target, log_p.shape[-1], dtype=log_p.dtype)
    slope = (1 - p) ** layer.gamma * (jnp.exp(log_p) - y)
    return (layer.spread(dy, slope, counted), None), ()


def one_direction(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """Only a against b, in a symmetric loss."""
    return layer.backward(params, residuals._replace(columns=residuals.rows), dy)


VECTORS = (Normal((5, 4)), Normal((5, 4)))
LARGE_VOCABULARY = (Normal((512, 256)), Classes((512,), 16_000))

MORE_LOSSES = (
    Row("KLDivergence", losses.KLDivergence(), (Normal((5, 7)), Probabilities((5, 7)))),
    Row(
        "KLDivergence, masked, unreduced",
        losses.KLDivergence(reduction="none"),
        (Normal((3, 2, 7)), Probabilities((3, 2, 7))),
        mask=Mask((3, 2)),
    ),
    Row(
        "FocalLoss",
        losses.FocalLoss(),
        (Normal((5, 7)), Classes((5,), 7)),
        mutants=(Mutant("the focal weight taken for a constant", weight_not_differentiated),),
    ),
    Row(
        "FocalLoss, γ below 1",
        losses.FocalLoss(0.5, reduction="sum"),
        (Normal((5, 7)), Classes((5,), 7)),
    ),
    Row(
        "CosineDistance",
        losses.CosineDistance(),
        VECTORS,
        mutants=(Mutant("the norm held constant", norm_held_constant),),
    ),
    Row("TripletMargin", losses.TripletMargin(), (Normal((5, 4)), VECTORS)),
    Row(
        "TripletMargin, unreduced",
        losses.TripletMargin(2.0, reduction="none"),
        (Normal((2, 3, 4)), (Normal((2, 3, 4)), Normal((2, 3, 4)))),
    ),
    Row(
        "InfoNCE",
        losses.InfoNCE(0.5),
        VECTORS,
        batched=False,
        reason="the examples of a batch are told apart from each other",
    ),
    Row(
        "InfoNCE, symmetric, masked",
        losses.InfoNCE(0.5, symmetric=True, reduction="sum"),
        (Normal((2, 5, 4)), Normal((2, 5, 4))),
        mask=Mask((2, 5)),
        mutants=(Mutant("one direction alone", one_direction),),
    ),
    Row(
        "LinearCrossEntropy",
        losses.LinearCrossEntropy(11, chunk=4),
        (Normal((3, 3, 5)), Classes((3, 3), 11)),
        plain=plain_linear_cross_entropy,
        large=(losses.LinearCrossEntropy(16_000), LARGE_VOCABULARY),
        promise=("memory",),
    ),
    Row(
        "LinearCrossEntropy, everything",
        losses.LinearCrossEntropy(
            11,
            bias=True,
            label_smoothing=0.1,
            ignore_index=-1,
            z_loss=0.01,
            soft_cap=3.0,
            chunk=4,
            reduction="none",
        ),
        (Normal((10, 5), scale=3.0), Classes((10,), 11, ignored=-1)),
        mutants=(Mutant("weight gradient of a uniform cotangent", uniform_cotangent),),
    ),
    Row(
        "LinearCrossEntropy, masked, one chunk",
        losses.LinearCrossEntropy(7, bias=True, reduction="sum"),
        (Normal((3, 4, 5)), Classes((3, 4), 7)),
        mask=Mask((3, 4)),
    ),
)
