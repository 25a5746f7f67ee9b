"""Manual and automatic gradients have one signature and agree; hand-written rules live in JAX."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

MODEL = fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dropout(0.2), fp.Dense(3))
LOSS = fp.SoftmaxCrossEntropy()
KEY = jax.random.key(0)


@pytest.fixture
def setting():
    x = jax.random.normal(KEY, (7, 4))
    return MODEL.init(KEY, x), (x, jnp.arange(7) % 3), fp.Context(key=jax.random.key(5))


def assert_close(first, second, tolerance=1e-5):
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
def test_backprop_is_value_and_grad_of_objective(setting, masked):
    params, batch, context = setting
    if masked:
        batch = (*batch, jnp.arange(7) < 4)
    by_hand = fp.backprop(MODEL, LOSS)(params, batch, context)
    by_jax = jax.value_and_grad(fp.objective(MODEL, LOSS))(params, batch, context)
    assert_close(by_hand, by_jax)


def test_the_mask_of_the_batch_and_of_the_context_are_the_same(setting):
    params, (x, target), context = setting
    mask = jnp.arange(7) < 4
    gradient = fp.backprop(MODEL, LOSS)
    inside = gradient(params, (x, target, mask), context)
    assert_close(inside, gradient(params, (x, target), fp.Context(context.key, mask)), 0)


def test_has_aux_follows_jax(setting):
    params, batch, context = setting
    (value, aux), grads = fp.backprop(MODEL, LOSS, has_aux=True)(params, batch, context)
    reference = jax.value_and_grad(fp.objective(MODEL, LOSS, has_aux=True), has_aux=True)
    (value2, aux2), grads2 = reference(params, batch, context)
    assert aux.prediction.shape == (7, 3) and aux.statistics == ()
    assert_close((value, aux, grads), (value2, aux2, grads2))


def test_a_layer_with_parameters_can_be_the_whole_objective(setting):
    _, (x, target), context = setting
    whole = fp.Serial(fp.Parallel(MODEL, fp.Identity()), LOSS)
    params = whole.init(KEY, (x, target))
    by_hand = fp.backprop(whole)(params, (x, target), context)
    by_jax = jax.value_and_grad(fp.objective(whole))(params, (x, target), context)
    assert_close(by_hand, by_jax)


def test_autodiff_is_a_layer(setting):
    params, (x, _), context = setting
    layer = fp.autodiff(MODEL)
    y, residuals = jax.jit(layer.forward)(params, x, context)
    dx, dparams = jax.jit(layer.backward)(params, residuals, jnp.ones_like(y))
    y2, residuals2 = MODEL.forward(params, x, context)
    assert_close((y, dx, dparams), (y2, *MODEL.backward(params, residuals2, jnp.ones_like(y2))))
    assert repr(fp.autodiff(fp.Dense(3))) == "Autodiff(Dense(3))"


def test_as_function_is_differentiated_by_the_rule(setting):
    params, (x, _), context = setting

    @dataclass(frozen=True)
    class Doubled(fp.Tanh):
        def backward(self, params, a, da):
            return 2 * super().backward(params, a, da)[0], ()

    plain, doubled = fp.as_function(fp.Tanh()), fp.as_function(Doubled())
    one = jax.grad(lambda v: plain((), v).sum())(x)
    assert_close(jax.grad(lambda v: doubled((), v).sum())(x), 2 * one)
    whole = fp.as_function(MODEL)
    by_hand = jax.jit(jax.grad(lambda p: whole(p, x, context).sum()))(params)
    by_jax = jax.grad(lambda p: MODEL.forward(p, x, context)[0].sum())(params)
    assert_close(by_hand, by_jax)


def test_as_function_takes_integers():
    layer = fp.Serial(fp.Parallel(fp.Dense(4), fp.Identity()), fp.SoftmaxCrossEntropy())
    x = (jnp.ones((2, 3)), jnp.array([0, 3]))
    params = layer.init(KEY, x)
    f = fp.as_function(layer)
    grads, dx = jax.grad(lambda p, v: f(p, (v, x[1])), argnums=(0, 1))(params, x[0])
    assert dx.shape == (2, 3) and grads[0][0].w.shape == (3, 4)


@pytest.mark.parametrize(
    ("backward", "message"),
    [
        (lambda a, da: (da.astype(jnp.bfloat16), ()), "bfloat16"),
        (lambda a, da: (da.sum(), ()), r"float32\[\], wanted float32\[2, 3\]"),
        (lambda a, da: ((da,), ()), "returned dx as"),
        (lambda a, da: (da, (da,)), "returned dparams as"),
    ],
)
def test_as_function_refuses_rules_of_the_wrong_form(backward, message):
    @dataclass(frozen=True)
    class Wrong(fp.Tanh):
        def backward(self, params, a, da):
            return backward(a, da)

    with pytest.raises(fp.LayerError, match=message):
        jax.grad(lambda v: fp.as_function(Wrong())((), v).sum())(jnp.ones((2, 3)))


def test_vmap_over_initial_parameters(setting):
    _, batch, context = setting
    keys = jax.random.split(KEY, 3)
    many = jax.vmap(lambda key: MODEL.init(key, batch[0]))(keys)
    gradient = fp.backprop(MODEL, LOSS)
    values, _ = jax.vmap(lambda p: gradient(p, batch, context))(many)
    assert values.shape == (3,)


def test_bad_input(setting):
    params, (x, target), context = setting
    gradient = fp.backprop(MODEL, LOSS)
    with pytest.raises(fp.LayerError, match=r"Serial\[2\] Dropout\(0.2\).*no key"):
        gradient(params, (x, target))
    with pytest.raises(ValueError, match=r"holds nan at \(2, 1\)"):
        gradient(params, (x.at[2, 1].set(jnp.nan), target), context)
    with pytest.raises(ValueError, match=r"wanted \(x, target\)"):
        gradient(params, x, context)
    with pytest.raises(fp.LayerError, match="classes from 0 to 2"):
        gradient(params, (x, target + 1), context)
    with pytest.raises(fp.LayerError, match="wanted a scalar"):
        fp.backprop(MODEL, fp.SoftmaxCrossEntropy(reduction="none"))(params, (x, target), context)
    with pytest.raises(fp.LayerError, match="wanted a tuple of 4"):
        gradient(params[:2], (x, target), context)
    with pytest.raises(fp.LayerError, match=r"Serial\[0\] Dense\(5\).*wanted Affine"):
        gradient(((), *params[1:]), (x, target), context)
    with pytest.raises(TypeError, match="wanted a layer"):
        fp.backprop(MODEL, jnp.square)  # type: ignore[arg-type]
    with pytest.raises(fp.LayerError, match="dtypes differ"):
        gradient(params, (x.astype(jnp.bfloat16), target), context)


def test_labels_out_of_range_give_nan_under_jit(setting):
    params, (x, target), context = setting
    for loss in (LOSS, fp.Hinge()):
        value, grads = jax.jit(fp.backprop(MODEL, loss))(params, (x, target + 1), context)
        assert jnp.isnan(value)
        assert all(jnp.isnan(leaf).any() for leaf in jax.tree.leaves(grads))


# --- inside other libraries -----------------------------------------------------------------------


class Twice(fp.Tanh):
    """A rule that is wrong on purpose: what comes out shows whose gradient it is."""

    def backward(self, params, a, da):
        dz, _ = super().backward(params, a, da)
        return 2 * dz, ()


def test_flax_modules_use_the_rule():
    nnx = pytest.importorskip("flax.nnx")
    activation = fp.as_function(Twice())

    class Block(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x, f):
            return f((), self.linear(x))

    block, x = Block(nnx.Rngs(0)), jnp.linspace(-1.0, 1.0, 8).reshape(2, 4)

    def gradient(f):
        return jax.tree.leaves(nnx.grad(lambda block: block(x, f).sum())(block))

    for ours, plain in zip(gradient(activation), gradient(lambda _, z: jnp.tanh(z)), strict=True):
        assert jnp.allclose(ours, 2 * plain, rtol=1e-5)


def test_equinox_modules_use_the_rule():
    eqx = pytest.importorskip("equinox")
    activation = fp.as_function(Twice())
    linear = eqx.nn.Linear(4, 3, key=jax.random.key(0))
    x = jnp.linspace(-1.0, 1.0, 4)

    def gradient(f):
        return jax.tree.leaves(eqx.filter_grad(lambda linear: f((), linear(x)).sum())(linear))

    for ours, plain in zip(gradient(activation), gradient(lambda _, z: jnp.tanh(z)), strict=True):
        assert jnp.allclose(ours, 2 * plain, rtol=1e-5)
