"""Functions that were written without us, against `jax.vmap` of `jax.grad`."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop import collectors as c
from funcprop.lifting import lift, per_example

from . import calls, equinox_rows, flax_rows, odd, plain, solvers  # noqa: F401
from .table import ROWS

MAX_NORM = 0.5
RULES = fp.collect_all(
    gradient=c.gradient,
    gradients=c.gradients,
    norms=c.squared_norms,
    products=c.inner_products,
    moment=c.second_moment,
)


@contextlib.contextmanager
def float64(row):
    """Libraries promote dtypes; what is plain is held to do without."""
    promotion = "standard" if row.library else "strict"
    with jax.enable_x64(True), jax.numpy_dtype_promotion(promotion):
        yield


def needs(library):
    try:
        pytest.importorskip(library)
    except AttributeError as error:  # flax 0.12.8 has no NNX on jax 0.12
        pytest.skip(f"{library}: {error}")


def floats_in(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(jnp.result_type(x), jnp.floating)]


def single(loss, params, x):
    """The gradients of single examples by JAX alone, of the floats: [B, ...] each."""
    leaves, tree = jax.tree.flatten(params)
    own = [i for i, leaf in enumerate(leaves) if floats_in(leaf)]

    def of_floats(floats, x):
        whole = list(leaves)
        for i, leaf in zip(own, floats, strict=True):
            whole[i] = leaf
        return loss(tree.unflatten(whole), x)

    floats = [leaves[i] for i in own]
    try:
        return jax.vmap(jax.grad(of_floats), (None, 0))(floats, x)
    except NotImplementedError:  # jax does not map lax.ragged_dot
        return jax.lax.map(lambda x: jax.grad(of_floats)(floats, x), x)


def wide(x):
    return np.asarray(x, np.float64)


@pytest.mark.parametrize("name", ROWS)
def test_single_examples_are_those_of_jax(name):
    row = ROWS[name]
    if row.library:
        needs(row.library)
    with float64(row):
        loss, params, x = row.make()
        layer = lift(per_example(loss, reduction="sum"), params, x)

        @jax.jit
        def run(params, x):
            _, found = fp.backprop(fp.collect(layer, RULES))(params, x)
            _, clipped = c.clipped(layer, None, MAX_NORM)(params, x)
            totals = [c.total(found, rule) for rule in ("norms", "products")]
            values = [record.value for record in c.records(found)]
            return single(loss, params, x), values, totals, floats_in(clipped)

        wanted, values, (norms, products), clipped = run(params, x)
    sizes = [(leaf.shape, leaf.dtype) for leaf in floats_in(params)]
    assert [(v["gradient"].shape, v["gradient"].dtype) for v in values] == sizes
    assert [(leaf.shape, leaf.dtype) for leaf in clipped] == sizes
    wanted = [wide(g) for g in wanted]
    flat = np.concatenate([g.reshape(len(g), -1) for g in wanted], 1)
    assert np.linalg.norm(flat) > 1e-3
    factors = np.minimum(1, MAX_NORM / np.linalg.norm(flat, axis=1))

    def close(given, definition):
        largest = max(np.linalg.norm(leaf) for leaf in definition)
        for one, other in zip(given, definition, strict=True):
            one = wide(one)
            assert one.shape == other.shape
            assert np.linalg.norm(one - other) <= row.tolerance * largest

    close([v["gradients"] for v in values], wanted)
    close([v["gradient"] for v in values], [g.sum(0) for g in wanted])
    close([v["moment"] for v in values], [np.square(g).sum(0) for g in wanted])
    close([norms], [np.square(flat).sum(1)])
    close([products], [flat @ flat.T])
    close(clipped, [np.tensordot(factors, g, 1) for g in wanted])
