"""OverTime: shared parameters at every step, whose gradients add."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.composites.sharing import Sum
from funcprop.layer import Layer

CELL = fp.Serial(fp.Dense(3), fp.Tanh())


def gradients(layer, params, x, context=fp.Context()):
    y, residuals = layer.forward(params, x, context)
    return y, *layer.backward(params, residuals, jnp.cos(y))


def setup(layer, shape=(2, 5, 4)):
    x = jax.random.normal(jax.random.key(1), shape)
    return layer.init(jax.random.key(2), x), x


def test_equals_a_layer_that_takes_time_for_a_batch_axis():
    for shape in ((2, 5, 4), (5, 4), (2, 3, 5, 4)):
        params, x = setup(fp.OverTime(CELL), shape)
        y, dx, (dp,) = gradients(fp.OverTime(CELL), params, x)
        wy, wdx, wdp = gradients(CELL, params[0], x)
        for a, b in zip(jax.tree.leaves((y, dx, dp)), jax.tree.leaves((wy, wdx, wdp)), strict=True):
            assert a.shape == b.shape and jnp.allclose(a, b, atol=1e-5)


def test_each_step_draws_its_own_numbers():
    x = jnp.ones((7, 3, 100))
    y, _ = fp.OverTime(fp.Dropout(0.5)).forward(((),), x, fp.Context(key=jax.random.key(0)))
    assert 0.4 < (y[:, 0] == y[:, 1]).mean() < 0.6


@dataclass(frozen=True)
class Masked(Layer):
    """y = x where the mask is True; it watches the mean of x."""

    def forward(self, params, x, context=fp.Context()):
        return jnp.where(context.mask[..., None], x, 0), (context.mask, x.mean())

    def statistics(self, residuals):
        return residuals[1]


def test_a_mask_over_time_is_read_step_by_step():
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    mask = jnp.arange(10).reshape(2, 5) % 3 > 0
    layer = fp.OverTime(Masked())
    y, residuals = layer.forward(((),), x, fp.Context(mask=mask))
    assert (y == jnp.where(mask[..., None], x, 0)).all()
    (mean,) = layer.statistics(residuals)
    assert mean.shape == () and jnp.allclose(mean, x.mean())
    whole = jnp.array([True, False])  # no mask over time: each step sees all of it
    y, _ = layer.forward(((),), x, fp.Context(mask=whole))
    assert (y == jnp.where(whole[:, None, None], x, 0)).all()


def test_the_sum_over_uses_is_a_value_that_can_be_another():
    @dataclass(frozen=True)
    class Every(Sum):
        def steps(self, layer, step, each):
            return jax.lax.map(step, each)

    layer = fp.OverTime(CELL, shared=Every())
    params, x = setup(layer)
    (records,) = gradients(layer, params, x)[2]
    (dp,) = gradients(fp.OverTime(CELL), params, x)[2]
    assert records[0].w.shape == (5, 4, 3)
    assert jnp.allclose(records[0].w.sum(0), dp[0].w, atol=1e-5)
    assert layer.rebuild((fp.Tanh(),)) == fp.OverTime(fp.Tanh(), shared=Every())


def test_errors():
    with pytest.raises(fp.LayerError, match=r"axis -2 is time"):
        fp.OverTime(CELL).init(jax.random.key(0), jnp.ones(4))
    with pytest.raises(fp.LayerError, match="one time in all"):
        fp.OverTime(fp.Identity()).forward(((),), (jnp.ones((3, 1)), jnp.ones((4, 1))))
    scalar = fp.OverTime(fp.QuadraticCost())
    with pytest.raises(fp.LayerError, match="no axis to put the time before"):
        scalar.forward(((),), (jnp.ones((3, 1)), jnp.ones((3, 1))))
