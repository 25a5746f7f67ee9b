"""Reversed, clipped, noisy, and sent straight through: each is its formula."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.layers import Elementwise

KEY = jax.random.key(0)
PAIR = fp.Parallel(fp.Dense(3), fp.Tanh(), fp.Identity())


def sent(layer, x):
    """dx of the rewired layer and of the plain one, dparams of both."""
    params = layer.init(jax.random.key(1), x)
    y, kept = layer.forward(params, x)
    dy = jax.tree.map(
        lambda leaf: None if jnp.issubdtype(leaf.dtype, jnp.integer) else jnp.cos(3 * leaf), y
    )
    dx, dparams = layer.backward(params, kept, dy)
    plain, own = layer.layer.backward(params.params, kept, dy)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), dparams.params, own)
    assert dparams.feedback == ()
    return dx, plain, dy


def normal(*shape):
    return jax.random.normal(KEY, shape, jnp.float64)


def test_reversal():
    with jax.enable_x64(True):
        dx, plain, _ = sent(fp.rewiring.gradient_reversal(0.3)(fp.Dense(3)), normal(5, 4))
        np.testing.assert_allclose(dx, -0.3 * plain, 1e-12)


def test_clipped_by_size():
    with jax.enable_x64(True):
        dx, plain, _ = sent(fp.rewiring.clip_cotangent(max_abs=0.2)(fp.Dense(3)), normal(5, 4))
        np.testing.assert_allclose(dx, np.clip(plain, -0.2, 0.2), 1e-12)
        assert (abs(plain) > 0.2).any()


def test_clipped_by_norm():
    with jax.enable_x64(True):
        dx, plain, _ = sent(fp.rewiring.clip_cotangent(max_norm=0.5)(fp.Dense(3)), normal(5, 4))
        np.testing.assert_allclose(dx, plain * 0.5 / np.linalg.norm(plain), 1e-12)
        dx, plain, _ = sent(fp.rewiring.clip_cotangent(max_norm=500.0)(fp.Dense(3)), normal(5, 4))
        np.testing.assert_allclose(dx, plain, 1e-12)


def test_a_norm_neither_overflows_nor_hides_what_is_not_finite():
    layer = fp.rewiring.clip_cotangent(max_norm=1.0)(fp.Identity())
    params = layer.init(KEY, jnp.ones(2))
    for given, wanted in (
        ([3e30, 4e30], [0.6, 0.8]),
        ([0.0, 0.0], [0.0, 0.0]),
        ([3e-30, 4e-30], [3e-30, 4e-30]),
        ([np.inf, 1.0], [np.nan, np.nan]),
    ):
        dx, _ = layer.backward(params, (), jnp.array(given, jnp.float32))
        np.testing.assert_allclose(dx, wanted, 1e-6)


def test_trees_and_integers():
    x = (jax.random.normal(KEY, (5, 4)), jnp.ones((2, 3)), jnp.arange(3))
    for rule in (
        fp.rewiring.gradient_reversal(),
        fp.rewiring.clip_cotangent(max_norm=1.0),
        fp.rewiring.clip_cotangent(max_abs=0.1),
        fp.rewiring.noisy_cotangent(0.1),
    ):
        dx, plain, _ = sent(rule(PAIR), x)
        assert jax.tree.structure(dx) == jax.tree.structure(plain) and dx[2] is None
    x = x[:2]
    dx, plain, _ = sent(fp.rewiring.clip_cotangent(max_norm=0.5)(fp.Parallel(*PAIR.layers[:2])), x)
    norm = np.sqrt(sum((leaf**2).sum() for leaf in plain))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b * 0.5 / norm, 1e-5), dx, plain)
    layer = fp.rewiring.clip_cotangent(max_norm=1.0)(fp.Embedding(5, 3))
    params = layer.init(KEY, jnp.arange(3))
    y, kept = layer.forward(params, jnp.arange(3))
    assert layer.backward(params, kept, y)[0] is None


def test_noise_is_normal_pure_and_another_for_another_cotangent():
    layer = fp.rewiring.noisy_cotangent(0.1)(fp.Identity())
    params = layer.init(KEY, jnp.ones(2))
    dy = jax.random.normal(KEY, (200, 50))
    back = jax.jit(lambda dy: layer.backward(params, (), dy)[0] - dy)
    noise, again, other = back(dy), back(dy), back(dy.at[0, 0].add(1e-3))
    assert (noise == again).all()
    np.testing.assert_allclose([noise.mean(), noise.std()], [0, 0.1], atol=0.004)
    assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.05
    twice = fp.rewiring.noisy_cotangent(0.1)(fp.Parallel(fp.Identity(), fp.Identity()))
    dx, _ = twice.backward(fp.composites.RewiredParams(((), ()), ()), ((), ()), (dy, dy))
    assert abs(np.corrcoef((dx[0] - dy).ravel(), (dx[1] - dy).ravel())[0, 1]) < 0.05


def test_straight_through():
    steps = fp.Lambda(Elementwise(jnp.round, jnp.zeros_like))
    with jax.enable_x64(True):
        layer = fp.rewire(
            fp.Serial(fp.HardTanh(), steps), {fp.Lambda: fp.rewiring.straight_through()}
        )
        x = jnp.array([-3.0, -0.8, 0.1, 0.7, 2.0])
        params = layer.init(KEY, x)
        y, kept = layer.forward(params, x)
        np.testing.assert_array_equal(y, [-1, -1, 0, 1, 1])
        dx, _ = layer.backward(params, kept, jnp.arange(1.0, 6))
        np.testing.assert_array_equal(dx, [0, 2, 3, 4, 0])
        dx, _, dy = sent(fp.rewiring.straight_through()(fp.Dense(4)), normal(5, 4))
        np.testing.assert_array_equal(dx, dy)


def test_errors():
    with pytest.raises(fp.LayerError, match="wanted one of the two"):
        fp.rewiring.clip_cotangent()(fp.Tanh())
    with pytest.raises(fp.LayerError, match="wanted one of the two"):
        fp.rewiring.clip_cotangent(1.0, 1.0)(fp.Tanh())
    with pytest.raises(fp.LayerError, match="max_abs is 0"):
        fp.rewiring.clip_cotangent(max_abs=0)(fp.Tanh())
    with pytest.raises(fp.LayerError, match="factor is -1"):
        fp.rewiring.gradient_reversal(-1)(fp.Tanh())
    with pytest.raises(fp.LayerError, match="stddev is -1"):
        fp.rewiring.noisy_cotangent(-1)(fp.Tanh())
    layer = fp.rewiring.straight_through()(fp.Dense(3))
    with pytest.raises(fp.LayerError, match="dy fits x only where"):
        layer.forward(layer.init(KEY, jnp.ones(4)), jnp.ones(4))
