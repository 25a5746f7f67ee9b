"""The graph of a lifted function: which parameter reads what another one gave."""

import jax
import jax.numpy as jnp
import numpy as np

import funcprop as fp
from funcprop.explorer.flow import flow

X = np.ones((5, 3), np.float32)


def test_paths_that_part_and_meet():
    def loss(p, example):
        x, y = example
        h = jnp.tanh(x @ p["a"] + p["b"])
        return jnp.sum((h @ p["c"] + x[:2] * p["skip"] - y) ** 2)

    params = {"a": np.ones((3, 4)), "b": np.ones(4), "c": np.ones((4, 2)), "skip": np.ones(2)}
    params, batch = jax.tree.map(np.float32, params), (X, np.ones((5, 2), np.float32))
    lifted = fp.lift(fp.per_example(loss), params, batch)
    assert [layer.path for layer in lifted.layers] == ["['a']", "['b']", "['c']", "['skip']"]
    assert flow(lifted, params, batch) == [[-1], [0], [1], [-1], [-1, 2, 3]]


def test_a_recurrent_weight_reads_itself():
    def network(p, x):
        def step(h, row):
            h = jnp.tanh(row @ p["w"] + h @ p["u"])
            return h, None

        start = jnp.zeros((x.shape[0], 4))
        return jax.lax.scan(step, start, jnp.moveaxis(x, 1, 0))[0] @ p["v"]

    params = {"u": np.ones((4, 4)), "v": np.ones((4, 1)), "w": np.ones((3, 4))}
    params, x = jax.tree.map(np.float32, params), np.ones((5, 7, 3), np.float32)
    lifted = fp.lift(network, params, x)
    assert flow(lifted, params, x) == [[0, 2], [0, 2], [-1], [1]]


def test_branches_and_weights_made_of_weights():
    def network(p, x):
        w = p["g"] * p["v"]
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w, lambda x: x @ p["other"], x)

    params = {"g": np.ones(2), "other": np.ones((3, 2)), "v": np.ones((3, 2))}
    params = jax.tree.map(np.float32, params)
    lifted = fp.lift(network, params, X)
    assert flow(lifted, params, X) == [[-1], [-1], [-1], [0, 1, 2]]
