"""Per-example clipping in one backward pass, and the private gradient that is made of it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from funcprop.collectors.bookkeeping import book_keeping, squared_total, weighted_sum
from funcprop.collectors.collection import collect
from funcprop.doors import door
from funcprop.gradient import GradientFunction, Objective, objective, told, unpack
from funcprop.layer import Array, Context, Layer, Params, is_float, widen
from funcprop.sharding import alike, in_parts, summed


@door
def clipped(model: Layer, loss: Layer | None, max_norm: float) -> GradientFunction:
    """(params, batch, context) -> Σ_b C_b, Σ_b g_b min(1, max_norm/‖g_b‖): one backward pass.

    model, loss  as for `backprop`, the loss a sum over the examples
    max_norm     a positive number

    value        [], a float
    grads        the tree, shapes and dtypes of params

    Norms and δ are kept on the way back; the weight gradients are formed once, with the factors in
    them. An example whose squared norm is beyond the dtype's range adds nothing.

    raises  ValueError where max_norm is not positive, LayerError for a mean, and where a layer
            mixes the examples
    source  Abadi et al. 2016, arXiv:1607.00133; in one pass, Bu et al. 2023, arXiv:2210.00038

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> loss = fp.SoftmaxCrossEntropy(reduction="sum")
    >>> gradient = fp.collectors.clipped(model, loss, max_norm=0.01)
    >>> _, grads = gradient(params, (x, y))
    >>> norm = ((grads.w**2).sum() + (grads.b**2).sum()) ** 0.5
    >>> bool(norm <= 4 * 0.01 + 1e-6)  # four examples
    True
    """
    if not max_norm > 0:
        raise ValueError(f"max_norm is {max_norm}, wanted a positive number")
    return Clipped(objective(collect(model, book_keeping), loss), max_norm)


@dataclass(frozen=True)
class Clipped:
    """(params, batch, context) -> Σ_b C_b, Σ_b g_b min(1, max_norm/‖g_b‖)."""

    goal: Objective  # of the model that keeps books
    max_norm: float

    reduction: ClassVar[str] = "sum"

    @door
    def __call__(self, params: Params, batch: Any, context: Context = Context()) -> Any:
        if self.goal.loss is not None:
            x, target, context = unpack(batch, context)
            batch = x, target
        batch = without_hidden(batch, context.mask)
        value, residuals = self.goal.forward(params, batch, context)
        found = self.goal.backward(params, residuals, jnp.ones_like(value))
        norms = jnp.sqrt(squared_total(found))
        factors = jnp.minimum(1, self.max_norm / jnp.maximum(norms, jnp.finfo(norms.dtype).tiny))
        return value, summed(weighted_sum(found, factors), params)

    def in_parts(self, parts: int, params: Params, batch: Any, context: Context) -> Any:
        """The same sums over `parts` micro-batches, one at a time."""
        if self.goal.loss is not None:
            x, target, context = unpack(batch, context)
            batch = x, target

        def cut(leaf: Array) -> Array:
            size = leaf.shape[0] if leaf.ndim else 0
            if size == 0 or size % parts:
                raise ValueError(
                    f"a batch of shape {leaf.shape} does not divide into {parts} equal parts: make "
                    f"it of {-(-max(size, 1) // parts) * parts} examples, by the size of "
                    "poisson_batches, for example; the mask says which of them count"
                )
            return in_parts(leaf, parts)

        def one(index: Array, part: Any, mask: Array | None) -> Any:
            key = None if context.key is None else jax.random.fold_in(context.key, index)
            return self(params, part, Context(key, mask))

        cuts = jax.tree.map(cut, (batch, context.mask))
        first = jax.eval_shape(one, jnp.int32(0), *jax.tree.map(lambda leaf: leaf[0], cuts))
        zeros = jax.tree.map(lambda leaf: widen(jnp.zeros(leaf.shape, leaf.dtype)), first)
        zeros = alike(zeros, first)

        def add(total: Any, row: Any) -> tuple[Any, None]:
            index, (part, mask) = row
            return jax.tree.map(lambda a, b: a + widen(b), total, one(index, part, mask)), None

        total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), cuts))
        return jax.tree.map(lambda a, like: a.astype(like.dtype), total, first)


def without_hidden(batch: Any, mask: Array | None) -> Any:
    """The batch with zeros in place of the floats of examples that the mask [B] hides.

    Their δ is zero, and zero times what is not finite would be NaN in every gradient.
    """
    if mask is None or mask.ndim != 1:
        return batch

    def shown(leaf: Any) -> Any:
        if not is_float(leaf) or leaf.shape[:1] != mask.shape:
            return leaf
        return jnp.where(mask.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0)

    return jax.tree.map(shown, batch)


AVERAGING = ContextVar("AVERAGING", default=False)
"""Whether a gradient is asked for as one of several that are to be averaged."""


@door
def private_gradient(
    model: Layer,
    loss: Layer | None,
    max_norm: float,
    noise_multiplier: float,
    batch_size: float,
    parts: int = 1,
) -> GradientFunction:
    """The gradient of DP-SGD: clipped example by example, and noise added.

    (params, batch, context) -> Σ_b C_b / batch_size, (Σ_b clip(g_b) + N(0, σ²)) / batch_size with
    σ = noise_multiplier · max_norm

    model, loss       as for `backprop`, the loss a sum over the examples
    max_norm          what no example's gradient is longer than
    noise_multiplier  at least 0; `noise_for` finds it
    batch_size        the expected number of examples, a constant: the actual one would give
                      something away. Poisson-sampled batches (`poisson_batches`) are padded to one
                      shape, and the mask bool [B] in the context says which examples count.
    parts             a whole number: the batch is clipped as that many micro-batches, one after the
                      other in the memory of one, and the noise is added once. The same numbers as
                      in one part, but for what a model draws at random

    value             [], a float
    grads             the tree, shapes and dtypes of params; the context's key draws the noise

    `accumulate` does not take it: the mean of noisy means is of another noise than the accountant
    was told.

    raises  ValueError for numbers outside these ranges, without a key, and for a batch that does
            not divide by `parts`; LayerError for a mean, and where a layer mixes the examples
    source  Abadi et al. 2016, arXiv:1607.00133

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> loss = fp.SoftmaxCrossEntropy(reduction="sum")
    >>> gradient = fp.private_gradient(model, loss, 1.0, noise_multiplier=1.1, batch_size=4)
    >>> _, grads = gradient(params, (x, y), fp.Context(key=jax.random.key(1)))
    >>> jax.tree.map(jnp.shape, grads)
    Affine(w=(2, 2), b=(2,))
    """
    if not noise_multiplier >= 0:
        raise ValueError(f"noise_multiplier is {noise_multiplier}, wanted at least 0")
    if not batch_size > 0:
        raise ValueError(f"batch_size is {batch_size}, wanted the expected number of examples")
    if isinstance(parts, bool) or not isinstance(parts, int) or parts < 1:
        raise ValueError(f"parts is {parts!r}, wanted a whole number of at least 1")
    clip = clipped(model, loss, max_norm)
    assert isinstance(clip, Clipped)
    return PrivateGradient(clip, noise_multiplier, batch_size, parts)


@dataclass(frozen=True)
class PrivateGradient:
    """(params, batch, context) -> Σ_b C_b / batch_size, (Σ_b clip(g_b) + noise) / batch_size."""

    clip: Clipped
    noise_multiplier: float
    batch_size: float
    parts: int

    private: ClassVar[bool] = True  # its value has no noise in it, and is for no optimizer
    reduction: ClassVar[str] = "noisy mean over an expected batch"

    @door
    def __call__(self, params: Params, batch: Any, context: Context = Context()) -> Any:
        check_not_averaged(self)
        if context.key is None:
            raise ValueError(
                "private_gradient draws noise and was given no key: "
                "gradient(params, batch, Context(key=jax.random.key(0)))"
            )
        model_key, noise_key = jax.random.split(context.key)
        context = Context(model_key, context.mask)
        if self.parts == 1:
            value, total = self.clip(params, batch, context)
        else:
            value, total = self.clip.in_parts(self.parts, params, batch, context)
        leaves, tree = jax.tree.flatten(total)
        keys = jax.random.split(noise_key, max(len(leaves), 1))
        deviation = self.noise_multiplier * self.clip.max_norm

        def noisy(key: Array, leaf: Array) -> Array:
            wide = widen(leaf)
            noise = deviation * jax.random.normal(key, leaf.shape, wide.dtype)
            return ((wide + noise) / self.batch_size).astype(leaf.dtype)

        rows = zip(keys, leaves, strict=False)
        return value / self.batch_size, tree.unflatten([noisy(*row) for row in rows])


def check_not_averaged(gradient: Any) -> None:
    """Raises ValueError for a private gradient of one part of a batch, known by what it is or by
    where it is called."""
    if told(gradient, "private", False) and AVERAGING.get():
        raise ValueError(
            "accumulate takes means, and the mean of n noisy means has 1/n of the signal and 1/√n "
            "of the noise that private_gradient says: write "
            "private_gradient(model, loss, max_norm, noise_multiplier, batch_size, parts=n), which "
            "takes the batch in parts and adds its noise once"
        )
