"""Parameters in a container of JAX's own that holds integers too: a sparse matrix."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.sparse import BCOO

import funcprop as fp
from funcprop.lifting import lift, per_example
from funcprop.training import init_state

from .solvers import sparse_of
from .table import EXAMPLES, normal


def loss(p, x):
    return jnp.sin(x @ p["m"]).sum()


def given():
    params = jax.tree.map(lambda leaf: np.asarray(leaf), {"m": sparse_of(4, 3)})
    return params, np.asarray(normal(EXAMPLES, 4), np.float32)


def test_a_gradient_that_jax_has_of_single_examples_alone_is_their_sum():
    """Of a product with a sparse matrix on the right JAX cannot differentiate what is mapped."""
    params, x = given()

    def of(data, x):
        return loss({"m": BCOO((data, params["m"].indices), shape=(4, 3))}, x)

    for reduction in ("sum", "mean"):
        layer = lift(per_example(loss, reduction), params, x)
        _, found = jax.jit(fp.backprop(layer))(params, x)
        wanted = jax.jit(jax.vmap(jax.grad(of), (None, 0)))(params["m"].data, x)
        wanted = np.sum(wanted, 0) / (1 if reduction == "sum" else EXAMPLES)
        assert found["m"].indices is None
        np.testing.assert_allclose(found["m"].data, wanted, rtol=1e-5)


def test_it_trains_and_is_compared():
    params, x = given()
    layer = lift(per_example(loss), params, x, init=lambda key, x: given()[0])
    state = init_state(layer, optax.sgd(0.1), jax.random.key(0), x)
    gradient = fp.backprop(layer)
    new, _ = jax.jit(fp.train_step(gradient, optax.sgd(0.1)))(state, x)
    _, found = jax.jit(gradient)(params, x)
    np.testing.assert_array_equal(new.params["m"].indices, params["m"].indices)
    step = params["m"].data - new.params["m"].data
    np.testing.assert_allclose(step, 0.1 * found["m"].data, rtol=1e-4, atol=1e-7)
    turned = lift(per_example(lambda p, x: jnp.sin(p["m"] @ x[:3]).sum()), params, x)
    assert fp.compare(turned, params, x, probes=2).ok
