"""A batch of no examples: the last shard of a data set may be empty."""

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.catalogue.inputs import structs
from funcprop.catalogue.table import ROWS
from funcprop.layer import is_float

KEY = jax.random.key(0)
ROW = {row.name: row for row in ROWS}


def without_examples(leaf):
    return jax.ShapeDtypeStruct((0, *leaf.shape[1:]), leaf.dtype)


def gradients(layer, params, x, context):
    y, residuals = layer.forward(params, x, context)
    return y, layer.backward(params, residuals, jax.tree.map(jnp.ones_like, y))


@pytest.mark.parametrize(
    "name", [row.name for row in ROWS if row.batched and row.surrogate is None]
)
def test_no_examples_give_an_empty_output_and_zero_gradients_or_are_refused_in_words(name):
    row = ROW[name]
    given = structs(row.x, jnp.float32)
    if any(not leaf.shape for leaf in jax.tree.leaves(given)):
        pytest.skip("has no example axis")
    x = jax.tree.map(without_examples, given)
    mask = None if row.mask is None else without_examples(structs(row.mask, jnp.float32))
    context = fp.Context(KEY, mask)
    params = jax.eval_shape(row.layer.init, KEY, given)
    try:
        y, (dx, _) = jax.eval_shape(
            lambda params, x, context: gradients(row.layer, params, x, context), params, x, context
        )
    except fp.LayerError as error:
        assert "batch is empty" in str(error) or "no variance" in str(error)
        return
    shapes = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(x) if is_float(leaf)]
    # the cotangent of an integer or a boolean is None
    found = [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(dx) if is_float(leaf)]
    assert found == shapes
    assert all(0 in leaf.shape for leaf in jax.tree.leaves(y))


def test_gradients_of_no_examples_are_zero():
    for layer, x in (
        (fp.LSTM(3), jnp.zeros((0, 5, 4))),
        (fp.GroupNorm(2), jnp.zeros((0, 2, 2, 4))),
        (fp.Dense(3), jnp.zeros((0, 4))),
    ):
        params = layer.init(KEY, x)
        y, (dx, dparams) = jax.jit(lambda p, x, layer=layer: gradients(layer, p, x, fp.Context()))(
            params, x
        )
        assert y.shape[0] == 0 and dx.shape == x.shape
        assert not any(leaf.any() for leaf in jax.tree.leaves(dparams))
    q = jnp.zeros((0, 5, 2, 4), jnp.float16)
    y, _ = jax.jit(lambda q: gradients(fp.DotProductAttention(), (), (q, q, q), fp.Context()))(q)
    assert y.shape == q.shape
