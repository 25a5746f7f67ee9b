"""Rows of the catalogue: losses beyond the first ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcprop import losses
from funcprop.catalogue.inputs import Classes, Mask, Normal, Probabilities, Spec
from funcprop.catalogue.row import Mutant, Row
from funcprop.layer import Array, Context


@dataclass(frozen=True)
class Spelled(Spec):
    """Integers from 1 to high − 1, then −1: targets of CTC, from no label to all of them."""

    high: int = 3

    def kind(self, dtype: Any) -> Any:
        return "int32"

    def draw(self, random: np.random.Generator, dtype: Any) -> np.ndarray:
        labels = random.integers(1, self.high, self.shape)
        length = np.asarray(random.integers(0, self.shape[-1] + 1, self.shape[:-1]))
        return np.where(np.arange(self.shape[-1]) < length[..., None], labels, -1).astype("int32")


# --- as a JAX user would write them ---------------------------------------------------------------


def reduced(layer: Any, values: Array, counted: Array | None) -> Array:
    """The values of the examples that count, reduced as the layer says."""
    number: Any = values.size
    if counted is not None:
        values, number = jnp.where(counted, values, 0), counted.sum().astype(values.dtype)
    if layer.reduction == "none":
        return values
    return values.sum() / number if layer.reduction == "mean" else values.sum()


def plain(layer: Any, function: Callable[..., Array]) -> Callable[..., Array]:
    """function(prediction, target) has one value an example."""
    return lambda params, x, context: reduced(layer, function(*x), context.mask)


def of_class(log_p: Array, target: Array) -> Array:
    """The entry of each row's class."""
    return jnp.take_along_axis(log_p, target[..., None], -1)[..., 0]


def plain_focal(gamma: float) -> Callable[[Array, Array], Array]:
    """−(1 − p)^γ log p."""

    def focal(z: Array, target: Array) -> Array:
        log_p = of_class(jax.nn.log_softmax(z), target)
        return -((1 - jnp.exp(log_p)) ** gamma) * log_p

    return focal


def plain_triplet(margin: float) -> Callable[[Array, tuple[Array, Array]], Array]:
    """max(0, ‖a − p‖ − ‖a − n‖ + margin)."""

    def triplet(anchor: Array, others: tuple[Array, Array]) -> Array:
        near, far = (jnp.linalg.norm(anchor - other, axis=-1) for other in others)
        return jnp.maximum(near - far + margin, 0)

    return triplet


def plain_contrast(temperature: float, symmetric: bool = False) -> Callable[[Array, Array], Array]:
    """Softmax cross-entropy of cosines, its targets the diagonal."""

    def contrast(a: Array, b: Array) -> Array:
        a, b = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (a, b))
        scores = a @ jnp.swapaxes(b, -1, -2) / temperature
        target = jnp.broadcast_to(jnp.arange(a.shape[-2]), scores.shape[:-1])
        rows = optax.softmax_cross_entropy_with_integer_labels(scores, target)
        if not symmetric:
            return rows
        columns = jnp.swapaxes(scores, -1, -2)
        return (rows + optax.softmax_cross_entropy_with_integer_labels(columns, target)) / 2

    return contrast


def plain_linear_cross_entropy(layer: Any) -> Callable[..., Array]:
    """Logits, their log-softmax, and the entry of the target."""

    def loss(params: Any, x: tuple[Array, Array], context: Context) -> Array:
        h, target = x
        z = h @ params.w if params.b is None else h @ params.w + params.b
        if layer.soft_cap is not None:
            z = layer.soft_cap * jnp.tanh(z / layer.soft_cap)
        log_p = jax.nn.log_softmax(z)
        values = -(1 - layer.label_smoothing) * of_class(log_p, jnp.maximum(target, 0))
        if layer.label_smoothing:
            values = values - layer.label_smoothing * log_p.mean(-1)
        values = values + layer.z_loss * jnp.square(jax.nn.logsumexp(z, -1))
        counted = context.mask
        if layer.ignore_index is not None:
            counted = target != layer.ignore_index
        return reduced(layer, values, counted)

    return loss


def plain_ctc(layer: Any) -> Callable[..., Array]:
    """`optax.ctc_loss`, which takes one batch axis and 1 where a step or a label is padding."""

    def loss(params: Any, x: tuple[Array, Array], context: Context) -> Array:
        z, target = x
        mask = jnp.ones(z.shape[:-1], bool) if context.mask is None else context.mask
        paddings = (~mask).astype(z.dtype), (target == layer.ignore_index).astype(z.dtype)
        values = optax.ctc_loss(z, paddings[0], jnp.maximum(target, 0), paddings[1])
        return reduced(layer, values, None)

    return loss


