"""Layers that send back something else than their derivative, and layers that are frozen.

What they send back is the derivative of another function, which `surrogate` writes out. There is no
row for those that are linear in dy no more, Clipped and Noisy, nor for SignSymmetric with its
batch-wise random magnitudes, which in float64 are others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.lax import stop_gradient

from funcprop import layers
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Mutant, Row
from funcprop.composites import RewiredParams, Serial
from funcprop.layer import Array, Context, Layer, Params
from funcprop.rewiring.cotangents import Reversed, StraightThrough
from funcprop.rewiring.direct import DirectFeedback
from funcprop.rewiring.feedback import FeedbackAligned, KolenPollack, SignSymmetric
from funcprop.rewiring.freezing import Frozen


@dataclass(frozen=True)
class Of(Layer):
    """y = function(params, x), for its derivative."""

    function: Callable[[Params, Any], Any]

    def forward(self, params: Params, x: Any, context: Context = Context()) -> tuple[Any, tuple]:
        return self.function(params, x), ()


def slope_of(y: Any) -> Any:
    """Zero, with the derivative of y."""
    return jax.tree.map(lambda leaf: leaf - stop_gradient(leaf), y)


def sent_by(layer: Layer, weights: Callable[[RewiredParams], Array], learns: bool = False) -> Layer:
    """A layer with weights whose dx is made with others; where it `learns`, these have dw too."""

    def function(params: RewiredParams, x: Array) -> Array:
        own = params.params
        other = stop_gradient(own._replace(w=weights(params)))
        z = layer.forward(own, stop_gradient(x))[0] + slope_of(layer.forward(other, x)[0])
        if learns:
            z += slope_of(layer.forward(other._replace(w=params.feedback), stop_gradient(x))[0])
        return z

    return Of(function)


def feedback_of(params: RewiredParams) -> Array:
    return params.feedback


def signs_of(params: RewiredParams) -> Array:
    w = params.params.w
    v = jnp.sign(w) if isinstance(params.feedback, tuple) else jnp.sign(w) * params.feedback
    return v * jnp.sqrt(jnp.sum(w * w) / jnp.sum(v * v))


def reversed_dense(params: RewiredParams, x: Array) -> Array:
    w, b = params.params
    return stop_gradient(x) @ w + b - 0.7 * slope_of(x @ stop_gradient(w))


def heard_directly(params: RewiredParams, x: Array) -> Array:
    """Three dense layers, the first two of which hear dy by B: dh = dy B."""
    (one, _, two, _, three), (b, c) = params
    first = jnp.tanh(x @ one.w + one.b)
    second = jnp.tanh(stop_gradient(first) @ two.w + two.b)
    y = stop_gradient(second) @ three.w + three.b
    return y + slope_of(first @ stop_gradient(b).T) + slope_of(second @ stop_gradient(c).T)


def through_beyond(layer: Any, params: Params, inside: Array, dy: Array) -> Any:
    """dx = dy: what lies outside grows for ever."""
    return dy, ()


def learning(layer: Any, params: RewiredParams, residuals: Any, dy: Any) -> Any:
    """A frozen layer with the gradient that it would have."""
    dx, dparams = layer.layer.backward(params.params, residuals, dy)
    return dx, RewiredParams(dparams, ())


def w_learning(layer: Any, params: Any, residuals: Any, dz: Array) -> Any:
    """LoRA with the gradient of the large matrix."""
    dx, dparams = layer.backward(params, residuals, dz)
    return dx, dparams._replace(w=jnp.tensordot(residuals.x, dz, (0, 0)))


def not_scaled(layer: Any, params: Any, residuals: Any, dz: Array) -> Any:
    """dc without s = alpha / rank."""
    dx, dparams = layer.backward(params, residuals, dz)
    return dx, dparams._replace(c=dparams.c / layer.scale)


def by_w(layer: Any, params: RewiredParams, residuals: Any, dy: Any) -> Any:
    """The layer's own dx."""
    _, dparams = layer.backward(params, residuals, dy)
    return layer.layer.backward(params.params, residuals, dy)[0], dparams


