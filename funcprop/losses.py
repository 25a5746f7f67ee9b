"""Losses: parameterless layers on (prediction, target) with a scalar output.

The value of an example sums over the features (the last axis) unless the name says mean;
`reduction` says what becomes of the examples: "mean", "sum", or "none" for one value each. Where
`context.mask` has the shape of those values it selects the examples that count, and the mean is
over them alone. A mask with more axes speaks of something the loss does not see.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Context,
    Layer,
    LayerError,
    check_choice,
    check_cotangent,
    check_number,
    concrete,
    is_float,
    is_integer,
    spell,
    widen,
)

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class Loss(Layer):
    """What losses share: their input is a pair, and the examples are reduced in one place."""

    reduction: Reduction = dataclasses.field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self, "reduction", self.reduction, ("mean", "sum", "none"))

    def pair(self, x: Any) -> tuple[Array, Array]:
        """(prediction, target) with features, not empty."""
        if not isinstance(x, tuple) or len(x) != 2:
            raise LayerError(self, f"x is {spell(x)}, wanted a tuple (prediction, target)")
        prediction, target = x
        if not is_float(prediction) or prediction.ndim == 0 or not hasattr(target, "dtype"):
            raise LayerError(
                self, f"x is {spell(x)}, wanted floats [..., features] and a target array"
            )
        if prediction.size == 0:
            raise LayerError(self, f"the batch is empty: the prediction is {spell(prediction)}")
        return prediction, target

    def same_shape(self, x: Any) -> tuple[Array, Array]:
        """(prediction, target) of one shape and dtype."""
        prediction, target = self.pair(x)
        if (prediction.shape, prediction.dtype) != (target.shape, target.dtype):
            raise LayerError(
                self,
                f"prediction is {spell(prediction)} and target {spell(target)}: "
                "shape and dtype must agree",
                "integer labels need jax.nn.one_hot(labels, classes), or SoftmaxCrossEntropy",
            )
        return prediction, target

    def counted(self, shape: tuple[int, ...], *masks: Array | None) -> Array | None:
        """bool [...]: the examples that count, or None where all do."""
        counted = None
        for mask in masks:
            if mask is None or mask.ndim > len(shape):
                continue
            if mask.shape != shape or mask.dtype != bool:
                raise LayerError(
                    self,
                    f"the mask is {spell(mask)}, wanted bool[{', '.join(map(str, shape))}]: "
                    "one truth value for each value of the loss",
                )
            counted = mask if counted is None else counted & mask
        known = None if counted is None else concrete(counted)
        if known is not None and self.reduction == "mean" and not known.any():
            raise LayerError(self, "every example is masked or ignored: a mean over none of them")
        return counted

    def reduce(self, values: Array, counted: Array | None, dtype: Any) -> Array:
        """values [...] -> the loss in `dtype`: [] or, unreduced, [...]."""
        number = values.size
        if counted is not None:
            # what does not count may be infinite or NaN: it is replaced, not multiplied by zero
            values, number = jnp.where(counted, values, 0), counted.sum().astype(values.dtype)
        if self.reduction != "none":
            values = values.sum() / number if self.reduction == "mean" else values.sum()
        return values.astype(dtype)

    def spread(self, dy: Array, slope: Array, counted: Array | None) -> Array:
        """The transpose of `reduce`, times the slope of each value: dy -> [..., features].

        Exactly zero where an example does not count, whatever it holds.
        """
        shape = slope.shape[:-1]
        check_cotangent(
            self, dy, shape if self.reduction == "none" else (), getattr(dy, "dtype", "float32")
        )
        dvalues = widen(dy)
        if self.reduction == "mean":
            size = math.prod(shape)
            dvalues = dvalues / (size if counted is None else counted.sum().astype(dvalues.dtype))
        product = dvalues[..., None] * widen(slope)
        if counted is not None:
            product = jnp.where(counted[..., None], product, 0)
        return product.astype(dy.dtype)


class DifferenceResiduals(NamedTuple):
    """What the losses of a − y keep."""

    difference: Array  # a − y [..., features]: the derivative is a function of it
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class QuadraticCost(Loss):
    """C = ½‖a − y‖² per example, with the ½, summed over the features (Nielsen's cost).

    forward   (a, y), both [..., features] -> C
    keeps     a − y
    backward  da = (a − y) dC    dy = −da
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DifferenceResiduals]:
        a, y = self.same_shape(x)
        difference = a - y
        counted = self.counted(a.shape[:-1], context.mask)
        values = 0.5 * jnp.sum(jnp.square(widen(difference)), -1)
        return self.reduce(values, counted, a.dtype), DifferenceResiduals(difference, counted)

    def backward(
        self, params: tuple, residuals: DifferenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        difference, counted = residuals
        da = self.spread(dy, difference, counted)
        return (da, -da), ()


@dataclass(frozen=True)
class MeanSquaredError(Loss):
    """(1/D) Σ (a − y)² per example: the mean over the D features, without a ½.

    forward   (a, y), both [..., features] -> the mean squared error
    keeps     a − y
    backward  da = (2/D)(a − y) dC    dy = −da
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DifferenceResiduals]:
        a, y = self.same_shape(x)
        difference = a - y
        counted = self.counted(a.shape[:-1], context.mask)
        values = jnp.mean(jnp.square(widen(difference)), -1)
        return self.reduce(values, counted, a.dtype), DifferenceResiduals(difference, counted)

    def backward(
        self, params: tuple, residuals: DifferenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        difference, counted = residuals
        da = self.spread(dy, difference * (2 / difference.shape[-1]), counted)
        return (da, -da), ()


@dataclass(frozen=True)
class Huber(Loss):
    """Σ h(a − y) per example, h(d) = ½d² where |d| ≤ δ, δ(|d| − ½δ) beyond (Huber, 1964).

    forward   (a, y), both [..., features] -> the loss
    keeps     a − y
    backward  da = clip(a − y, −δ, δ) dC    dy = −da
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "delta", self.delta, 0)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, DifferenceResiduals]:
        a, y = self.same_shape(x)
        difference = a - y
        counted = self.counted(a.shape[:-1], context.mask)
        size = jnp.abs(widen(difference))
        inner = jnp.minimum(size, self.delta)  # ½d² inside, δ|d| − ½δ² outside, in one expression
        values = jnp.sum(inner * (size - 0.5 * inner), -1)
        return self.reduce(values, counted, a.dtype), DifferenceResiduals(difference, counted)

    def backward(
        self, params: tuple, residuals: DifferenceResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        difference, counted = residuals
        da = self.spread(dy, jnp.clip(difference, -self.delta, self.delta), counted)
        return (da, -da), ()


class BinaryResiduals(NamedTuple):
    """What BinaryCrossEntropy keeps."""

    z: Array  # logits [..., features]: σ(z) is cheap, and dy needs z itself
    y: Array  # targets [..., features]
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """−Σ (y log σ(z) + (1 − y) log(1 − σ(z))) per example, from logits, summed over the features.

    This is Nielsen's cross-entropy cost of sigmoid outputs; a mean over D features is 1/D of it.
    Targets lie in [0, 1]: outside, an error, or NaN where their values are not known yet.

    forward   (z, y), both [..., features] -> the loss
    keeps     z, y
    backward  dz = (σ(z) − y) dC    dy = −z dC
    """

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, BinaryResiduals]:
        z, y = self.same_shape(x)
        counted = self.counted(z.shape[:-1], context.mask)
        check_range(self, y, counted, "targets in [0, 1]", lambda v: (v >= 0) & (v <= 1))
        wide, target = widen(z), widen(jnp.where((y >= 0) & (y <= 1), y, jnp.nan))
        values = jnp.maximum(wide, 0) - wide * target + jnp.log1p(jnp.exp(-jnp.abs(wide)))
        return self.reduce(values.sum(-1), counted, z.dtype), BinaryResiduals(z, y, counted)

    def backward(
        self, params: tuple, residuals: BinaryResiduals, dy: Array
    ) -> tuple[tuple[Array, Array], tuple]:
        z, y, counted = residuals
        inside = (y >= 0) & (y <= 1)
        dz = self.spread(dy, jnp.where(inside, jax.nn.sigmoid(z) - y, jnp.nan), counted)
        return (dz, self.spread(dy, -z, counted)), ()