# --- wrong backward passes ------------------------------------------------------------------------


def uniform_cotangent(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """The weight gradient of a uniform cotangent, whatever dy says: as if made in forward."""
    dx, _ = layer.backward(params, residuals, dy)
    _, dparams = layer.backward(params, residuals, jnp.full_like(dy, dy.mean()))
    return dx, dparams


def norm_held_constant(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """The derivative of the norm forgotten: da = −ŷ dC / ‖a‖."""
    a, y, _, counted = residuals
    (_, dtarget), _ = layer.backward(params, residuals, dy)
    return (layer.spread(dy, -a.scale * y.direction, counted), dtarget), ()


def weight_not_differentiated(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """The focal weight (1 − p)^γ taken for a constant."""
    log_p, _, target, counted = residuals
    p = jnp.take_along_axis(jnp.exp(log_p), target[..., None], -1)
    y = jax.nn.one_hot(target, log_p.shape[-1], dtype=log_p.dtype)
    slope = (1 - p) ** layer.gamma * (jnp.exp(log_p) - y)
    return (layer.spread(dy, slope, counted), None), ()


def one_direction(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """Only a against b, in a symmetric loss."""
    return layer.backward(params, residuals._replace(columns=residuals.rows), dy)


class EqualLabelsTouch(losses.CTC):
    """A path may go from a label to an equal one without the blank between them."""

    def _repeats(self, target: Array) -> Array:
        return jnp.zeros_like(super()._repeats(target))


class BlankForgotten(losses.CTC):
    """The blanks between the labels taken for no class."""

    def _gamma(self, residuals: Any) -> Array:
        return super()._gamma(residuals).at[..., self.blank].set(0)


def backward_of(kind: type) -> Callable[..., Any]:
    """The backward of another kind of layer with the same configuration."""
    return lambda layer, *arguments: kind(**vars(layer)).backward(*arguments)


def ways_of_another_step(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """The paths go back by the ways of another step."""
    came = jax.tree.map(lambda share: jnp.roll(share, 1, 0), residuals.came)
    return layer.backward(params, residuals._replace(came=came), dy)


def padding_counts(layer: Any, params: Any, residuals: Any, dy: Array) -> Any:
    """Paths go on to the last step of the array, and not of the sequence."""
    return layer.backward(params, residuals._replace(steps=None), dy)


VECTORS = (Normal((5, 4)), Normal((5, 4)))
EMBEDDINGS = (Normal((512, 512)), Normal((512, 512)))
DISTRIBUTIONS = (Normal((4096, 1024)), Probabilities((4096, 1024)))
SCORES = (Normal((4096, 1024)), Classes((4096,), 1024))
WORDS = (Normal((1024, 256)), Classes((1024,), 16_384))
SOME_WORDS = (Normal((1024, 256)), Classes((1024,), 16_384, ignored=-1))
SPEECH = (Normal((32, 256, 64)), Spelled((32, 48), 64))  # a second or more of letters
EVERYTHING: dict[str, Any] = {
    "bias": True,
    "label_smoothing": 0.1,
    "ignore_index": -1,
    "z_loss": 0.01,
    "soft_cap": 3.0,
    "reduction": "none",
}


def row(
    name: str, layer: Any, x: Any, function: Callable[..., Array], large: Any, **options: Any
) -> Row:
    """A loss and its plain form; `large` is an x, or an x and a mask."""
    sizes = (layer, *large) if "mask" in options else (layer, large)
    return Row(name, layer, x, plain=plain(layer, function), large=sizes, **options)


MORE_LOSSES = (
    row(
        "KLDivergence",
        losses.KLDivergence(),
        (Normal((5, 7)), Probabilities((5, 7))),
        optax.kl_divergence,
        DISTRIBUTIONS,
    ),
    row(
        "KLDivergence, masked, unreduced",
        losses.KLDivergence(reduction="none"),
        (Normal((3, 2, 7)), Probabilities((3, 2, 7))),
        optax.kl_divergence,
        (DISTRIBUTIONS, Mask((4096,))),
        mask=Mask((3, 2)),
    ),
    row(
        "FocalLoss",
        losses.FocalLoss(),
        (Normal((5, 7)), Classes((5,), 7)),
        plain_focal(2.0),
        SCORES,
        promise=("time", "memory"),
        mutants=(Mutant("the focal weight taken for a constant", weight_not_differentiated),),
    ),
    row(
        "FocalLoss, γ below 1",
        losses.FocalLoss(0.5, reduction="sum"),
        (Normal((5, 7)), Classes((5,), 7)),
        plain_focal(0.5),
        SCORES,
    ),
    row(
        "CosineDistance",
        losses.CosineDistance(),
        VECTORS,
        optax.cosine_distance,
        EMBEDDINGS,
        promise=("time", "memory"),
        mutants=(Mutant("the norm held constant", norm_held_constant),),
    ),
    row(
        "TripletMargin",
        losses.TripletMargin(),
        (Normal((5, 4)), VECTORS),
        plain_triplet(1.0),
        (EMBEDDINGS[0], EMBEDDINGS),
    ),
    row(
        "TripletMargin, unreduced",
        losses.TripletMargin(2.0, reduction="none"),
        (Normal((2, 3, 4)), (Normal((2, 3, 4)), Normal((2, 3, 4)))),
        plain_triplet(2.0),
        (EMBEDDINGS[0], EMBEDDINGS),
    ),
    row(
        "InfoNCE",
        losses.InfoNCE(0.5),
        VECTORS,
        plain_contrast(0.5),
        EMBEDDINGS,
        batched=False,
        reason="the examples of a batch are told apart from each other",
    ),
    row(
        "InfoNCE, symmetric, masked",
        losses.InfoNCE(0.5, symmetric=True, reduction="sum"),
        (Normal((2, 5, 4)), Normal((2, 5, 4))),
        plain_contrast(0.5, symmetric=True),
        (EMBEDDINGS, Mask((512,), 512)),  # nothing hidden: the plain form would take it along
        mask=Mask((2, 5)),
        mutants=(Mutant("one direction alone", one_direction),),
    ),
    Row(
        "LinearCrossEntropy",
        losses.LinearCrossEntropy(11, chunk=4),
        (Normal((3, 3, 5)), Classes((3, 3), 11)),
        plain=plain_linear_cross_entropy(losses.LinearCrossEntropy(11)),
        large=(losses.LinearCrossEntropy(16_384), WORDS),
        promise=("memory",),
    ),
    Row(
        "LinearCrossEntropy, everything",
        losses.LinearCrossEntropy(11, chunk=4, **EVERYTHING),
        (Normal((10, 5), scale=3.0), Classes((10,), 11, ignored=-1)),
        plain=plain_linear_cross_entropy(losses.LinearCrossEntropy(11, **EVERYTHING)),
        large=(losses.LinearCrossEntropy(16_384, **EVERYTHING), SOME_WORDS),
        promise=("memory",),
        mutants=(Mutant("weight gradient of a uniform cotangent", uniform_cotangent),),
    ),
    Row(
        "LinearCrossEntropy, masked, one chunk",
        losses.LinearCrossEntropy(7, bias=True, reduction="sum"),
        (Normal((3, 4, 5)), Classes((3, 4), 7)),
        mask=Mask((3, 4)),
        plain=plain_linear_cross_entropy(losses.LinearCrossEntropy(7, reduction="sum")),
        large=(
            losses.LinearCrossEntropy(16_384, bias=True, reduction="sum"),
            WORDS,
            Mask((1024,), 900),
        ),
        promise=("memory",),
    ),
    Row(
        "CTC",
        losses.CTC(),
        (Normal((4, 9, 3)), Spelled((4, 4))),
        plain=plain_ctc(losses.CTC()),
        large=(losses.CTC(), SPEECH),
        promise=("memory",),
        mutants=(
            Mutant("equal labels without a blank between them", backward_of(EqualLabelsTouch)),
            Mutant("the share of the blanks left out", backward_of(BlankForgotten)),
            Mutant("back by the ways of another step", ways_of_another_step),
        ),
    ),
    Row(
        "CTC, masked steps, unreduced, large logits",
        losses.CTC(reduction="none"),
        (Normal((2, 8, 5), scale=30.0), Spelled((2, 3), 5)),
        mask=Mask((2, 8), 5),
        plain=plain_ctc(losses.CTC(reduction="none")),
        large=(losses.CTC(reduction="none"), SPEECH, Mask((32, 256), 96)),
        promise=("memory",),
        mutants=(Mutant("the steps of padding counted", padding_counts),),
    ),
    Row(
        "CTC, masked examples, another blank",
        losses.CTC(blank=4, ignore_index=9),
        (Normal((3, 2, 7, 5)), Classes((3, 2, 3), 4)),
        mask=Mask((3, 2)),
    ),
)
