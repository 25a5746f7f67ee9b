"""Curvature inverted: the inverses of K-FAC's factors, and gradients multiplied by them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from funcprop.collectors.blocks import Diagonal, Eigen, Kronecker, is_block
from funcprop.collectors.kronecker import BIAS_OF
from funcprop.collectors.record import is_record, records
from funcprop.doors import door
from funcprop.layer import Array, Params, spell, widen


@door
def inverses_of(factors: Any, damping: float) -> Any:
    """The inverse of every block + λ I: what `precondition` multiplies a gradient with.

    factors   a tree of Kronecker, Diagonal and Eigen, with or without Records around
    damping   λ

    Returns the same tree of the same shapes. The inverse of A ⊗ G is damped factor by factor:
    (A + π√λ I)⁻¹ ⊗ (G + √λ/π I)⁻¹ with π² = (tr A / dim A) / (tr G / dim G).

    source  Martens, Grosse 2015, arXiv:1503.05671, section 6.3

    >>> import jax.numpy as jnp
    >>> import funcprop as fp
    >>> block = fp.collectors.Kronecker(a=jnp.eye(3), g=jnp.eye(2))
    >>> inverse = fp.collectors.inverses_of(block, damping=1.0)
    >>> jnp.diag(inverse.g).round(3).tolist()
    [0.5, 0.5]
    """
    return jax.tree.map(lambda block: inverse(block, damping), factors, is_leaf=is_block)


def inverse(block: Any, damping: float) -> Any:
    """The inverse of a block + λ I. Of A ⊗ G it is (A + π√λ I)⁻¹ ⊗ (G + √λ/π I)⁻¹ with
    π² = (tr A / dim A) / (tr G / dim G): the Kronecker product that is nearest in norm (Martens,
    Grosse, 2015, section 6.3)."""
    if isinstance(block, Diagonal):
        return Diagonal(1 / (block.f + damping))
    if isinstance(block, Eigen):
        return Eigen(block.u_a, block.u_g, 1 / (block.s + damping))
    if not isinstance(block, Kronecker):
        raise TypeError(
            f"a factor is {spell(block)}, wanted Kronecker, Diagonal or Eigen: what "
            "with_factors(model, loss) gives as its third result"
        )
    a, g = block.a, block.g
    apart = a.ndim < g.ndim  # A is a diagonal
    mean_a = a.mean(-1) if apart else jnp.trace(a, axis1=-2, axis2=-1) / a.shape[-1]
    mean_g = jnp.trace(g, axis1=-2, axis2=-1) / g.shape[-1]
    tiny = jnp.finfo(a.dtype).tiny
    pi = jnp.sqrt(jnp.maximum(mean_a, tiny) / jnp.maximum(mean_g, tiny))
    root = damping**0.5
    of_a = 1 / (a + (pi * root)[..., None]) if apart else inverse_of(a, pi * root)
    return Kronecker(of_a, inverse_of(g, root / pi))


def inverse_of(matrix: Array, shift: Array) -> Array:
    """(M + shift I)⁻¹ of symmetric positive matrices [..., n, n], by Cholesky."""
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    lower = jnp.linalg.cholesky(matrix + shift[..., None, None] * identity)
    of_lower = jax.scipy.linalg.solve_triangular(
        lower, jnp.broadcast_to(identity, lower.shape), lower=True
    )
    return of_lower.mT @ of_lower


@door
def precondition(grads: Params, inverses: Any) -> Params:
    """F⁻¹ g at every layer.

    grads     a tree like the parameters
    inverses  Records of `inverses_of(factors, damping)`, those of a model or of one layer

    Returns the tree, shapes and dtypes of grads; a gradient without a block stays as it is.

    raises  ValueError where the trees differ, TypeError where inverses holds no Records
    source  Martens, Grosse 2015, arXiv:1503.05671; with Eigen, George et al. 2018, arXiv:1806.03884

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> model = fp.Dense(2)
    >>> x, y = jnp.arange(8.0).reshape(4, 2), jnp.array([0, 1, 1, 0])
    >>> params = model.init(jax.random.key(0), x)
    >>> gradient = fp.collectors.with_factors(model, fp.SoftmaxCrossEntropy(), fisher="empirical")
    >>> _, grads, factors = gradient(params, (x, y))
    >>> natural = fp.collectors.precondition(grads, fp.collectors.inverses_of(factors, 0.1))
    >>> jax.tree.map(jnp.shape, natural)
    Affine(w=(2, 2), b=(2,))
    """
    structure = jax.tree.structure(inverses, is_leaf=is_record)
    try:
        rows = zip(records(inverses), structure.flatten_up_to(grads), strict=True)
        return structure.unflatten([of_layer(record.value, grad) for record, grad in rows])
    except ValueError as error:
        raise ValueError(
            f"precondition: grads is {spell(grads)}, and the inverses are of another model: both "
            "from one with_factors(model, loss)"
        ) from error


def of_layer(inverses: Any, grads: Any) -> Any:
    """One layer: a tree like its parameters, of inverse blocks, and its gradient."""
    weight = BIAS_OF.get(type(grads))
    if weight and grads.b is not None and is_block(getattr(inverses, weight)):
        block, w = getattr(inverses, weight), getattr(grads, weight)
        rows = w.reshape(*grads.b.shape[:-1], -1, w.shape[-1])
        rows = jnp.concatenate([rows, grads.b[..., None, :]], -2)
        rows = of_weight(block, rows)
        done = {weight: rows[..., :-1, :].reshape(w.shape), "b": rows[..., -1, :]}
        grads, inverses = grads._replace(**done), inverses._replace(**{weight: None})

    def is_leaf(value: Any) -> bool:
        return value is None or is_block(value)

    blocks, structure = jax.tree.flatten(inverses, is_leaf=is_leaf)
    rows = zip(blocks, structure.flatten_up_to(grads), strict=True)
    return structure.unflatten([of_weight(block, grad) for block, grad in rows])


def of_weight(block: Any, grad: Any) -> Any:
    """A gradient [*stack, ..., out] times its inverse block; as it is where there is none."""
    if block is None or grad is None:
        return grad
    if isinstance(block, Diagonal):
        return (block.f * widen(grad)).astype(grad.dtype)
    of_g = block.u_g if isinstance(block, Eigen) else block.g
    rows = widen(grad).reshape(*of_g.shape[:-2], -1, of_g.shape[-1]) @ of_g
    if isinstance(block, Eigen):
        rows = block.u_a @ (block.s * (block.u_a.mT @ rows)) @ block.u_g.mT
    else:
        rows = block.a[..., None] * rows if block.a.ndim < block.g.ndim else block.a @ rows
    return rows.reshape(grad.shape).astype(grad.dtype)
