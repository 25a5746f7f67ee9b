"""From the model that trains to the one that predicts; running statistics on the way."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp


@dataclass(frozen=True)
class Center(fp.Layer):
    """Subtracts the batch's mean, and observes it."""

    def forward(self, params, x, context=fp.Context()):
        mean = x.mean(0)
        return x - mean, mean

    def backward(self, params, mean, dy):
        return dy - dy.mean(0), ()

    def statistics(self, mean):
        return mean

    def inference(self, params, statistics) -> tuple[fp.Layer, Any]:
        return Shift(), statistics


@dataclass(frozen=True)
class Shift(fp.Layer):
    def forward(self, params, x, context=fp.Context()):
        return x - params, ()

    def backward(self, params, residuals, dy):
        return dy, -dy.sum(0)


MODEL = fp.Serial(fp.Dense(3), fp.Skip(fp.Serial(Center(), fp.Dropout(0.5))), fp.Dense(2))


def test_noise_and_batches_disappear_under_every_composite():
    x = jnp.arange(8.0).reshape(4, 2)
    params = MODEL.init(jax.random.key(0), x)
    _, residuals = MODEL.forward(params, x, fp.Context(key=jax.random.key(1)))
    statistics = MODEL.statistics(residuals)
    assert jax.tree.map(jnp.shape, statistics) == ((), (((3,), ()),), ())
    model, new = fp.inference(MODEL, params, statistics)
    assert model == fp.Serial(fp.Dense(3), fp.Skip(fp.Serial(Shift(), fp.Identity())), fp.Dense(2))
    alone = jnp.stack([model.forward(new, row)[0] for row in x])
    np.testing.assert_allclose(alone, model.forward(new, x)[0], rtol=1e-5)


def test_a_model_without_statistics_needs_none():
    model = fp.Serial(fp.Dense(3), fp.Dropout(0.5))
    params = model.init(jax.random.key(0), jnp.ones((1, 2)))
    assert fp.inference(model, params)[0] == fp.Serial(fp.Dense(3), fp.Identity())


def test_statistics_are_averaged_with_the_start_corrected():
    x = jnp.arange(8.0).reshape(4, 2)
    target = jnp.zeros((4, 2))
    optimizer = optax.sgd(0.0)
    gradient = fp.backprop(MODEL, fp.QuadraticCost(), has_aux=True)
    step = fp.train_step(gradient, optimizer, statistics_momentum=0.9)
    state = fp.init_state(MODEL, optimizer, jax.random.key(0), x)
    first, _ = step(state, (x, target))
    second, _ = step(first, (x + 1, target))
    means = [fp.Dense(3).forward(state.params[0], v)[0].mean(0) for v in (x, x + 1)]
    np.testing.assert_allclose(first.statistics[1][0][0], means[0], rtol=1e-6)
    want = (0.9 * 0.1 * means[0] + 0.1 * means[1]) / (1 - 0.9**2)
    np.testing.assert_allclose(second.statistics[1][0][0], want, rtol=1e-5)


def test_a_gradient_without_statistics_is_refused():
    optimizer = optax.sgd(0.1)
    x = jnp.ones((4, 2))
    state = fp.init_state(MODEL, optimizer, jax.random.key(0), x)
    step = fp.train_step(fp.backprop(MODEL, fp.QuadraticCost()), optimizer)
    with pytest.raises(ValueError, match="has_aux=True"):
        step(state, (x, jnp.zeros((4, 2))))


def test_wrong_trees_are_refused():
    with pytest.raises(fp.LayerError, match="params is tuple"):
        fp.inference(MODEL, ((), ()))


def test_statistics_of_another_size_are_refused():
    norm = fp.BatchNorm()
    params, wide = (norm.init(jax.random.key(0), jnp.ones((4, n))) for n in (2, 3))
    x = jax.random.normal(jax.random.key(1), (4, 3))
    statistics = norm.statistics(norm.forward(wide, x)[1])
    with pytest.raises(fp.LayerError, match="its statistics are"):
        fp.inference(norm, params, statistics)
