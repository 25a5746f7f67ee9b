"""Losses of classes, from logits or scores."""

from __future__ import annotations

import sys
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import Array, Context, LayerError, check_number, is_integer, spell, widen
from funcprop.losses.loss import (
    Loss,
    check_classes,
    check_index,
    check_range,
    less_one,
    one_hot,
    valid_classes,
)


class CrossEntropyResiduals(NamedTuple):
    """What SoftmaxCrossEntropy keeps: of z and e^z one, the one that serves."""

    z: Array | None  # logits [..., classes], where e^z would be larger, or dy needs log p
    less: Array | None  # e^(z − peak), less 1 in the target [..., classes]: made but once
    target: Array  # int [...] or float [..., classes]
    peak: Array  # max z [..., 1]: apart from the logarithm, so that large logits stay exact
    rest: Array  # Σ e^(z − peak) − 1 [..., 1], small where p is almost 1; NaN for no class
    counted: Array | None  # bool [...]: the examples that count, where any was masked or ignored


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """−Σᵢ yᵢ log pᵢ per example, p = softmax(z): from logits.

    Targets are integer classes [...] or probabilities [..., classes]. `label_smoothing` α mixes
    them with the uniform distribution: (1 − α) y + α / classes. Examples whose integer target is
    `ignore_index` do not count. A target that is neither a class nor a distribution is an error,
    or NaN where its value is not known yet.

    `weight`, one number a class, multiplies the terms of the sum, those of label smoothing too. A
    mean over integer classes is then divided by the sum of their weights, and one over
    distributions by their number.

    forward   (z, y): z [..., classes], y as above -> the loss
    keeps     e^(z − max z) and its sum (z itself where that is narrower, or the target a
              distribution), and the target
    backward  dz = (p Σy − y) dC    dy = −(1 − α) log p dC (None for integer classes); with weights
              w y stands for y, and w log p for log p
    dtypes    z of any float, which the loss and dz have; classes of any integer dtype,
              probabilities of the dtype of z; sums are made in float32 at least
    raises    LayerError where reduction is unknown, label_smoothing not in [0, 1), weight no tuple
              of one finite number a class, x is no pair or empty, the target fits neither
              form, one that counts is known and neither a class nor a distribution, a mask is not
              bool [...], a mean is over no example, or dC has not the shape of the loss
    source    Nielsen, Neural Networks and Deep Learning, chapter 3; label smoothing: Szegedy et
              al., 2015, arXiv:1512.00567

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> loss, z, labels = fp.SoftmaxCrossEntropy(), jnp.zeros((2, 4)), jnp.array([0, 3])
    >>> C, residuals = loss.forward((), (z, labels))
    >>> (dz, _), _ = loss.backward((), residuals, jnp.ones(()))
    >>> print(f"{C:.3f}", dz[0])
    1.386 [-0.375  0.125  0.125  0.125]
    """

    _: KW_ONLY
    label_smoothing: float = 0.0
    ignore_index: int | None = None
    weight: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "label_smoothing", self.label_smoothing, 0, 1)
        if self.ignore_index is not None:
            check_index(self, self.ignore_index)
        if self.weight is not None:
            self._check_weight(self.weight)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, CrossEntropyResiduals]:
        z, target = self.pair(x)
        wide = widen(z)
        weight = self._weights(z)
        over = None
        peak = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
        e = jnp.exp(wide - peak)
        if is_integer(target):
            counted = self._counted_classes(z, target, context.mask)
            valid = valid_classes(self, target, z.shape[-1], counted)
            safe = jnp.clip(target, 0, z.shape[-1] - 1)
            less = less_one(e, one_hot(safe, z.shape[-1]))
            rest = jnp.where(valid[..., None], jnp.sum(less, -1, keepdims=True), jnp.nan)
            log_total = jnp.log1p(rest)
            behind = peak - jnp.take_along_axis(wide, safe[..., None], -1)
            values = (1 - self.label_smoothing) * (behind + log_total)[..., 0]
            if weight is not None:
                over = jnp.sum(jnp.where(one_hot(safe, z.shape[-1]), weight, 0), -1)
                values = over * values
            if self.label_smoothing:
                terms = (peak - wide) + log_total
                mean = jnp.mean(terms if weight is None else weight * terms, -1)
                values = values + self.label_smoothing * mean
        else:
            _, target = self.same_shape(x)
            counted = self.counted(z.shape[:-1], context.mask)
            wanted = "probabilities, not negative and of sum 1"
            mass, least = widen(target).sum(-1), widen(target).min(-1)
            check_range(self, least, counted, wanted, lambda v: v >= 0)
            check_range(self, mass, counted, wanted, lambda v: abs(v - 1) < 1e-2)
            fits = (jnp.abs(mass - 1) < 1e-2) & (least >= 0)
            largest = e == 1
            less = less_one(e, largest)
            more = jnp.sum(largest, -1, keepdims=True, dtype=e.dtype) - 1
            rest = jnp.where(fits[..., None], jnp.sum(less, -1, keepdims=True) + more, jnp.nan)
            log_total = jnp.log1p(rest)
            y = self._smooth(widen(target), weight)
            values = jnp.sum(jnp.where(y == 0, 0, y * ((peak - wide) + log_total)), -1)
            values = jnp.where(fits, values, jnp.nan)
        z, less = (None, less) if is_integer(target) and e.dtype == z.dtype else (z, None)
        kept = CrossEntropyResiduals(z, less, target, peak, rest, counted)
        return self.reduce(values, counted, x[0].dtype, over), kept

    def backward(
        self, params: tuple, residuals: CrossEntropyResiduals, dy: Array
    ) -> tuple[tuple[Array, Array | None], tuple]:
        z, less, target, peak, rest, counted = residuals
        total = rest + 1
        if is_integer(target):
            if less is None:
                assert z is not None
                less = less_one(jnp.exp(widen(z) - peak), one_hot(target, z.shape[-1]))
            own, alpha = one_hot(target, less.shape[-1]), self.label_smoothing
            # (p − y) total, and no difference of almost equal numbers
            slope = less - jnp.where(own, rest, 0)
            weight = self._weights(less)
            if weight is not None:
                each = jnp.sum(jnp.where(own, weight, 0), -1)
                slope = (1 - alpha) * each[..., None] * slope
                if alpha:
                    e = less + own.astype(less.dtype)
                    slope = slope + alpha * (weight.mean() * e - weight / less.shape[-1] * total)
                dy = self.reweighted(dy, each, counted)
            elif alpha:
                slope = slope + total * (jnp.where(own, alpha, 0) - alpha / less.shape[-1])
            return (self.spread(dy, slope, counted, total), None), ()
        assert z is not None
        log_p = widen(z) - peak - jnp.log(total)
        weight = self._weights(z)
        p, y = jnp.exp(log_p), self._smooth(widen(target), weight)
        dz = self.spread(dy, p * y.sum(-1, keepdims=True) - y, counted)
        dtarget = -(1 - self.label_smoothing) * (log_p if weight is None else weight * log_p)
        return (dz, self.spread(dy, dtarget, counted)), ()

    def _smooth(self, y: Array, weight: Array | None) -> Array:
        if self.label_smoothing:
            y = (1 - self.label_smoothing) * y + self.label_smoothing / y.shape[-1]
        return y if weight is None else weight * y

    def _check_weight(self, weight: tuple[float, ...]) -> None:
        if not isinstance(weight, tuple) or not weight:
            raise LayerError(
                self,
                f"weight is {spell(weight)}, wanted a tuple of one number a class",
                "write weight=tuple(weight.tolist()) for an array",
            )
        for place, value in enumerate(weight):
            check_number(self, f"weight[{place}]", value, -sys.float_info.max)

    def number(self, values: Array, target: Any) -> Any:
        if self.weight is None or not is_integer(target):
            return super().number(values, target)
        weight = jnp.asarray(self.weight, widen(values).dtype)
        counts = jnp.ones(target.shape, bool)
        if self.ignore_index is not None:
            counts = target != self.ignore_index
        return jnp.where(counts, weight[jnp.where(counts, target, 0)], 0).sum()

    def _weights(self, z: Array) -> Array | None:
        """[classes], in float32 at least."""
        if self.weight is None:
            return None
        if len(self.weight) != z.shape[-1]:
            raise LayerError(
                self,
                f"weight has {len(self.weight)} numbers, and the prediction {z.shape[-1]} classes",
            )
        return jnp.asarray(self.weight, widen(z).dtype)

    def _counted_classes(self, z: Array, target: Array, mask: Array | None) -> Array | None:
        check_classes(self, z, target)
        ignored = None if self.ignore_index is None else target != self.ignore_index
        return self.counted(target.shape, mask, ignored)


