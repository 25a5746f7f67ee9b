"""A run that stops in the middle of an epoch of a stream goes on to the same bits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp
from funcprop.data import stream
from funcprop.training import Checkpoints


def test_a_stream_goes_on_from_a_checkpoint(tmp_path):
    x = np.random.default_rng(0).normal(size=(23, 3)).astype(np.float32)
    data = x, np.arange(23) % 2
    model, optimizer = fp.Dense(2), optax.sgd(0.1, momentum=0.9)
    step = jax.jit(fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer))
    start = fp.init_state(model, optimizer, jax.random.key(0), x)
    *_, (whole, _) = fp.fit(step, start, stream(data, 5, epochs=3))
    checkpoints = Checkpoints(tmp_path)
    for count, _ in enumerate(fp.fit(step, start, stream(data, 5, epochs=3), checkpoints), 1):
        if count == 6:
            break
    found = checkpoints.restore(start)
    batches = stream(data, 5, epochs=3).at(found.position)
    assert (batches.position["epoch"], batches.position["step"]) == (1, 2)
    *_, (state, _) = fp.fit(step, found.state, batches)
    assert int(state.step) == 12
    assert jax.tree.all(jax.tree.map(jnp.array_equal, state.params, whole.params))
