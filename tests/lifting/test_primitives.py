"""A row of the table of primitives, added from outside."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.collectors import Rows, book_keeping, squared_norms
from funcprop.lifting import Axes, Primitive, register
from funcprop.lifting.primitives import TABLE

B, V, D = 8, 500, 4


def loss(params, example):
    """Of a row of a table that is not gathered, but sliced."""
    index, target = example
    row = jax.lax.dynamic_index_in_dim(params["table"], index, keepdims=False)
    return ((jnp.tanh(row) - target) ** 2).sum()


def position(eqn, weights):
    sizes, shape = eqn.params["slice_sizes"], eqn.invars[0].aval.shape
    return 0 if weights == [0] and sizes == (1, *shape[1:]) else None


def axes(eqn, position):
    return Axes((), (0,), tuple(range(1, eqn.invars[0].aval.ndim)))


def form(eqn, position, operands, dy):
    rows = eqn.invars[0].aval.shape[0]
    ids = jnp.clip(operands[0], 0, rows - 1)
    return Rows(ids[:, None], dy.reshape(len(ids), 1, -1), rows)


@pytest.fixture
def row():
    before = dict(TABLE)
    TABLE.pop("dynamic_slice", None)
    yield Primitive("dynamic_slice", position, axes, form)
    TABLE.clear()
    TABLE.update(before)


def test_a_row_from_outside_gives_its_primitive_a_form(row):
    rng = np.random.default_rng(0)
    params = {"table": jnp.asarray(rng.normal(size=(V, D)), jnp.float32)}
    batch = jnp.arange(B) * 75, jnp.asarray(rng.normal(size=(B, D)), jnp.float32)  # one beyond it
    grads = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(params, batch)["table"]
    wanted = np.square(np.asarray(grads, np.float64)).sum((1, 2))

    def asked():
        """The norms, the memory that they take, and what is kept of every example."""
        lifted = fp.lift(fp.per_example(loss, "sum"), params, batch)
        norms = jax.jit(fp.backprop(fp.collect(lifted, squared_norms), None))
        compiled = norms.lower(params, batch).compile()
        kept = fp.backprop(fp.collect(lifted, book_keeping), None)
        forms = jax.eval_shape(kept, params, batch)[1]["table"].value.forms
        memory = compiled.memory_analysis().temp_size_in_bytes
        return np.asarray(fp.collectors.total(compiled(params, batch)[1])), memory, forms

    norms, before, forms = asked()
    np.testing.assert_allclose(norms, wanted, rtol=1e-5)
    assert not isinstance(forms, Rows) and before >= B * V * D * 4
    register(row)
    norms, after, forms = asked()
    np.testing.assert_allclose(norms, wanted, rtol=1e-5)
    assert isinstance(forms, Rows) and after < before / 20