class CrossEntropyResiduals(NamedTuple):
    """What SoftmaxCrossEntropy keeps."""

    z: Array  # logits [..., classes]
    target: Array  # int [...] or float [..., classes]
    peak: Array  # max z [..., 1]: apart from the logarithm, so that large logits stay exact
    log_total: Array  # log Σ e^(z − peak) [..., 1]; NaN where the target is not a class
    counted: Array | None  # bool [...]: the examples that count, where any was masked or ignored


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """−Σᵢ yᵢ log pᵢ per example, p = softmax(z): from logits.

    Targets are integer classes [...] or probabilities [..., classes]. `label_smoothing` α mixes
    them with the uniform distribution: (1 − α) y + α / classes. Examples whose integer target is
    `ignore_index` do not count. A target that is neither a class nor a distribution is an error,
    or NaN where its value is not known yet.

    forward   (z, y) -> the loss
    keeps     z, the target, the maximum and the log-sum-exp of z above it
    backward  dz = (p Σy − y) dC    dy = −(1 − α) log p dC (None for integer classes)
    """

    label_smoothing: float = 0.0
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "label_smoothing", self.label_smoothing, 0, 1)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, CrossEntropyResiduals]:
        z, target = self.pair(x)
        wide = widen(z)
        peak = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
        log_total = jnp.log(jnp.sum(jnp.exp(wide - peak), -1, keepdims=True))
        if is_integer(target):
            counted = self._counted_classes(z, target, context.mask)
            valid = valid_classes(self, target, z.shape[-1], counted)
            log_total = jnp.where(valid[..., None], log_total, jnp.nan)
            safe = jnp.clip(target, 0, z.shape[-1] - 1)[..., None]
            log_p = jnp.take_along_axis(wide, safe, -1) - peak - log_total
            values = -(1 - self.label_smoothing) * log_p[..., 0]
            if self.label_smoothing:
                mean = jnp.mean(wide - peak - log_total, -1)
                values = values - self.label_smoothing * mean
        else:
            _, target = self.same_shape(x)
            counted = self.counted(z.shape[:-1], context.mask)
            wanted = "probabilities, not negative and of sum 1"
            total, least = widen(target).sum(-1), widen(target).min(-1)
            check_range(self, least, counted, wanted, lambda v: v >= 0)
            check_range(self, total, counted, wanted, lambda v: abs(v - 1) < 1e-2)
            fits = (jnp.abs(total - 1) < 1e-2) & (least >= 0)
            log_total = jnp.where(fits[..., None], log_total, jnp.nan)
            y = self._smooth(widen(target))
            values = -jnp.sum(jnp.where(y == 0, 0, y * (wide - peak - log_total)), -1)
            values = jnp.where(fits, values, jnp.nan)
        kept = CrossEntropyResiduals(z, target, peak, log_total, counted)
        return self.reduce(values, counted, z.dtype), kept

    def backward(
        self, params: tuple, residuals: CrossEntropyResiduals, dy: Array
    ) -> tuple[tuple[Array, Array | None], tuple]:
        z, target, peak, log_total, counted = residuals
        log_p = widen(z) - peak - log_total
        p = jnp.exp(log_p)
        if is_integer(target):
            y = self._smooth(jax.nn.one_hot(target, z.shape[-1], dtype=p.dtype))
            return (self.spread(dy, p - y, counted), None), ()
        y = self._smooth(widen(target))
        dz = self.spread(dy, p * y.sum(-1, keepdims=True) - y, counted)
        return (dz, self.spread(dy, -(1 - self.label_smoothing) * log_p, counted)), ()

    def _smooth(self, y: Array) -> Array:
        return (1 - self.label_smoothing) * y + self.label_smoothing / y.shape[-1]

    def _counted_classes(self, z: Array, target: Array, mask: Array | None) -> Array | None:
        check_classes(self, z, target)
        ignored = None if self.ignore_index is None else target != self.ignore_index
        return self.counted(target.shape, mask, ignored)


