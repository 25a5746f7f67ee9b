"""Per-example clipping in one backward pass, and the private gradient that is made of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.collectors.collection import collect
from funcprop.collectors.examples import PerExample, added, each_form
from funcprop.collectors.forms import is_form
from funcprop.collectors.generic import Generic
from funcprop.collectors.record import is_record, records
from funcprop.composites import Rewired, RewiredParams
from funcprop.doors import door
from funcprop.gradient import GradientFunction, objective
from funcprop.layer import Array, Context, Layer, Params, spell, widen


class Kept(NamedTuple):
    """What book-keeping keeps of a layer."""

    squared: Array  # ‖g_b‖², [B]
    forms: Any  # δ and what it meets: the weight gradient before it is summed over the examples


@dataclass(frozen=True)
class BookKeeping(PerExample):
    """The squared norms, and δ beside what it meets, from which weighted sums of gradients are
    formed once the norms of all layers are known. The rule `book_keeping`.

    record   Kept(squared [B], forms): read by `squared_total` and `weighted_sum`

    raises   LayerError for a loss that takes a mean, and where a layer mixes the examples or keeps
             something without an example axis
    source   Bu et al. 2023, arXiv:2210.00038

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.book_keeping)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> _, found = gradient(params, (x, y))
    >>> fp.collectors.squared_total(found).shape
    (4,)
    >>> grads = fp.collectors.weighted_sum(found, jnp.array([1.0, 0.0, 0.0, 1.0]))
    >>> jax.tree.map(jnp.shape, grads)  # of the first and the last example
    Affine(w=(2, 2), b=(2,))
    """

    def of_forms(self, layer: Layer, params: Params, forms: Any) -> Any:
        if not jax.tree.leaves(params):
            return Kept((), forms)  # type: ignore[arg-type]
        if isinstance(forms, Generic):
            return Kept(forms.squared_norms(), forms)
        norms = [form.squared_norms() for form in each_form(forms)]
        return Kept(sum(norms[1:], norms[0]) if norms else (), forms)  # type: ignore[arg-type]


book_keeping = BookKeeping()


def squared_total(collected: Any) -> Array:
    """‖g_b‖² over all layers, [B], of what `book_keeping` collected.

    collected  what the backward of collect(model, book_keeping) returned

    Returns [B], in float32 at least, nowhere below zero.

    raises  ValueError where no layer has a parameter with a gradient, or the layers disagree on the
            number of examples; TypeError where something is no record

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.book_keeping)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> fp.collectors.squared_total(gradient(params, (x, y))[1]).shape
    (4,)
    """
    parts = []
    for record in records(collected):
        if jax.tree.leaves(record.value):
            parts += [v.sum(range(record.stacked)) for v in jax.tree.leaves(record.value.squared)]
    # sums that cancel may come out below zero by a rounding
    return jnp.maximum(added(parts), 0)


@door
def weighted_sum(collected: Any, c: Array) -> Params:
    """Σ_b c_b g_b, a tree like the parameters, of what `book_keeping` collected.

    collected  what the backward of collect(model, book_keeping) returned
    c          [examples], floats

    Returns the shapes and dtypes of the parameters.

    raises  ValueError where c is not one number an example, TypeError for records of another rule
    source  Bu et al. 2023, arXiv:2210.00038

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> collected = fp.collect(model, fp.collectors.book_keeping)
    >>> gradient = fp.backprop(collected, fp.SoftmaxCrossEntropy(reduction="sum"))
    >>> grads = fp.collectors.weighted_sum(gradient(params, (x, y))[1], jnp.ones(4))
    >>> _, whole = fp.backprop(model, fp.SoftmaxCrossEntropy(reduction="sum"))(params, (x, y))
    >>> bool(jnp.allclose(grads.w, whole.w, rtol=1e-4))
    True
    """

    def of_layer(record: Any) -> Any:
        if not is_record(record):
            return record
        if record.value is None:  # frozen
            return None

        if not isinstance(record.value, Kept):
            raise TypeError(
                f"{record.path}: its record is {spell(record.value)}, wanted that of book_keeping: "
                "collect(model, book_keeping), or one of several by record.named(name)"
            )
        for norms in jax.tree.leaves(record.value.squared):
            if c.shape != norms.shape[record.stacked :]:
                raise ValueError(
                    f"{record.path}: c is {spell(c)}, wanted one number for each of the "
                    f"{norms.shape[-1]} examples"
                )

        def one(forms: Any) -> Any:
            if isinstance(forms, Generic):
                return forms.weighted(c)
            return jax.tree.map(lambda form: form.weighted(c), forms, is_leaf=is_form)

        for _ in range(record.stacked):
            one = over_stack(one)
        total = one(record.value.forms)
        return RewiredParams(total, None) if isinstance(record.layer, Rewired) else total

    return jax.tree.map(of_layer, collected, is_leaf=is_record)


def over_stack(function: Any) -> Any:
    return lambda forms: jax.lax.map(function, forms)


@door
def clipped(model: Layer, loss: Layer | None, max_norm: float) -> GradientFunction:
    """(params, batch, context) -> Σ_b C_b, Σ_b g_b min(1, max_norm/‖g_b‖): one backward pass.

    model, loss  as for `backprop`, the loss a sum over the examples
    max_norm     a positive number

    value        [], a float
    grads        the tree, shapes and dtypes of params

    Norms and δ are kept on the way back; the weight gradients are formed once, with the factors in
    them.

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
    collected = collect(model, book_keeping)
    goal = objective(collected, loss)

    @door
    def gradient(params: Params, batch: Any, context: Context = Context()) -> Any:
        value, residuals = goal.forward(params, batch, context)
        found = goal.backward(params, residuals, jnp.ones_like(value))
        norms = jnp.sqrt(squared_total(found))
        factors = jnp.minimum(1, max_norm / jnp.maximum(norms, jnp.finfo(norms.dtype).tiny))
        return value, weighted_sum(found, factors)

    return gradient


@door
def private_gradient(
    model: Layer,
    loss: Layer | None,
    max_norm: float,
    noise_multiplier: float,
    batch_size: float,
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

    value             [], a float
    grads             the tree, shapes and dtypes of params; the context's key draws the noise

    raises  ValueError for numbers outside these ranges, and without a key; LayerError for a mean,
            and where a layer mixes the examples
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
    clip = clipped(model, loss, max_norm)

    @door
    def gradient(params: Params, batch: Any, context: Context = Context()) -> Any:
        if context.key is None:
            raise ValueError(
                "private_gradient draws noise and was given no key: "
                "gradient(params, batch, Context(key=jax.random.key(0)))"
            )
        model_key, noise_key = jax.random.split(context.key)
        value, total = clip(params, batch, Context(model_key, context.mask))
        leaves, tree = jax.tree.flatten(total)
        keys = jax.random.split(noise_key, max(len(leaves), 1))

        def noisy(key: Array, leaf: Array) -> Array:
            wide = widen(leaf)
            noise = noise_multiplier * max_norm * jax.random.normal(key, leaf.shape, wide.dtype)
            return ((wide + noise) / batch_size).astype(leaf.dtype)

        rows = zip(keys, leaves, strict=False)
        return value / batch_size, tree.unflatten([noisy(*row) for row in rows])

    return gradient