def by_signs_alone(layer: Any, params: RewiredParams, residuals: Any, dy: Any) -> Any:
    """V = sign(w), which is of another norm than w."""
    _, dparams = layer.backward(params, residuals, dy)
    own = params.params
    return layer.layer.backward(own._replace(w=jnp.sign(own.w)), residuals, dy)[0], dparams


def feedback_still(layer: Any, params: RewiredParams, residuals: Any, dy: Any) -> Any:
    """dB = 0: B never becomes w."""
    dx, dparams = layer.backward(params, residuals, dy)
    return dx, dparams._replace(feedback=jnp.zeros_like(params.feedback))


def in_chain(layer: Any, params: RewiredParams, residuals: Any, dy: Any) -> Any:
    """The chain rule in the place of direct feedback."""
    _, dparams = layer.backward(params, residuals, dy)
    dx, own = layer.serial.backward(params.params, residuals, dy)
    return dx, dparams._replace(params=own)


OWN = Mutant("the layer's own dx", by_w)
X = Normal((5, 4))
DENSE, CONV = layers.Dense(3), layers.Conv(3, (3, 2))
BLOCKS = (layers.Dense(6), layers.Tanh(), layers.Dense(5), layers.Tanh(), layers.Dense(3))
REWIRING = (
    Row(
        "LoRA",
        layers.LoRA(3, 2, alpha=5.0),
        X,
        mutants=(Mutant("w learns", w_learning), Mutant("dc without its scale", not_scaled)),
    ),
    Row("LoRA on sequences, no bias", layers.LoRA(5, 7, bias=False), Normal((2, 3, 4))),
    Row(
        "Binarize",
        layers.Binarize(),
        Normal((5, 7)),
        surrogate=layers.HardTanh(),
        mutants=(Mutant("dy sent on beyond the limits", through_beyond),),
    ),
    Row(
        "Quantize",
        layers.Quantize(4, low=-1.0, high=1.5),
        Normal((5, 7)),
        surrogate=Of(lambda params, x: jnp.clip(x, -1.0, 1.5)),
        mutants=(Mutant("dy sent on beyond the limits", through_beyond),),
    ),
    Row(
        "StraightThrough",
        StraightThrough(layers.Binarize()),
        Normal((5, 7)),
        surrogate=Of(lambda params, x: x),
        mutants=(OWN,),
    ),
    Row("Frozen", Frozen(DENSE), X, mutants=(Mutant("it learns", learning),)),
    Row("Frozen in a Serial", Serial(Frozen(Serial(*BLOCKS[:2])), DENSE), X),
    Row(
        "Reversed",
        Reversed(DENSE, 0.7),
        X,
        surrogate=Of(reversed_dense),
        mutants=(OWN,),
    ),
    Row(
        "FeedbackAligned",
        FeedbackAligned(DENSE),
        X,
        surrogate=sent_by(DENSE, feedback_of),
        mutants=(OWN,),
    ),
    Row(
        "FeedbackAligned, convolution",
        FeedbackAligned(CONV),
        Normal((2, 5, 4, 2)),
        surrogate=sent_by(CONV, feedback_of),
        mutants=(OWN,),
    ),
    Row(
        "KolenPollack",
        KolenPollack(DENSE),
        X,
        surrogate=sent_by(DENSE, feedback_of, learns=True),
        mutants=(OWN, Mutant("B stands still", feedback_still)),
    ),
    Row(
        "SignSymmetric",
        SignSymmetric(DENSE),
        X,
        surrogate=sent_by(DENSE, signs_of),
        mutants=(OWN, Mutant("V not of the norm of w", by_signs_alone)),
    ),
    Row(
        "SignSymmetric, fixed random",
        SignSymmetric(DENSE, "fixed random"),
        X,
        surrogate=sent_by(DENSE, signs_of),
        mutants=(OWN,),
    ),
    Row(
        "DirectFeedback",
        DirectFeedback(*BLOCKS),
        X,
        surrogate=Of(heard_directly),
        mutants=(Mutant("the chain rule", in_chain),),
    ),
)