class HingeResiduals(NamedTuple):
    """What Hinge keeps."""

    active: Array  # bool [..., classes]: the wrong classes inside the margin
    target: Array  # int [...]
    counted: Array | None  # bool [...]: the examples that count, where a mask was given


@dataclass(frozen=True)
class Hinge(Loss):
    """Σ_{j ≠ t} max(0, zⱼ − z_t + margin) per example (Weston and Watkins, 1999).

    forward   (z, t): scores [..., classes], integer classes [...] -> the loss
    keeps     which wrong classes lie inside the margin
    backward  dzⱼ = [active] dC    dz_t = −(number active) dC; 0 exactly at the margin
    """

    margin: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "margin", self.margin, 0)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, HingeResiduals]:
        z, target = self.pair(x)
        check_classes(self, z, target)
        counted = self.counted(target.shape, context.mask)
        valid = valid_classes(self, target, z.shape[-1], counted)
        wide, classes = widen(z), jnp.arange(z.shape[-1], dtype=target.dtype)
        safe = jnp.clip(target, 0, z.shape[-1] - 1)[..., None]
        excess = wide - jnp.take_along_axis(wide, safe, -1) + self.margin
        active = (excess > 0) & (classes != target[..., None])
        values = jnp.where(valid, jnp.sum(jnp.where(active, excess, 0), -1), jnp.nan)
        return self.reduce(values, counted, z.dtype), HingeResiduals(active, target, counted)

    def backward(
        self, params: tuple, residuals: HingeResiduals, dy: Array
    ) -> tuple[tuple[Array, None], tuple]:
        active, target, counted = residuals
        wrong = active.astype(dy.dtype)
        right = jax.nn.one_hot(target, active.shape[-1], dtype=dy.dtype)
        slope = wrong - right * wrong.sum(-1, keepdims=True)
        valid = (target >= 0) & (target < active.shape[-1])
        return (self.spread(dy, jnp.where(valid[..., None], slope, jnp.nan), counted), None), ()


