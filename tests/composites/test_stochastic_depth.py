"""StochasticDepth: whole examples drop a branch."""

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp

CONTEXT = fp.Context(key=jax.random.key(0))


def test_drops_whole_examples():
    layer = fp.StochasticDepth(fp.Identity(), 0.25)
    x = jnp.ones((400, 2, 3))
    y, residuals = layer.forward(((),), x, CONTEXT)
    assert residuals.kept is not None and residuals.kept.shape == (400, 1, 1)
    assert jnp.allclose(y, jnp.where(residuals.kept, 1 / 0.75, 0))
    assert 0.65 < residuals.kept.mean() < 0.85
    dx, _ = layer.backward(((),), residuals, x)
    assert (dx == y).all()


def test_one_example_is_kept_or_dropped_whole():
    layer = fp.StochasticDepth(fp.Identity(), 0.5)
    for seed in range(4):
        y, _ = layer.forward(((),), jnp.ones(5), fp.Context(key=jax.random.key(seed)))
        assert (y == y[0]).all()


def test_inference_is_the_branch_itself():
    model = fp.Skip(fp.StochasticDepth(fp.Serial(fp.Dense(3), fp.Dropout(0.5)), 0.5))
    params = model.init(jax.random.key(0), jnp.ones((2, 3)))
    predictor, new = fp.inference(model, params)
    assert predictor == fp.Skip(fp.Serial(fp.Dense(3), fp.Identity()))
    predictor.forward(new, jnp.ones((2, 3)))


def test_rate_zero_draws_nothing_and_errors():
    y, residuals = fp.StochasticDepth(fp.Tanh(), 0).forward(((),), jnp.zeros((2, 3)))
    assert residuals.kept is None and (y == 0).all()
    with pytest.raises(fp.LayerError, match="rate is 2"):
        fp.StochasticDepth(fp.Tanh(), 2)
    with pytest.raises(fp.LayerError, match="no key"):
        fp.StochasticDepth(fp.Tanh(), 0.5).forward(((),), jnp.zeros((2, 3)))
    assert repr(fp.StochasticDepth(fp.Tanh(), 0.5)) == "StochasticDepth(Tanh(), 0.5)"
