"""Connectionist temporal classification: labels in order, whose places in time are not known."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.layer import Array, Context, LayerError, check_count, is_integer, spell, widen
from funcprop.losses.loss import Loss, check_index, check_range, less_one, one_hot
from funcprop.sharding import entries, fresh, varying, whole

LOG_ZERO = -1e30  # log 0, but finite: −∞ − (−∞) is NaN
NEVER = 1e29  # a loss above it is made of log 0


class States(NamedTuple):
    """A number for each state of a path: in the blank after n labels, or in the n-th label."""

    blank: Array  # [..., N + 1], of n = 0 to N
    label: Array  # [..., N], of n = 1 to N


class CTCResiduals(NamedTuple):
    """What CTC keeps."""

    z: Array  # logits [..., T, V]
    target: Array  # int [..., N]
    peak: Array  # max z [..., T, 1]: apart from the logarithm, so that large logits stay exact
    log_total: Array  # log Σ e^(z − peak) [..., T, 1]
    came: States  # [T, ...]: of the paths in each state, the share that came the first way in
    last: States  # [...]: the share of the paths that end in each state
    slope: Array  # [...]: 1; 0 where no path spells the target; NaN where it is not a target
    steps: Array | None  # bool [..., T]: the steps that count, where a mask of steps was given
    counted: Array | None  # bool [...]: the examples that count, where a mask of them was given


@dataclass(frozen=True)
class CTC(Loss):
    """−log Σ P(path) over all paths that spell the target (Graves et al., 2006), from logits.

    A path is one class a step, and its probability the product of their p = softmax(z). It spells
    what is left when runs of a class are merged and blanks then dropped: between two equal labels
    there is a blank.

    target         int [..., N]: classes other than `blank`, and `ignore_index` behind the last
    context.mask   bool [..., T]: the steps that count, the others are not there; or bool [...]:
                   the examples that count
    zero_infinity  whether a target that no path spells, for want of steps, costs 0 and not ∞; its
                   gradient is zero in either case

    The mean is over the examples: no value is divided by a length. A class out of range, a blank,
    or a label behind `ignore_index` is an error, or NaN where the target is not known yet.

    forward   (z, target): z [..., T, V] -> the loss, from the forward variables α in logarithms
    keeps     z, its log-sum-exp at each step, the target, and by which way the paths came into
              each state, which is a ratio of α
    backward  dz = (p − γ) dC, γ the share of the paths that are in each class at each step: from
              the last step on, the paths in a state go back the ways they came
    dtypes    z of any float, which the loss and dz have; targets of any integer dtype; sums are
              made in float32 at least
    raises    LayerError where blank is no natural number, ignore_index no whole number,
              zero_infinity no bool or reduction unknown, z and the target do not fit, a target that
              counts is known and not as above, a mask is neither bool [..., T] nor bool [...], a
              mean is over no example, or dC has not the shape of the loss
    source    Graves, Fernández, Gomez and Schmidhuber, Connectionist temporal classification, 2006

    >>> import jax
    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> z, target = jnp.zeros((1, 3, 2)), jnp.array([[1]])
    >>> C, residuals = jax.jit(fp.CTC().forward)((), (z, target))
    >>> print(f"{C:.3f}")  # 6 of 8 paths spell it
    0.288
    """

    blank: int = 0
    _: KW_ONLY
    ignore_index: int = -1
    zero_infinity: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "blank", self.blank, 0)
        check_index(self, self.ignore_index)

    def forward(
        self, params: tuple, x: tuple[Array, Array], context: Context = Context()
    ) -> tuple[Array, CTCResiduals]:
        z, target = self._sequences(x)
        steps, counted = self._masks(z, context.mask)
        valid = self._valid(target, z.shape[-1], counted)
        wide = widen(z)
        peak = jax.lax.stop_gradient(wide.max(-1, keepdims=True))
        largest = jnp.argmax(wide, -1)
        less = less_one(jnp.exp(wide - peak), one_hot(largest, z.shape[-1]))
        log_total = jnp.log1p(jnp.sum(less, -1, keepdims=True))
        log_p = wide - peak - log_total
        emitted = self._emitted(log_p, target)
        walk = emitted, None if steps is None else jnp.moveaxis(steps, -1, 0)
        length, twice = self._length(target), self._repeats(target)
        place = jnp.arange(target.shape[-1] + 1)
        failing = self._failing(jax.lax.stop_gradient(log_p), target, length)
        # behind the blank a label starts anew, if it is not the next one
        again = jnp.concatenate([~twice[..., 1:], jnp.ones_like(twice[..., :1])], -1)
        again = (again & (place[1:] <= length)).astype(wide.dtype)

        def step(carry: Any, inputs: Any) -> Any:
            (alpha, total, failed), ((emitted, counts), failing) = carry, inputs
            more = failed_by(*jax.lax.stop_gradient((alpha, total, emitted)), failing, again)
            after, came = enter(alpha, emitted, twice)
            after, top = from_top(after)
            if counts is not None:
                after, top = select(counts, after, alpha), jnp.where(counts, top, 0)
                more = jnp.where(counts, more, 0)
            return (after, total + top, failed + more), came

        # before the first step a path is in the first blank
        nowhere = jnp.full((*target.shape[:-1], target.shape[-1] + 1), LOG_ZERO, wide.dtype)
        start = States(nowhere.at[..., 0].set(0), nowhere[..., 1:])
        first = entries(peak)[:-2]
        start = jax.tree.map(lambda v: fresh(v, (*first, None), walk, twice), start)
        zero = fresh(jnp.zeros_like(peak[..., 0, 0]), first, walk, twice)
        (alpha, total, failed), came = jax.lax.scan(step, (start, zero, zero), (walk, failing))

        # behind the last step it is in the last label, or in the blank behind that
        paths, of_blank = either(alpha)
        values = -total - jnp.take_along_axis(paths, length, -1)[..., 0]
        last = States(
            jnp.where(place == length, of_blank, 0),
            jnp.where(place == length, 1 - of_blank, 0)[..., 1:],
        )
        # where most paths spell it: −log(1 − the share of those that do not), summed apart
        ends, _ = either(jax.lax.stop_gradient(alpha))
        ends = jnp.where(place < length, jnp.exp(ends + total[..., None]), 0)
        failed = failed + jax.lax.stop_gradient(ends.sum(-1))
        most = failed < 0.5
        exact = -jnp.log1p(-jnp.where(most, failed, 0))
        values = jnp.where(most, exact + (values - jax.lax.stop_gradient(values)), values)
        never = values > NEVER
        values = jnp.where(never, 0.0 if self.zero_infinity else jnp.inf, values)
        slope = jnp.where(valid, 1 - never.astype(wide.dtype), jnp.nan)
        loss = self.reduce(jnp.where(valid, values, jnp.nan), counted, z.dtype)
        return loss, CTCResiduals(z, target, peak, log_total, came, last, slope, steps, counted)

    def backward(
        self, params: tuple, residuals: CTCResiduals, dy: Array
    ) -> tuple[tuple[Array, None], tuple]:
        z, _, peak, log_total, *_, slope, steps, counted = residuals
        p = jnp.exp(widen(z) - peak - log_total)
        dvalues = self.share(dy, slope.shape, counted) * slope
        dz = (p - self._gamma(residuals)) * dvalues[..., None, None]
        # what does not count may hold NaN: it is replaced
        if steps is not None:
            dz = jnp.where(steps[..., None], dz, 0)
        if counted is not None:
            dz = jnp.where(counted[..., None, None], dz, 0)
        return (dz.astype(dy.dtype), None), ()

    def _gamma(self, residuals: CTCResiduals) -> Array:
        """The share of the paths that are in each class at each step, [..., T, V]."""
        target, came, steps = residuals.target, residuals.came, residuals.steps
        twice = self._repeats(target)

        def step(gamma: States, inputs: Any) -> tuple[States, States]:
            came, counts = inputs
            before = enter_backward(gamma, came, twice)
            return before if counts is None else select(counts, before, gamma), gamma

        walk = came, None if steps is None else jnp.moveaxis(steps, -1, 0)
        last = varying(residuals.last, walk, twice)
        _, gamma = jax.lax.scan(step, last, walk, reverse=True)
        gamma = jax.tree.map(lambda v: jnp.moveaxis(v, 0, -2), gamma)
        one_hot = jax.nn.one_hot(target, residuals.z.shape[-1], dtype=gamma.label.dtype)
        of_class = jnp.matmul(gamma.label, one_hot, precision="highest")
        return of_class.at[..., self.blank].add(gamma.blank.sum(-1))

    def _sequences(self, x: tuple[Array, Array]) -> tuple[Array, Array]:
        """(z, target), checked: [..., T, V] and int [..., N]."""
        z, target = self.pair(x)
        fits = is_integer(target) and target.ndim == z.ndim - 1 >= 1
        if not fits or target.shape[:-1] != z.shape[:-2]:
            wanted = (
                "wanted logits [..., T, V] and int targets [..., N], with the same leading axes"
            )
            raise LayerError(self, f"prediction is {spell(z)} and target {spell(target)}, {wanted}")
        if self.blank >= z.shape[-1]:
            raise LayerError(
                self, f"blank is {self.blank}, and the classes end at {z.shape[-1] - 1}"
            )
        if target.shape[-1] == 0:  # room for one label, so that there are states to speak of
            target = jnp.full((*target.shape[:-1], 1), self.ignore_index, target.dtype)
        return z, whole(target, -1)

    def _masks(self, z: Array, mask: Array | None) -> tuple[Array | None, Array | None]:
        """The context's mask, as one of steps or one of examples."""
        if mask is None or getattr(mask, "shape", None) == z.shape[:-2]:
            return None, self.counted(z.shape[:-2], mask)
        if spell(mask) != spell(jax.ShapeDtypeStruct(z.shape[:-1], bool)):
            steps, examples = (", ".join(map(str, z.shape[:n])) for n in (-1, -2))
            raise LayerError(
                self,
                f"the mask is {spell(mask)}, wanted bool[{steps}] for the steps that count, "
                f"or bool[{examples}] for the examples",
            )
        return mask, None

    def _valid(self, target: Array, classes: int, counted: Array | None) -> Array:
        """bool [...]: labels, then nothing but `ignore_index`. Raises where values are known."""

        def fits(v: Any) -> Any:
            empty = v == self.ignore_index
            label = ~empty & (v >= 0) & (v < classes) & (v != self.blank)
            place = np.arange(v.shape[-1], dtype=v.dtype)
            length = (~empty).sum(-1, keepdims=True).astype(v.dtype)
            return (label & (place < length)) | (empty & (place >= length))

        wanted = f"a class from 0 to {classes - 1}, not the blank {self.blank}, and no "
        wanted += f"{self.ignore_index} but behind the last"
        check_range(self, target, counted, wanted, fits)
        return fits(target).all(-1)

    def _length(self, target: Array) -> Array:
        """How many labels the target has, int [..., 1]."""
        return jnp.sum(target != self.ignore_index, -1, keepdims=True)

    def _repeats(self, target: Array) -> Array:
        """bool [..., N]: whether a label is the one before it again."""
        same = target[..., 1:] == target[..., :-1]
        return jnp.concatenate([jnp.zeros_like(same, shape=(*target.shape[:-1], 1)), same], -1)

    def _failing(self, log_p: Array, target: Array, length: Array) -> Array:
        """Of the paths that have come to label n, the share that a step takes off the target,
        [T, ..., N + 1]: to another class than the blank, the label and the next. 0 behind the last
        label, where paths are that have failed before."""
        place = jnp.arange(target.shape[-1] + 1)
        label = one_hot(jnp.clip(target, 0, log_p.shape[-1] - 1), log_p.shape[-1])
        none = jnp.zeros_like(label[..., :1, :])
        onward = jnp.concatenate([label, none], -2) & (place < length)[..., None]
        onward |= jnp.arange(log_p.shape[-1]) == self.blank
        stays = jnp.concatenate([none, label], -2)
        wrong = (place <= length)[..., None] & ~onward & ~stays
        # a sum of what is wrong, and not 1 − what is right: it may be far smaller than 1
        hot = jnp.swapaxes(wrong, -1, -2).astype(log_p.dtype)
        return jnp.moveaxis(jnp.matmul(jnp.exp(log_p), hot, precision="highest"), -2, 0)

    def _emitted(self, log_p: Array, target: Array) -> States:
        """log p of the class of each state, [T, ...]."""
        # filling stands for some class: no path to the end goes there
        labels = jnp.clip(target, 0, log_p.shape[-1] - 1)[..., None, :]
        of_states = States(log_p[..., self.blank, None], jnp.take_along_axis(log_p, labels, -1))
        return jax.tree.map(lambda v: jnp.moveaxis(jnp.maximum(v, LOG_ZERO), -2, 0), of_states)


