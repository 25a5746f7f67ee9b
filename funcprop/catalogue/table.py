"""The table of layers: one row a layer and configuration, and one test a property over all rows.

A new layer is one file and its rows here. Rows are small and awkward on purpose: odd sizes, no
multiple of anything. `large` is the size at which time and memory are compared. Long sections stand
in `catalogue/rows/`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from funcprop import composites, layers, losses
from funcprop.catalogue.inputs import Classes, Mask, Normal, Probabilities, Uniform
from funcprop.catalogue.row import Mutant, Row, key_of
from funcprop.catalogue.rows.activations import ACTIVATIONS
from funcprop.catalogue.rows.attention import ATTENTION
from funcprop.catalogue.rows.composites import MORE_COMPOSITES
from funcprop.catalogue.rows.convolution import CONVOLUTION
from funcprop.catalogue.rows.elementwise_losses import ELEMENTWISE_LOSSES
from funcprop.catalogue.rows.lifting import LIFTING
from funcprop.catalogue.rows.losses import MORE_LOSSES
from funcprop.catalogue.rows.normalization import NORMALIZATION
from funcprop.catalogue.rows.pooling import POOLING
from funcprop.catalogue.rows.rearranging import REARRANGING
from funcprop.catalogue.rows.recurrence import RECURRENCE
from funcprop.catalogue.rows.rewiring import REWIRING
from funcprop.catalogue.rows.shape import MORE_SHAPES, MORE_STOCHASTIC
from funcprop.catalogue.rows.uneven_pooling import UNEVEN_POOLING
from funcprop.layer import Array, Context, Layer, Params


def bias_not_summed(layer: Layer, params: Params, x: Array, dz: Array) -> Any:
    """db = δ, one bias gradient a row: a slip of many tutorials."""
    dx, dparams = layer.backward(params, x, dz)
    return dx, dparams._replace(b=dz)


def w_not_transposed(layer: Layer, params: Params, x: Array, dz: Array) -> Any:
    """dx = δ w instead of δ wᵀ: goes unnoticed by shapes only where w is square."""
    _, dparams = layer.backward(params, x, dz)
    return dz @ params.w, dparams


def matmul(params: layers.Affine, x: Array, context: Context) -> Array:
    z = x @ params.w
    return z if params.b is None else z + params.b


def plain_dropout(params: Params, x: Array, context: Context) -> Array:
    kept = jax.random.bernoulli(key_of(context), 0.6, x.shape)
    return jnp.where(kept, x / 0.6, 0)


def plain_serial(params: Params, x: Array, context: Context) -> Array:
    return matmul(params[2], jax.nn.sigmoid(matmul(params[0], x, context)), context)


def plain_skip(params: Params, x: Array, context: Context) -> Array:
    return x + jnp.tanh(matmul(params[0][0], x, context))


def plain_branch(params: Params, x: Array, context: Context) -> Array:
    return matmul(params[0], x, context) + matmul(params[1], x, context)


IMAGE = Normal((128, 4096))
LINEAR = (
    Row(
        "Dense",
        layers.Dense(3),
        Normal((5, 4)),
        plain=matmul,
        large=(layers.Dense(512), Normal((256, 512))),
        mutants=(Mutant("db not summed over the batch", bias_not_summed),),
    ),
    Row("Dense, one example", layers.Dense(3), Normal((4,)), batched=False),
    Row("Dense on sequences, no bias", layers.Dense(5, bias=False), Normal((2, 3, 7))),
    Row(
        "Dense, square",
        layers.Dense(4),
        Normal((6, 4)),
        mutants=(Mutant("w not transposed in dx", w_not_transposed),),
    ),
)


SHAPES = (
    Row("Identity", layers.Identity(), Normal((3, 4))),
    Row("Pixels, bytes", layers.Pixels(), Classes((3, 4), 256, dtype="uint8")),
    Row("Pixels, floats", layers.Pixels(), Normal((3, 4))),
    Row("Flatten", layers.Flatten(axes=2), Normal((5, 3, 2))),
    Row("Reshape", layers.Reshape((2, -1)), Normal((5, 6))),
)
STOCHASTIC = (
    Row(
        "Dropout",
        layers.Dropout(0.4),
        Normal((5, 7)),
        plain=plain_dropout,
        large=(layers.Dropout(0.4), IMAGE),
        batched=False,
        reason="draws for a batch at once",
    ),
)
COMPOSITES = (
    Row(
        "Serial",
        composites.Serial(layers.Dense(6), layers.Sigmoid(), layers.Dense(3)),
        Normal((5, 4)),
        plain=plain_serial,
        large=(
            composites.Serial(layers.Dense(512), layers.Sigmoid(), layers.Dense(256)),
            Normal((256, 512)),
        ),
    ),
    Row(
        "Skip",
        composites.Skip(composites.Serial(layers.Dense(4), layers.Tanh())),
        Normal((5, 4)),
        plain=plain_skip,
        large=(
            composites.Skip(composites.Serial(layers.Dense(512), layers.Tanh())),
            Normal((256, 512)),
        ),
    ),
    Row("Branch", composites.Branch(layers.Dense(3), layers.Identity()), Normal((5, 4))),
    Row(
        "Branch, summed",
        composites.Branch(layers.Dense(3), layers.Dense(3), combine="sum"),
        Normal((5, 4)),
        plain=plain_branch,
        large=(
            composites.Branch(layers.Dense(512), layers.Dense(512), combine="sum"),
            Normal((256, 512)),
        ),
    ),
    Row(
        "Branch, concatenated",
        composites.Branch(layers.Dense(2), layers.Dense(3), combine="concatenate"),
        Normal((5, 4)),
    ),
    Row(
        "Parallel",
        composites.Parallel(layers.Dense(3), layers.Identity(), layers.Tanh()),
        (Normal((5, 4)), Classes((5,), 3), Normal((2,))),
        batched=False,
        reason="the entries have different example axes",
    ),
)
PAIR = (Normal((5, 3)), Normal((5, 3)))
LARGE_PAIR = (Normal((1024, 1024)), Normal((1024, 1024)))
cross_entropy = optax.softmax_cross_entropy_with_integer_labels
LOSSES = (
    Row(
        "QuadraticCost",
        losses.QuadraticCost(),
        PAIR,
        plain=lambda params, x, context: 0.5 * jnp.square(x[0] - x[1]).sum(-1).mean(),
        large=(losses.QuadraticCost(), LARGE_PAIR),
    ),
    Row("QuadraticCost, unreduced", losses.QuadraticCost(reduction="none"), PAIR),
    Row("QuadraticCost, masked", losses.QuadraticCost(), PAIR, mask=Mask((5,))),
    Row(
        "MeanSquaredError",
        losses.MeanSquaredError(),
        PAIR,
        plain=lambda params, x, context: jnp.square(x[0] - x[1]).mean(),
        large=(losses.MeanSquaredError(), LARGE_PAIR),
    ),
    Row("MeanSquaredError, summed", losses.MeanSquaredError(reduction="sum"), PAIR),
    Row(
        "Huber",
        losses.Huber(0.7),
        PAIR,
        plain=lambda params, x, context: optax.huber_loss(*x, delta=0.7).sum(-1).mean(),
        large=(losses.Huber(0.7), LARGE_PAIR),
    ),
    Row(
        "BinaryCrossEntropy",
        losses.BinaryCrossEntropy(),
        (Normal((5, 3)), Uniform((5, 3))),
        plain=lambda params, x, context: optax.sigmoid_binary_cross_entropy(*x).sum(-1).mean(),
        large=(losses.BinaryCrossEntropy(), (Normal((1024, 1024)), Uniform((1024, 1024)))),
    ),
    Row(
        "SoftmaxCrossEntropy",
        losses.SoftmaxCrossEntropy(),
        (Normal((5, 7)), Classes((5,), 7)),
        plain=lambda params, x, context: cross_entropy(*x).mean(),
        large=(losses.SoftmaxCrossEntropy(), (Normal((4096, 1024)), Classes((4096,), 1024))),
    ),
    Row(
        "SoftmaxCrossEntropy, unreduced, smoothed, large logits",
        losses.SoftmaxCrossEntropy(reduction="none", label_smoothing=0.1),
        (Normal((2, 3, 7), scale=30.0), Classes((2, 3), 7)),
    ),
    Row(
        "SoftmaxCrossEntropy, ignored targets",
        losses.SoftmaxCrossEntropy(ignore_index=-1),
        (Normal((5, 7)), Classes((5,), 7, ignored=-1)),
        batched=False,
        reason="a mean over ignored examples alone has no value",
    ),
    Row(
        "SoftmaxCrossEntropy, masked sequences",
        losses.SoftmaxCrossEntropy(),
        (Normal((3, 4, 7)), Classes((3, 4), 7)),
        mask=Mask((3, 4)),
    ),
    Row(
        "SoftmaxCrossEntropy, probabilities",
        losses.SoftmaxCrossEntropy(label_smoothing=0.1),
        (Normal((5, 7)), Probabilities((5, 7))),
    ),
    Row("Hinge", losses.Hinge(), (Normal((5, 7)), Classes((5,), 7))),
)
ROWS: tuple[Row, ...] = (
    *LINEAR,
    *CONVOLUTION,
    *POOLING,
    *UNEVEN_POOLING,
    *NORMALIZATION,
    *ACTIVATIONS,
    *SHAPES,
    *MORE_SHAPES,
    *REARRANGING,
    *STOCHASTIC,
    *MORE_STOCHASTIC,
    *COMPOSITES,
    *MORE_COMPOSITES,
    *ATTENTION,
    *RECURRENCE,
    *LOSSES,
    *MORE_LOSSES,
    *ELEMENTWISE_LOSSES,
    *REWIRING,
    *LIFTING,
)
