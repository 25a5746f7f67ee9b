"""Square roots of a loss's Hessian: the cotangents from which curvature is collected.

At the output of a model, each value of the loss has the Hessian H [D, D] in its prediction. A
backward pass that begins with s_c instead of the gradient carries it to the parameters:

    exactly     H = Σ_c s_c s_cᵀ, one pass for each of D columns
    on average  H = E s sᵀ, one pass: s is the gradient for a target drawn from the model's own
                distribution, and the Fisher is what is estimated (Martens, 2014)

For a loss that is the negative logarithm of such a distribution the Fisher and the generalized
Gauss-Newton matrix Jᵀ H J are the same. As with `closed_form`, a root belongs to exactly one type.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from funcprop.layer import Array, Layer, LayerError, is_float, widen
from funcprop.losses import (
    BinaryCrossEntropy,
    MeanSquaredError,
    QuadraticCost,
    SoftmaxCrossEntropy,
)
from funcprop.sharding import alike


class Root(NamedTuple):
    """A square root of H for every value of the loss.

    column  c in 0 ... D − 1 -> s_c [..., D], with Σ_c s_c s_cᵀ = H
    sample  key -> s [..., D], with E s sᵀ = H

    source  Martens 2014, arXiv:1412.1193

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> half = fp.collectors.Root(  # of H = I, two features, four examples
    ...     column=lambda c: jnp.broadcast_to(jax.nn.one_hot(c, 2), (4, 2)),
    ...     sample=lambda key: jax.random.normal(key, (4, 2)),
    ... )
    >>> sum(jnp.outer(half.column(c)[0], half.column(c)[0]) for c in range(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    column: Callable[[Array], Array]  # c in 0 ... D − 1 -> s_c [..., D]
    sample: Callable[[Array], Array]  # key -> s [..., D]


ROOTS: dict[type, Callable[[Any, Array, Array], Root]] = {}


def hessian_root(kind: type[Layer]) -> Any:
    """Registers (loss, prediction, target) -> Root, for losses of exactly this type.

    prediction  [..., D], in float32 at least: column and sample have its shape and dtype
    target      as the loss takes it

    The root is that of one value of the loss; how they are reduced is known from `loss.share`.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> class MyCost(fp.QuadraticCost): pass
    >>> @fp.collectors.hessian_root(MyCost)
    ... def of_my_cost(loss, a, y):  # H = I
    ...     return fp.collectors.Root(
    ...         column=lambda c: jnp.broadcast_to(jax.nn.one_hot(c, 2), a.shape),
    ...         sample=lambda key: jax.random.normal(key, a.shape),
    ...     )
    >>> x, model = jnp.arange(8.0).reshape(4, 2), fp.Dense(2)
    >>> params = model.init(jax.random.key(0), x)
    >>> fp.collectors.diag_ggn(model, MyCost(), params, (x, jnp.ones((4, 2)))).w.shape
    (2, 2)
    """

    def register(function: Callable[[Any, Array, Array], Root]) -> Any:
        ROOTS[kind] = function
        return function

    return register


@hessian_root(SoftmaxCrossEntropy)
def of_softmax(loss: SoftmaxCrossEntropy, z: Array, target: Array) -> Root:
    """H = diag p − p pᵀ = Σ_c p_c (e_c − p)(e_c − p)ᵀ; s = p − e_y, y drawn from p.

    Times Σ y where the target is a distribution; label smoothing changes no second derivative.
    """
    if loss.weight is not None:
        raise LayerError(loss, "has no known square root of its Hessian where classes have weights")
    p = jax.nn.softmax(z)
    mass = jnp.sqrt(widen(target).sum(-1, keepdims=True)) if is_float(target) else 1

    def column(c: Array) -> Array:
        e = jax.nn.one_hot(c, z.shape[-1], dtype=z.dtype)
        return mass * jnp.sqrt(jnp.take(p, c, -1))[..., None] * (e - p)

    def sample(key: Array) -> Array:
        y = jax.random.categorical(key, z)
        return mass * (p - jax.nn.one_hot(y, z.shape[-1], dtype=z.dtype))

    return Root(column, sample)


@hessian_root(BinaryCrossEntropy)
def of_binary(loss: BinaryCrossEntropy, z: Array, target: Array) -> Root:
    """H = diag p (1 − p), p = σ(z); s = p − y, y drawn from p."""
    p = jax.nn.sigmoid(z)

    def sample(key: Array) -> Array:
        return p - jax.random.bernoulli(key, p).astype(p.dtype)

    return Root(diagonal(jnp.sqrt(p * (1 - p))), sample)


@hessian_root(QuadraticCost)
def of_quadratic(loss: QuadraticCost, a: Array, target: Array) -> Root:
    """H = I; s is normal: y is drawn from N(a, I)."""
    return gaussian(a, 1)


@hessian_root(MeanSquaredError)
def of_mean_squared(loss: MeanSquaredError, a: Array, target: Array) -> Root:
    """H = (2/D) I; s is normal: y is drawn from N(a, D/2 I)."""
    return gaussian(a, 2 / a.shape[-1])


def gaussian(a: Array, h: float) -> Root:
    """H = h I."""
    scale = h**0.5
    return Root(
        diagonal(jnp.full_like(a, scale)),
        lambda key: scale * jax.random.normal(key, a.shape, a.dtype),
    )


def diagonal(values: Array) -> Callable[[Array], Array]:
    """The columns of a diagonal matrix."""
    return lambda c: values * jax.nn.one_hot(c, values.shape[-1], dtype=values.dtype)


# --- in the scale of the loss ---------------------------------------------------------------------


def weights(loss: Any, kept: Any, prediction: Array) -> Array:
    """√ of what each value of the loss counts for: √(1/N) under a mean, 0 where it is masked."""
    if not hasattr(kept, "counted"):
        raise LayerError(
            loss,
            "has no value for every row of the prediction, by which its mean could be undone",
            "sum instead: reduction='sum'",
        )
    shape = prediction.shape[:-1]
    share = loss.share(jnp.ones((), prediction.dtype), shape, kept.counted)
    share = jnp.broadcast_to(share, shape)
    return jnp.sqrt(share if kept.counted is None else jnp.where(kept.counted, share, 0))[..., None]


def root(loss: Layer, kept: Any, prediction: Array, target: Array) -> Root:
    """The root of the Hessian of the loss as it is reduced, from its residuals.

    Raises LayerError where none is known.
    """
    make = ROOTS.get(type(loss))
    if make is None:
        raise LayerError(
            loss,
            "has no known square root of its Hessian",
            f"those that have: {', '.join(kind.__name__ for kind in ROOTS)}; or give it one with "
            "@hessian_root",
        )
    of_one, weight = make(loss, widen(prediction), target), weights(loss, kept, prediction)

    def weighted(slope: Array) -> Array:
        return (weight * slope).astype(prediction.dtype)

    return Root(
        lambda c: weighted(of_one.column(c)),
        lambda key: weighted(of_one.sample(key)),
    )


def sum_over_columns(
    root: Root, prediction: Array, backward: Callable[[Array], Any]
) -> tuple[Any, int]:
    """Σ backward(s) over a column for every class and every position of an example, and how many.

    Two positions of one sequence share no column: their product would be counted too.
    """
    *positions, classes = prediction.shape[1:]
    places = math.prod(positions)

    def cotangent(k: Array) -> Array:
        here = jax.nn.one_hot(k // classes, places, dtype=prediction.dtype)
        return root.column(k % classes) * here.reshape(*positions, 1)

    def add(total: Any, k: Array) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, backward(cotangent(k))), None

    columns = jnp.arange(places * classes)
    first = jax.eval_shape(backward, prediction)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), first)
    zeros = alike(zeros, first)
    return jax.lax.scan(add, zeros, columns)[0], places * classes