def either(alpha: States) -> tuple[Array, Array]:
    """[..., N + 1]: the paths that have come to label n and no further, in it or in the blank
    behind it, and the share of them in the blank."""
    label = jnp.concatenate([jnp.full_like(alpha.blank[..., :1], LOG_ZERO), alpha.label], -1)
    return jnp.logaddexp(alpha.blank, label), jax.nn.sigmoid(alpha.blank - label)


def enter(alpha: States, emitted: States, twice: Array) -> tuple[States, States]:
    """α one step later, and the shares `came`.

    Into a blank: from the same blank, or from the label before it. Into a label: from the same
    label, or from either of the two states before it, but not from an equal label.
    """
    paths, of_blank = either(alpha)
    origin = jnp.where(twice, alpha.blank[..., :-1], paths[..., :-1])
    label = jnp.logaddexp(alpha.label, origin)
    came = States(of_blank, jax.nn.sigmoid(alpha.label - origin))
    return States(paths + emitted.blank, label + emitted.label), came


def enter_backward(gamma: States, came: States, twice: Array) -> States:
    """The shares of the paths one step earlier."""
    new = (1 - came.label) * gamma.label
    zero = jnp.zeros_like(gamma.blank[..., :1])
    paths = gamma.blank + jnp.concatenate([jnp.where(twice, 0, new), zero], -1)
    blank = came.blank * paths + jnp.concatenate([jnp.where(twice, new, 0), zero], -1)
    return States(blank, came.label * gamma.label + ((1 - came.blank) * paths)[..., 1:])


def failed_by(alpha: States, total: Array, emitted: States, failing: Array, again: Array) -> Array:
    """The probability of the paths that a step takes off the target, [...]; α less what `from_top`
    took off it, which is `total`."""
    paths, _ = either(alpha)
    strays = jnp.exp(paths + total[..., None]) * failing
    repeats = jnp.exp(alpha.blank[..., 1:] + emitted.label + total[..., None]) * again
    return strays.sum(-1) + repeats.sum(-1)


def from_top(paths: States) -> tuple[States, Array]:
    """The paths less the largest of them, and that, [...]: sums of many steps stay small, and so
    their rounding errors."""
    top = jnp.maximum(paths.blank.max(-1), paths.label.max(-1))
    top = jax.lax.stop_gradient(top)
    return jax.tree.map(lambda v: v - top[..., None], paths), top


def select(counts: Array, new: States, old: States) -> States:
    """`new` where the step counts, `old` where it does not."""
    return jax.tree.map(lambda n, o: jnp.where(counts[..., None], n, o), new, old)