class FocalResiduals(NamedTuple):
    """What FocalLoss keeps."""

    log_p: Array  # log-probabilities [..., classes]; NaN where the target is not a class
    s: Array  # that of the target [...], to the last digit where it is small
    target: Array  # int [...]
    counted: Array | None  # bool [...]: the examples that count, where any was masked or ignored


@dataclass(frozen=True)
class FocalLoss(Loss):
    """−(1 − p)^γ log p per example, p the softmax probability of its class (Lin et al., 2017).

    forward   (z, t): logits [..., classes], integer classes [...] -> the loss
    keeps     the log-probabilities and the target
    backward  with s = log p: ds = (−(1 − p)^γ + γ (1 − p)^(γ−1) p s) dC    dz = ds (y − softmax z)
    dtypes    z of any float, which the loss and dz have; classes of any integer dtype; sums are
              made in float32 at least
    raises    LayerError where gamma is negative or reduction unknown, x is no pair or empty, t is
              not int [...], a class that counts is known and out of range, a mask is not bool
              [...], a mean is over no example, or dC has not the shape of the loss
    source    Lin, Goyal, Girshick, He and Dollár, 2017, arXiv:1708.02002

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> z, labels = jnp.zeros((1, 2)), jnp.array([0])
    >>> C, residuals = fp.FocalLoss().forward((), (z, labels))
    >>> print(f"{C:.3f}")  # ¼ log 2
    0.173
    """

    gamma: float = 2.0
    _: KW_ONLY
    ignore_index: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "gamma", self.gamma, 0)
        if self.ignore_index is not None:
            check_index(self, self.ignore_index)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, FocalResiduals]:
        z, target = self.pair(x)
        check_classes(self, z, target)
        ignored = None if self.ignore_index is None else target != self.ignore_index
        counted = self.counted(target.shape, context.mask, ignored)
        valid = valid_classes(self, target, z.shape[-1], counted)
        wide = widen(z)
        peak = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
        shifted = wide - peak
        own = one_hot(jnp.clip(target, 0, z.shape[-1] - 1), z.shape[-1])
        rest = jnp.sum(less_one(jnp.exp(shifted), own), -1, keepdims=True)
        rest = jnp.where(valid[..., None], rest, jnp.nan)
        log_p = shifted - jnp.log(rest + 1)
        s = self._of_class(wide, target) - peak[..., 0] - jnp.log1p(rest[..., 0])
        values = -((-jnp.expm1(s)) ** self.gamma) * s
        return self.reduce(values, counted, z.dtype), FocalResiduals(log_p, s, target, counted)

    def backward(
        self, params: tuple, residuals: FocalResiduals, dy: Array
    ) -> tuple[tuple[Array, None], tuple]:
        log_p, s, target, counted = residuals
        rest = -jnp.expm1(s)  # 1 − p, exact where p is almost 1
        ratio = jnp.where(rest > 0, s / jnp.where(rest > 0, rest, 1), -1)  # s/(1 − p) -> −1
        ds = rest**self.gamma * (self.gamma * jnp.exp(s) * ratio - 1)
        y = jax.nn.one_hot(target, log_p.shape[-1], dtype=log_p.dtype)
        return (self.spread(dy, ds[..., None] * (y - jnp.exp(log_p)), counted), None), ()

    def _of_class(self, log_p: Array, target: Array) -> Array:
        safe = jnp.clip(target, 0, log_p.shape[-1] - 1)[..., None]
        return jnp.take_along_axis(log_p, safe, -1)[..., 0]
