"""The pictures of a run are of the loss that was trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.cli.job.names import LOSSES
from funcprop.cli.job.pictures import COSTS, NOISE, NORMS, draw_costs, draw_examples
from funcprop.cli.job.pictures import single_examples as single

MODEL = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(3), fp.Sigmoid())
X = np.random.default_rng(0).random((6, 5)).astype(np.float32)
Y = np.arange(6, dtype=np.int32) % 3
PARAMS = jax.eval_shape(MODEL.init, jax.random.key(0), X)
PARAMS = jax.tree.map(
    lambda leaf: np.random.default_rng(leaf.size).standard_normal(leaf.shape, np.float32), PARAMS
)
CONTEXT = fp.Context(jax.random.key(0))


@pytest.mark.parametrize("name", ["quadratic", "hinge"])
def test_single_examples_are_those_of_the_loss_that_was_trained(name):
    loss = LOSSES[name]
    target = Y if name == "hinge" else np.eye(3, dtype=np.float32)[Y]

    def one(params, x, target):
        y = MODEL.forward(params, x[None])[0]
        return loss.forward((), (y, target[None]))[0]

    each = jax.vmap(jax.grad(one), (None, 0, 0))(PARAMS, X, target)
    each = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(each)]
    norms, mean, spread = single(MODEL, loss, PARAMS, (X, target), CONTEXT)
    wanted = np.sqrt(sum((leaf**2).reshape(6, -1).sum(1) for leaf in each))
    np.testing.assert_allclose(norms, wanted, rtol=1e-5)
    for leaf, found, scatter in zip(each, *map(jax.tree.leaves, (mean, spread)), strict=True):
        np.testing.assert_allclose(found, leaf.mean(0), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(scatter, leaf.var(0), rtol=1e-3, atol=1e-7)


def test_files_are_named_and_a_model_that_mixes_examples_has_none(tmp_path):
    loss = LOSSES["cross-entropy"]
    given = (PARAMS, (X, Y), CONTEXT)
    assert draw_examples(tmp_path, MODEL, loss, *given, 2) == [NORMS, NOISE]
    assert draw_costs(tmp_path / COSTS, MODEL, loss, *given)
    assert {path.name for path in tmp_path.iterdir()} == {NORMS, NOISE, COSTS}
    mixed = fp.Serial(fp.Dense(4), fp.BatchNorm(), fp.Dense(3))
    params = jax.jit(mixed.init)(jax.random.key(0), jnp.asarray(X))
    assert single(mixed, loss, params, (X, Y), CONTEXT) is None
