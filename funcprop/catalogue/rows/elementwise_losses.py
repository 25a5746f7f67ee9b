"""Rows of the catalogue: losses that are sums over features."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from funcprop import losses
from funcprop.catalogue.inputs import Mask, Normal, Uniform
from funcprop.catalogue.row import Mutant
from funcprop.catalogue.rows.losses import VECTORS, row
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


LARGE = (Normal((1024, 1024)), Normal((1024, 1024)))
RATES = (Uniform((5, 4), 0.5, 4.0), Uniform((5, 4), 0.5, 4.0))
LARGE_RATES = (Uniform((1024, 1024), 0.5, 4.0), Uniform((1024, 1024), 0.5, 4.0))
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
    row(
        "PoissonNLL of rates, full",
        losses.PoissonNLL(log_input=False, full=True, reduction="none"),
        RATES,
        plain_rates,
        LARGE_RATES,
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
)
