"""Frozen layers have no gradient at all: none is computed, none is stored."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp
from funcprop import rewiring

KEY = jax.random.key(0)
LOSS = fp.QuadraticCost()
BODY = fp.Serial(fp.Dense(256), fp.Tanh(), fp.Dense(256), fp.Tanh())


def flops(model, x):
    params = model.init(KEY, x)
    gradient = fp.backprop(model, LOSS)
    batch = (x, jax.eval_shape(lambda p, x: model.forward(p, x)[0], params, x))
    batch = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), batch)
    compiled = jax.jit(lambda *given: gradient(*given)[1]).lower(params, batch).compile()
    return compiled.cost_analysis()["flops"]


def test_the_products_of_frozen_weights_are_not_in_the_program():
    x = jnp.ones((128, 256))
    head = fp.Dense(8)
    all_of_it = flops(fp.Serial(BODY, head), x)
    without = flops(fp.Serial(rewiring.Frozen(BODY), head), x)
    product = 2 * 128 * 256 * 256
    # two dw, and the two dx below which nothing learns
    np.testing.assert_allclose(all_of_it - without, 3 * product, rtol=0.05)
    one = fp.Serial(BODY.layers[0], fp.Tanh(), rewiring.Frozen(BODY.layers[2]), fp.Tanh(), head)
    np.testing.assert_allclose(all_of_it - flops(one, x), product, rtol=0.05)


def test_dparams_is_none_for_the_whole_tree_and_dx_the_layers():
    x = jax.random.normal(KEY, (5, 256))
    layer = rewiring.Frozen(BODY)
    params = layer.init(KEY, x)
    y, kept = layer.forward(params, x)
    dx, dparams = layer.backward(params, kept, y)
    assert dparams is None
    np.testing.assert_array_equal(dx, BODY.backward(params.params, kept, y)[0])


def test_the_train_step_leaves_frozen_parameters_and_gives_them_no_state():
    x, y = jax.random.normal(KEY, (20, 4)), jnp.ones((20, 3))
    model = fp.Serial(fp.Dense(6), fp.Tanh(), fp.Skip(fp.Dense(6)), fp.Repeat(fp.Dense(6), 2),
                      fp.Conv(3, (1,)))  # fmt: skip
    model = fp.rewire(model, {fp.Dense: fp.rewiring.frozen()})
    for optimizer in (optax.adamw(0.1), optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1))):
        state = fp.init_state(model, optimizer, KEY, x)
        assert all(leaf.size <= 18 for leaf in jax.tree.leaves(state.opt_state))
        step = fp.train_step(fp.backprop(model, LOSS), optimizer)
        new, _ = jax.jit(step)(state, (x, y))
        jax.tree.map(np.testing.assert_array_equal, new.params[:4], state.params[:4])
        assert (new.params[4].w != state.params[4].w).any()
        epoch = fp.epoch(fp.train_step(fp.accumulate(fp.backprop(model, LOSS), 2), optimizer), 10)
        new, _ = epoch(state, (x, y))
        jax.tree.map(np.testing.assert_array_equal, new.params[:4], state.params[:4])
