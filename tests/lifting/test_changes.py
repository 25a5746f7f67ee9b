"""A function that has changed since it was traced, and derivatives of what was collected."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.collectors import collect, squared_norms, total
from funcprop.lifting import lift, per_example
from funcprop.lifting.jaxprs import inlined
from funcprop.lifting.linear import is_linear
from funcprop.lifting.traceable import PLANS

from .odd import RULES
from .table import normal

X, W = normal(4, 3), normal(3, 2)


class Model:
    """Models that are equal, whatever they hold."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, w, x):
        return jnp.sin(x @ w * self.factor).sum()

    def of_batch(self, w, x):
        return jnp.sin(x @ w * self.factor)

    def __eq__(self, other):
        return isinstance(other, Model)

    def __hash__(self):
        return 1


def norms(layer, loss=None):
    return total(fp.backprop(collect(layer, squared_norms), loss)(W, X)[1])


def of_jax(function):
    return jnp.square(jax.vmap(jax.grad(function), (None, 0))(W, X)).sum((1, 2))


FACTORS = {"a number": float, "an array": jnp.float32, "an array of NumPy": np.float32}


@pytest.mark.parametrize("kind", FACTORS)
def test_what_a_function_closes_over_may_change(kind):
    model = Model(FACTORS[kind](1.0))
    layer = lift(per_example(model, "sum"), W, X)
    np.testing.assert_allclose(norms(layer), of_jax(model), rtol=1e-4)
    model.factor = FACTORS[kind](1.5)
    np.testing.assert_allclose(norms(layer), of_jax(model), rtol=1e-4)
    other = Model(FACTORS[kind](0.5))  # equal, and hashed alike
    np.testing.assert_allclose(
        norms(lift(per_example(other, "sum"), W, X)), of_jax(other), rtol=1e-4
    )


def test_an_array_of_numpy_may_be_written_to():
    model = Model(np.ones(2, np.float32))
    layer = lift(per_example(model, "sum"), W, X)
    norms(layer)
    model.factor[:] = 2.0
    np.testing.assert_allclose(norms(layer), of_jax(model), rtol=1e-4)
    other = Model(np.ones(2, np.float32))
    np.testing.assert_allclose(
        norms(lift(per_example(other, "sum"), W, X)), of_jax(other), rtol=1e-4
    )


def test_what_is_the_same_has_one_plan():
    def function(w, x):
        mask = np.tril(np.ones((2, 2), np.float32))  # made anew each time
        return jnp.sin(jax.nn.relu(x @ w) @ mask @ jnp.array([1.0, 2.0])).sum()

    layer = lift(per_example(function, "sum"), W, X)
    shape = jax.ShapeDtypeStruct(X.shape[1:], X.dtype)
    first, _ = layer.plan(W, shape, {})
    known = len(PLANS)
    assert layer.plan(W, shape, {})[0] is first and len(PLANS) == known


def test_a_function_that_mixes_from_now_on_is_found_out():
    mixing = {"on": False}

    def function(w, x):
        y = x @ w
        return y - y.mean(0) if mixing["on"] else y

    layer, loss = lift(function, W, X), fp.MeanSquaredError(reduction="sum")
    asked = fp.backprop(collect(layer, squared_norms), loss)
    batch = X, jnp.zeros((4, 2))
    asked(W, batch)
    mixing["on"] = True
    with pytest.raises(fp.LayerError, match="mixes examples"):
        asked(W, batch)


@pytest.mark.parametrize("looped", [False, True])
def test_norms_can_be_differentiated(looped):
    def one(w, x):
        if not looped:
            return jnp.square(jnp.sin(x @ w) @ w.T + w[:, 0]).sum()
        step = jax.checkpoint(lambda h, _: (jnp.tanh(h @ w @ w.T), None))
        return jnp.square(jax.lax.scan(step, x, None, length=2)[0]).sum()

    with jax.enable_x64(True):
        w, x = (jnp.asarray(np.asarray(a), jnp.float64) for a in (W, X))
        layer = lift(per_example(one, "sum"), w, x)

        def given(w):
            return jnp.log(total(fp.backprop(collect(layer, squared_norms))(w, x)[1])).sum()

        def wanted(w):
            gradients = jax.vmap(jax.grad(one), (None, 0))(w, x)
            return jnp.log(jnp.square(gradients).sum((1, 2))).sum()

        np.testing.assert_allclose(jax.grad(given)(w), jax.grad(wanted)(w), rtol=1e-9)
        slopes = (jax.jvp(f, (w,), (jnp.cos(w),))[1] for f in (given, wanted))
        np.testing.assert_allclose(*slopes, rtol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_is_linear_is_known_for_one(name):
    """Then its parameter keeps the form of its use."""
    w = jnp.ones((3, 2))
    found = jax.make_jaxpr(lambda d, w: [RULES[name](w, d)])(w, w)
    assert is_linear(inlined(found), 1) == (name == "straight through")
