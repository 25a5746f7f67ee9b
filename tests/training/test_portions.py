"""Portions of an epoch: they are the epoch, and wherever it is cut they reach the same bits."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp
from funcprop.training.portions import portions


def test_they_are_the_epoch_wherever_it_is_cut():
    model, optimizer = fp.Dense(3), optax.adam(0.1)
    data = jnp.arange(22.0).reshape(11, 2) / 8, jnp.arange(11) % 3
    step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    start = fp.init_state(model, optimizer, jax.random.key(0), data[0])
    parts = portions(step, 3, data)  # three batches, and one of two
    batches = parts.draw(start.key, start.step, data)
    found = []
    for cuts in ((0, 4), (0, 1, 4), (0, 2, 3, 4), (0, 1, 2, 3, 4)):
        state, losses = start, jnp.zeros(parts.steps)
        for first, until in itertools.pairwise(cuts):
            state, losses = parts.run(state, losses, batches, first, until)
        found.append((np.asarray(state.params.w), np.asarray(losses), int(state.step)))
    for w, losses, steps in found[1:]:
        np.testing.assert_array_equal(w, found[0][0])
        np.testing.assert_array_equal(losses, found[0][1])
        assert steps == 4
    whole, metrics = fp.epoch(step, 3)(start, data)
    np.testing.assert_allclose(found[0][0], whole.params.w, rtol=1e-5)
    np.testing.assert_allclose(found[0][1], metrics.loss, rtol=1e-5)
