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
from typing import Any, Literal, NoReturn

import jax.numpy as jnp
import numpy as np

from funcprop.layer import (
    Array,
    Layer,
    LayerError,
    check_choice,
    check_cotangent,
    concrete,
    describe,
    is_float,
    is_integer,
    spell,
    widen,
)
from funcprop.sharding import whole

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class Loss(Layer):
    """What losses share: their input is a pair, and the examples are reduced in one place.

    forward   (prediction [..., features], target) -> [], or with reduction="none" [...]
    backward  dy [] or [...] -> (dprediction, dtarget), None for an integer target
    dtypes    prediction of any float; the loss has its dtype, sums are made in float32 at least
    raises    LayerError where reduction is unknown, x is no such pair or empty, a mask is not bool
              [...], or a mean is over no example

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> loss = fp.MeanSquaredError(reduction="none")
    >>> C, residuals = loss.forward((), (jnp.ones((2, 3)), jnp.zeros((2, 3))))
    >>> C
    Array([1., 1.], dtype=float32)
    """

    reduction: Reduction = dataclasses.field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check_choice(self, "reduction", self.reduction, ("mean", "sum", "none"))

    def __call__(self, *args: Any, **options: Any) -> NoReturn:
        """A loss is no function: raises TypeError."""
        raise TypeError(
            f"{describe(self)} is called, and a loss is no function: write "
            "value, residuals = loss.forward((), (prediction, target))"
        )

    def pair(self, x: Any) -> tuple[Array, Array]:
        """(prediction, target) with features, not empty."""
        if not isinstance(x, tuple) or len(x) != 2:
            raise LayerError(self, f"x is {spell(x)}, wanted a tuple (prediction, target)")
        prediction, target = x
        if is_integer(target) and target.dtype.itemsize < 4:
            target = target.astype(jnp.int32)  # so that no class wraps around
        if not is_float(prediction) or prediction.ndim == 0 or not hasattr(target, "dtype"):
            raise LayerError(
                self, f"x is {spell(x)}, wanted floats [..., features] and a target array"
            )
        if prediction.size == 0:
            raise LayerError(self, f"the batch is empty: the prediction is {spell(prediction)}")
        # a loss looks at all features of an example
        target = whole(target, prediction.ndim - 1) if target.ndim == prediction.ndim else target
        return whole(prediction, -1), target

    def same_shape(self, x: Any) -> tuple[Array, Array]:
        """(prediction, target) of one shape and dtype."""
        prediction, target = self.pair(x)
        if (prediction.shape, prediction.dtype) != (target.shape, target.dtype):
            raise LayerError(
                self,
                f"prediction is {spell(prediction)} and target {spell(target)}: "
                "shape and dtype must agree",
                self._remedy(prediction, target)
                or "write jax.nn.one_hot(labels, classes) for integer labels; those of "
                "SoftmaxCrossEntropy are integers: labels.astype(jnp.int32)",
            )
        return prediction, target

    def _remedy(self, prediction: Array, target: Any) -> str:
        """What to write where the target is one number an example, and the prediction [..., 1]."""
        if is_float(target) and prediction.shape == (*target.shape, 1):
            return "write target[..., None]: one feature an example, as the prediction has it"
        if is_float(target) and (*prediction.shape, 1) == target.shape:
            return "write target[..., 0], or a last layer with one feature: Dense(1)"
        return ""

    def counted(self, shape: tuple[int, ...], *masks: Array | None) -> Array | None:
        """bool [...]: the examples that count, or None where all do."""
        counted = None
        for mask in masks:
            if mask is None:
                continue
            if not hasattr(mask, "dtype"):
                raise LayerError(self, f"the mask is {spell(mask)}, wanted an array of bool")
            longer = mask.shape[: len(shape)] == shape and mask.size > math.prod(shape)
            if longer and mask.dtype == bool:
                continue  # of time, where the loss has one value for the whole sequence
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

    def reduce(
        self, values: Array, counted: Array | None, dtype: Any, over: Array | None = None
    ) -> Array:
        """values [...] -> the loss in `dtype`: [] or, unreduced, [...].

        A mean is divided by the number of values, or by the sum of `over` [...], their weights.
        """
        number: Any = values.size
        if counted is not None:
            # what does not count may be infinite or NaN: it is replaced, not multiplied by zero
            values, number = jnp.where(counted, values, 0), counted.sum().astype(values.dtype)
        if over is not None:
            number = self._total(over, counted)
        if self.reduction != "none":
            values = values.sum() / number if self.reduction == "mean" else values.sum()
        return values.astype(dtype)

    def number(self, values: Array, target: Any) -> Any:
        """What a mean of these values [...] divides by: how many they are, or of what weight."""
        ignored = getattr(self, "ignore_index", None)
        return values.size if ignored is None else (target != ignored).sum()

    def spread(
        self, dy: Array, slope: Array, counted: Array | None, over: Array | None = None
    ) -> Array:
        """The transpose of `reduce`, times the slope of each value: dy -> [..., features].

        Exactly zero where an example does not count, whatever it holds. `over` [..., 1] is what the
        slope is still to be divided by.
        """
        dvalues = self.share(dy, slope.shape[:-1], counted)[..., None]
        product = (dvalues if over is None else dvalues / over) * widen(slope)
        if counted is not None:
            product = jnp.where(counted[..., None], product, 0)
        return product.astype(dy.dtype)

    def share(self, dy: Array, shape: tuple[int, ...], counted: Array | None) -> Array:
        """The transpose of `reduce`: dy -> what each of the values [...] receives, [] or [...]."""
        dtype = getattr(dy, "dtype", "float32")
        check_cotangent(self, dy, shape if self.reduction == "none" else (), dtype)
        dvalues = widen(dy)
        if self.reduction != "mean":
            return dvalues
        size = math.prod(shape)
        return dvalues / (size if counted is None else counted.sum().astype(dvalues.dtype))

    def reweighted(self, dy: Array, over: Array, counted: Array | None) -> Array:
        """dy, so that `spread` divides that of a mean by the sum of `over`, not the number."""
        if self.reduction != "mean":
            return dy
        number: Any = over.size if counted is None else counted.sum().astype(over.dtype)
        return dy * (number / self._total(over, counted)).astype(dy.dtype)

    def _total(self, over: Array, counted: Array | None) -> Array:
        """The sum of the weights that count."""
        return (over if counted is None else jnp.where(counted, over, 0)).sum()


def less_one(e: Array, own: Array) -> Array:
    """e = e^(s − peak) less 1 in one entry of each row, where `own` is True.

    The sum of it is Σ e − 1, and log1p of that the log-sum-exp of s − peak: of the largest entry
    nothing is left, and the small ones keep their digits, which Σ e would lose.
    """
    return e - own.astype(e.dtype)


def one_hot(classes: Array, size: int) -> Array:
    """bool [..., size]: where the class stands."""
    return classes[..., None] == jnp.arange(size, dtype=classes.dtype)


def check_index(loss: Loss, index: int) -> None:
    """ignore_index is a whole number, of either sign."""
    if isinstance(index, bool) or not isinstance(index, int):
        raise LayerError(loss, f"ignore_index is {index!r}, wanted a whole number")


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
