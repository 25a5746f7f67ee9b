"""Closed forms: per-example gradients of the layers that have something better than their own
backward run once an example. One function a layer; every other layer is `Generic`.

A closed form belongs to exactly one type: a subclass may compute something else. From outside:

    @closed_form(MyLayer)
    def of_my_layer(layer, params, residuals, dy):
        return dx, MyParams(w=Outer(a, dz), b=Full(db))     # a tree like the parameters
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from funcprop.collectors.forms import Full, Outer, Rows
from funcprop.collectors.generic import Generic, check_apart, example_axes
from funcprop.collectors.rule import Remembered
from funcprop.collectors.single_examples import check_foreign
from funcprop.layer import Array, Context, Layer, LayerError, Params, Residuals, spell, widen
from funcprop.layers import GRU, LSTM, RNN, Dense, Embedding
from funcprop.layers.dense import Affine
from funcprop.layers.embedding import Table, known_rows
from funcprop.layers.recurrence import Recurrent, RecurrentResiduals


class ClosedForm(Protocol):
    """What stands for a layer's gradient of each single example: a rule whose record are forms."""

    def __call__(self, layer: Any, params: Any, residuals: Any, dy: Any, /) -> tuple[Any, Any]:
        """-> dx, forms: a tree like params, with a Form (`Outer`, `Rows`, `Full`) at every leaf.

        The arguments are those of `layer.backward`; axis 0 of dy are the examples.
        """
        ...


CLOSED: dict[type, ClosedForm] = {}
PREPARED: dict[type, Callable[[Any], Layer]] = {}


def closed_form(*kinds: type[Layer]) -> Callable[[ClosedForm], ClosedForm]:
    """Registers (layer, params, residuals, dy) -> dx, forms, for layers of exactly these types.

    forms   a tree like the parameters, with a Form (Full, Outer, Rows) at every one: the gradients
            of the single examples, in the shape and dtype of the parameter

    All rules of single examples read it. A subclass does not inherit it.

    >>> import jax, jax.numpy as jnp
    >>> import funcprop as fp
    >>> class MyDense(fp.Dense): pass
    >>> @fp.collectors.closed_form(MyDense)
    ... def of_my_dense(layer, params, x, dz):
    ...     w, b = fp.collectors.Outer(x[:, None], dz[:, None]), fp.collectors.Full(dz)
    ...     return layer.backward(params, x, dz)[0], params._replace(w=w, b=b)
    >>> layer, x = fp.collect(MyDense(2), fp.collectors.gradients), jnp.arange(8.0).reshape(4, 2)
    >>> params = layer.init(jax.random.key(0), x)
    >>> layer.backward(params, layer.forward(params, x)[1], x)[1].w.shape
    (4, 2, 2)
    """

    def register(function: ClosedForm) -> ClosedForm:
        CLOSED.update(dict.fromkeys(kinds, function))
        return function

    return register


def prepared(layer: Layer) -> Layer:
    """The layer in the form that keeps what its closed form reads."""
    return PREPARED.get(type(layer), lambda layer: layer)(layer)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """Static data carried in residuals."""

    value: Any


def remember_axes(
    layer: Layer, params: Params, x: Any, context: Context, y: Any, residuals: Residuals
) -> Any:
    """Static: which residuals have an example axis. Raises LayerError where there is none."""
    check_foreign(layer, params, x, context)
    if not jax.tree.leaves(params):
        check_apart(layer, params, x, context, y, residuals)
        return ()
    if type(layer) in CLOSED:
        return ()
    return Static(example_axes(layer, params, x, context, y, residuals))


def per_example(layer: Layer, params: Params, residuals: Any, dy: Any) -> tuple[Any, Any]:
    """-> dx, the gradients of the single examples: () without parameters, a Generic, or a tree
    like the parameters whose leaves are forms."""
    if isinstance(residuals, Remembered):
        kept, static = residuals
        dx, _ = layer.backward(params, kept, dy)
        return dx, Generic(params, kept, dy, layer, static.value)
    if not jax.tree.leaves(params):
        return layer.backward(params, residuals, dy)[0], ()
    return CLOSED[type(layer)](layer, params, residuals, dy)


def rows_of(layer: Layer, x: Array) -> Array:
    """x [B, ..., features] -> [B, N, features]."""
    if x.ndim < 2:
        raise LayerError(
            layer,
            f"was given {spell(x)}: one example, and no batch",
            "give the examples on axis 0: x[None]",
        )
    return x.reshape(x.shape[0], -1, x.shape[-1])


def summed(d: Array) -> Array:
    """[B, N, features] -> [B, features]: each example's gradient of a bias."""
    return widen(d).sum(1).astype(d.dtype)


@closed_form(Dense)
def of_dense(layer: Dense, params: Affine, x: Array, dz: Array) -> tuple[Array, Affine]:
    dx, _ = layer.backward(params, x, dz)
    a, d = rows_of(layer, x), rows_of(layer, dz)
    return dx, Affine(Outer(a, d), None if params.b is None else Full(summed(d)))  # type: ignore


@closed_form(Embedding)
def of_embedding(layer: Embedding, params: Table, ids: Array, dy: Array) -> tuple[None, Table]:
    if ids.ndim == 0:
        raise LayerError(layer, "was given one id, and no batch", "give ids int [B, ...]")
    rows = known_rows(ids, layer.vocabulary).reshape(ids.shape[0], -1)
    return None, Table(Rows(rows, rows_of(layer, dy), layer.vocabulary))  # type: ignore[arg-type]


@closed_form(RNN, LSTM, GRU)
def of_recurrent(
    layer: Recurrent, params: Any, residuals: RecurrentResiduals, dy: Any
) -> tuple[Any, Any]:
    """dz of all steps is kept, and the weights meet T rows of every example."""
    xs, h = residuals.x, residuals.h
    if xs.ndim < 3:
        raise LayerError(layer, f"was given {spell(xs)}: one sequence, and no batch")
    dx, dz = layer.cotangents(params, residuals, dy)
    dz_x, dz_h = (jnp.moveaxis(side, 0, -2) for side in layer.sides(dz))
    before = layer.states_before(h, residuals.initial)
    mask = residuals.mask
    if mask is not None:
        xs = jnp.where(jnp.moveaxis(mask, 0, -1)[..., None], xs, 0)
    dtype = params.w_x.dtype
    forms = {
        "w_x": Outer(rows_of(layer, xs), rows_of(layer, dz_x.astype(dtype))),
        "w_h": Outer(rows_of(layer, before), rows_of(layer, dz_h.astype(dtype))),
    }
    if params.b is not None:
        forms["b"] = Full(rows_of(layer, dz_x).sum(1).astype(dtype))
        if "b_n" in params._fields:
            last = rows_of(layer, dz_h)[..., -layer.features :]
            forms["b_n"] = Full(last.sum(1).astype(dtype))
    return dx, params._replace(**{name: forms.get(name) for name in params._fields})
