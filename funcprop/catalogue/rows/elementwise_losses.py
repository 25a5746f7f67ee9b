"""Rows of the catalogue: losses that are sums over features, and weights of classes."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from funcprop import losses
from funcprop.catalogue.inputs import Classes, Mask, Normal, Probabilities, Uniform
from funcprop.catalogue.row import Mutant, Row
from funcprop.catalogue.rows.losses import VECTORS, plain, reduced, row
from funcprop.layer import Array


def plain_poisson(z: Array, y: Array) -> Array:
    """e^z − y z."""
    return (jnp.exp(z) - y * z).sum(-1)


def plain_rates(z: Array, y: Array) -> Array:
    """z − y log(z + ε), and Stirling's log y!."""
    stirling = y * jnp.log(y) - y + 0.5 * jnp.log(2 * jnp.pi * y)
    return (z - y * jnp.log(z + 1e-8) + jnp.where(y > 1, stirling, 0)).sum(-1)


def stirling_not_differentiated(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """log y! taken for a constant."""
    return losses.PoissonNLL(log_input=layer.log_input, reduction=layer.reduction).backward(
        params, residuals, dy
    )


def factor_forgotten(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """dlog y = (log y + 1 − log p) dC, without the y of the chain rule."""
    (dlog_p, _), _ = layer.backward(params, residuals, dy)
    return (dlog_p, layer.spread(dy, residuals.ratio + 1, residuals.counted)), ()


def plain_weighted(layer: Any) -> Any:
    """−Σ w y log p, y with label smoothing; a mean over classes divided by their weights."""

    def loss(params: Any, x: tuple[Array, Array], context: Any) -> Array:
        z, target = x
        weight, log_p = jnp.asarray(layer.weight, z.dtype), jax.nn.log_softmax(z)
        classes = jnp.issubdtype(target.dtype, jnp.integer)
        y = jax.nn.one_hot(target, z.shape[-1], dtype=z.dtype) if classes else target
        y = (1 - layer.label_smoothing) * y + layer.label_smoothing / z.shape[-1]
        values = -(weight * y * log_p).sum(-1)
        if layer.reduction != "mean" or not classes:
            return reduced(layer, values, context.mask)
        counted = target != layer.ignore_index
        each = jnp.where(counted, weight[jnp.maximum(target, 0)], 0)
        return jnp.where(counted, values, 0).sum() / each.sum()

    return loss


def weight_of_the_mean_forgotten(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """A mean divided by the number of examples, not their weights."""
    (dz, dtarget), _ = layer.backward(params, residuals, dy)
    each = jnp.asarray(layer.weight, dz.dtype)[jnp.maximum(residuals.target, 0)]
    counted = residuals.counted
    scale = jnp.where(counted, each, 0).sum() / counted.sum().astype(each.dtype)
    return (dz * scale.astype(dz.dtype), dtarget), ()


def weighted_row(name: str, x: Any, mutants: tuple[Mutant, ...] = (), **options: Any) -> Row:
    """SoftmaxCrossEntropy of seven classes, with weights."""
    small = losses.SoftmaxCrossEntropy(weight=(0.5, 1.0, 2.0, 0.25, 3.0, 1.5, 0.75), **options)
    return Row(
        name,
        small,
        x,
        plain=plain_weighted(small),
        mutants=mutants,
        batched=small.reduction != "mean" or len(mutants) == 0,
        reason="a mean is divided by the weights of the batch" if mutants else "",
    )


LARGE = (Normal((1024, 1024)), Normal((1024, 1024)))
RATES = (Uniform((5, 4), 0.5, 4.0), Uniform((5, 4), 0.5, 4.0))
RATED = losses.PoissonNLL(log_input=False, full=True, reduction="none")
ELEMENTWISE_LOSSES = (
    row(
        "MeanAbsoluteError",
        losses.MeanAbsoluteError(),
        VECTORS,
        lambda a, y: jnp.abs(a - y).mean(-1),
        LARGE,
    ),
    row(
        "MeanAbsoluteError, masked, unreduced",
        losses.MeanAbsoluteError(reduction="none"),
        (Normal((3, 2, 4)), Normal((3, 2, 4))),
        lambda a, y: jnp.abs(a - y).mean(-1),
        (LARGE, Mask((1024,))),
        mask=Mask((3, 2)),
    ),
    row(
        "SoftMargin",
        losses.SoftMargin(),
        VECTORS,
        lambda z, y: jax.nn.softplus(-y * z).sum(-1),
        LARGE,
    ),
    row(
        "SoftMargin, summed, large scores",
        losses.SoftMargin(reduction="sum"),
        (Normal((5, 4), scale=30.0), Normal((5, 4))),
        lambda z, y: jax.nn.softplus(-y * z).sum(-1),
        LARGE,
    ),
    row("PoissonNLL", losses.PoissonNLL(), (Normal((5, 4)), RATES[1]), plain_poisson, LARGE),
    Row(
        "PoissonNLL of rates, full",
        RATED,
        RATES,
        plain=plain(RATED, plain_rates),
        mutants=(Mutant("Stirling's term taken for a constant", stirling_not_differentiated),),
    ),
    row(
        "KLDivergence of log-probabilities",
        losses.KLDivergence(log_target=True),
        (Normal((5, 7)), Normal((5, 7))),
        lambda log_p, log_y: optax.kl_divergence(log_p, jnp.exp(log_y)),
        LARGE,
        mutants=(Mutant("the probability forgotten", factor_forgotten),),
    ),
    weighted_row(
        "SoftmaxCrossEntropy, weights of classes, smoothed, ignored targets",
        (Normal((5, 7)), Classes((5,), 7, ignored=-1)),
        (Mutant("the weights of the mean forgotten", weight_of_the_mean_forgotten),),
        ignore_index=-1,
        label_smoothing=0.1,
    ),
    weighted_row(
        "SoftmaxCrossEntropy, weights of classes, unreduced",
        (Normal((2, 3, 7)), Classes((2, 3), 7)),
        reduction="none",
    ),
    weighted_row(
        "SoftmaxCrossEntropy, weights of classes, probabilities",
        (Normal((5, 7)), Probabilities((5, 7))),
        label_smoothing=0.1,
    ),
)
