"""Direct feedback alignment: every block hears the output's error by its own random weights."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.data import load
from funcprop.rewiring.direct import blocks

KEY = jax.random.key(0)
DIRECT = {fp.Serial: fp.rewiring.direct_feedback_alignment()}
MLP = fp.Serial(
    fp.Pixels(), fp.Flatten(axes=2), fp.Dense(5), fp.Tanh(), fp.Dense(6), fp.Sigmoid(), fp.Dense(3)
)
CONVNET = fp.Serial(
    fp.Conv(4, (3, 3)), fp.ReLU(), fp.MaxPool((2, 2)),
    fp.Skip(fp.Serial(fp.Conv(4, (3, 3)), fp.Tanh())), fp.Flatten(), fp.Dense(3),
)  # fmt: skip


def close(a, b):
    np.testing.assert_allclose(a, b, 1e-9, 1e-12)


def test_blocks_begin_at_layers_with_parameters():
    x = jnp.ones((2, 4, 3))
    assert blocks(MLP.init(KEY, x)) == [range(0, 4), range(4, 6), range(6, 7)]
    assert blocks(((), ())) == [range(0, 2)]
    assert blocks(()) == [range(0, 0)]


def test_a_perceptron_by_definition():
    with jax.enable_x64(True):
        x = jax.random.normal(KEY, (7, 4, 3), jnp.float64)
        model = fp.rewire(MLP, DIRECT)
        params = model.init(KEY, x)
        _, _, p1, _, p2, _, _ = params.params
        b1, b2 = params.feedback
        assert b1.shape == (3, 5) and b2.shape == (3, 6)
        y, kept = model.forward(params, x)
        e = jnp.cos(y)
        dx, dparams = model.backward(params, kept, e)
        a0 = x.reshape(7, 12)
        a1 = jnp.tanh(a0 @ p1.w + p1.b)
        a2 = jax.nn.sigmoid(a1 @ p2.w + p2.b)
        d1, d2 = (e @ b1) * (1 - a1**2), (e @ b2) * a2 * (1 - a2)
        close(dx, (d1 @ p1.w.T).reshape(x.shape))
        own = dparams.params
        for p, a, d in ((own[2], a0, d1), (own[4], a1, d2), (own[6], a2, e)):
            close(p.w, a.T @ d)
            close(p.b, d.sum(0))
        assert all((b == 0).all() for b in dparams.feedback)


def test_convolutions_and_composites_by_definition():
    with jax.enable_x64(True):
        x = jax.random.normal(KEY, (5, 6, 4, 2), jnp.float64)
        model = fp.rewire(CONVNET, DIRECT)
        params = model.init(KEY, x)
        b1, b2 = params.feedback
        assert b1.shape == (3, 3, 2, 4) and b2.shape == (3, 24)
        y, kept = model.forward(params, x)
        e = jnp.cos(y)
        dx, dparams = model.backward(params, kept, e)
        own = params.params
        first, second = fp.Serial(*CONVNET.layers[:3]), fp.Serial(*CONVNET.layers[3:5])
        y1, kept = first.forward(own[:3], x)
        want = first.backward(own[:3], kept, jnp.einsum("no,ohwc->nhwc", e, b1))
        close(dx, want[0])
        jax.tree.map(close, dparams.params[:3], want[1])
        _, kept = second.forward(own[3:5], y1)
        _, want = second.backward(own[3:5], kept, e @ b2)
        jax.tree.map(close, dparams.params[3:5], want)


def test_sequences_an_example_alone_and_vmap_agree():
    model = fp.rewire(fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dense(3)), DIRECT)
    x = jax.random.normal(KEY, (2, 4, 6))
    params = model.init(KEY, x)
    assert params.feedback[0].shape == (3, 5)

    def sent(x):
        y, kept = model.forward(params, x)
        return model.backward(params, kept, jnp.cos(y))[0]

    dx = sent(x)
    for other in (jax.vmap(sent)(x), jax.lax.map(sent, x), jax.jit(sent)(x)):
        np.testing.assert_allclose(other, dx, 1e-5, 1e-6)
    np.testing.assert_allclose(sent(x[0, 0]), dx[0, 0], 1e-5, 1e-6)


def test_feedback_keeps_the_norm_and_the_parameters_are_serials():
    model = fp.Serial(fp.Dense(1000), fp.ReLU(), fp.Dense(100))
    params = fp.rewire(model, DIRECT).init(KEY, jnp.ones((2, 10)))
    plain = model.init(KEY, jnp.ones((2, 10)))
    jax.tree.map(np.testing.assert_array_equal, params.params, plain)
    np.testing.assert_allclose(params.feedback[0].var() * (1000 + 100) / 2, 1, 0.02)


def test_statistics_and_inference():
    model = fp.rewire(
        fp.Serial(fp.Dense(5), fp.BatchNorm(), fp.ReLU(), fp.Dropout(0.5), fp.Dense(3)), DIRECT
    )
    x = jax.random.normal(KEY, (20, 4))
    params = model.init(KEY, x)
    _, kept = model.forward(params, x, fp.Context(key=KEY))
    found = model.statistics(kept)
    assert jax.tree.leaves(found)
    plain, own = fp.inference(model, params, found)
    assert type(plain) is fp.Serial and type(plain.layers[3]) is fp.Identity
    assert plain.forward(own, x)[0].shape == (20, 3)


def test_errors():
    model = fp.rewiring.DirectFeedback(fp.Dense(4), fp.LastStep(), fp.Dense(3))
    assert model.init(KEY, jnp.ones((2, 5, 4))).feedback[0].shape == (3, 4)
    model = fp.rewiring.DirectFeedback(fp.Dense(4), fp.Dense(3), fp.LastStep())
    assert model.init(KEY, jnp.ones((2, 5, 4))).feedback[0].shape == (3, 5, 4)
    with pytest.raises(fp.LayerError, match="hidden arrays that begin with the same axes"):
        turned = fp.Serial(fp.Dense(4), fp.Transpose((1, 0)))
        fp.rewiring.DirectFeedback(fp.Dense(4), turned, fp.Dense(3)).init(KEY, jnp.ones((6, 5)))
    with pytest.raises(fp.LayerError, match="wanted RewiredParams"):
        model.forward(((), (), ()), jnp.ones((2, 5, 4)))
    with pytest.raises(fp.LayerError, match="is no Serial"):
        fp.rewire(fp.Skip(fp.Dense(3)), {fp.Skip: fp.rewiring.direct_feedback_alignment()})


def test_digits_are_learned():
    data = load("digits")
    x, y = map(jnp.asarray, data.train)
    model = fp.rewire(
        fp.Serial(fp.Pixels(), fp.Flatten(), fp.Dense(50), fp.Tanh(), fp.Dense(30), fp.Tanh(),
                  fp.Dense(10)), DIRECT)  # fmt: skip
    optimizer = optax.adam(3e-3)
    state = fp.init_state(model, optimizer, KEY, x[:1])
    gradient = fp.backprop(model, fp.SoftmaxCrossEntropy())
    epoch = fp.epoch(fp.train_step(gradient, optimizer), 20)
    for _ in range(10):
        state, _ = epoch(state, (x, y))
    assert fp.evaluate(model, state.params, data.test).accuracy > 0.9