def check_classes(loss: Loss, z: Array, target: Array) -> None:
    """target: integers, one for each row of z."""
    if not is_integer(target) or target.shape != z.shape[:-1]:
        wanted = ", ".join(map(str, z.shape[:-1]))
        raise LayerError(
            loss,
            f"prediction is {spell(z)} and target {spell(target)}, wanted int[{wanted}]",
            "one integer class for each row of the prediction",
        )


def valid_classes(loss: Loss, target: Array, classes: int, counted: Array | None) -> Array:
    """bool [...]: a class, or an example that does not count. Raises where values are known."""
    check_range(
        loss,
        target,
        counted,
        f"classes from 0 to {classes - 1}",
        lambda v: (v >= 0) & (v < classes),
    )
    valid = (target >= 0) & (target < classes)
    return valid if counted is None else valid | ~counted


def check_range(
    loss: Loss, values: Array, counted: Array | None, wanted: str, fits: Callable[[Any], Any]
) -> None:
    """Values that are known must fit, in the examples that count."""
    known = concrete(values)
    if known is None:
        return
    wrong = ~np.asarray(fits(known))
    if counted is not None:
        used = concrete(counted)
        if used is None:
            return
        wrong = wrong & used.reshape(used.shape + (1,) * (wrong.ndim - used.ndim))
    if wrong.any():
        place = tuple(map(int, np.argwhere(wrong)[0]))
        raise LayerError(loss, f"the target at {place} is {known[place]}, wanted {wanted}")
