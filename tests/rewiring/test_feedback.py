"""Feedback weights: each rule is its formula, and digits are learned through them."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.data import load
from funcprop.rewiring.randomness import key_from

KEY = jax.random.key(0)
LAYERS = {
    "Dense": (fp.Dense(3), (5, 4)),
    "Dense, sequences": (fp.Dense(3, bias=False), (2, 5, 4)),
    "Conv": (fp.Conv(3, (2, 3), stride=(1, 2)), (2, 5, 6, 2)),
    "Conv, grouped": (fp.Conv(4, (3,), groups=2), (2, 7, 6)),
}
every_layer = pytest.mark.parametrize(("layer", "shape"), LAYERS.values(), ids=LAYERS)


def setup(layer, shape):
    x = jax.random.normal(KEY, shape, jnp.float64)
    params = layer.init(jax.random.key(1), x)
    y, kept = layer.forward(params, x)
    dy = jax.random.normal(jax.random.key(2), y.shape, y.dtype)
    return params, x, dy, kept, layer.backward(params, kept, dy)


def by_definition(layer, x, w, dy):
    """The cotangent of x in y = f(x, w), which is linear in x, column by column of its matrix."""
    b = None if not layer.bias else jnp.zeros(layer.features, x.dtype)
    kind = fp.layers.Affine if isinstance(layer, fp.Dense) else fp.layers.Kernel
    one_hots = jnp.eye(x.size, dtype=x.dtype).reshape(x.size, *x.shape)
    columns = jax.vmap(lambda e: (layer.forward(kind(w, b), e)[0] * dy).sum())(one_hots)
    return columns.reshape(x.shape)


def check(layer, shape, rule, weights):
    with jax.enable_x64(True):
        params, x, dy, kept, (dx, dparams) = setup(rule(layer), shape)
        wanted = by_definition(layer, x, weights(params), dy)
        np.testing.assert_allclose(dx, wanted, 1e-9, 1e-9)
        own = layer.backward(params.params, kept, dy)[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-12), dparams.params, own)
        return jax.tree.map(np.asarray, (params, dparams))


@every_layer
def test_feedback_alignment(layer, shape):
    params, dparams = check(layer, shape, fp.rewiring.feedback_alignment(), lambda p: p.feedback)
    assert params.feedback.shape == params.params.w.shape
    assert (params.feedback != params.params.w).all()
    assert (dparams.feedback == 0).all()


@every_layer
def test_kolen_pollack(layer, shape):
    _, dparams = check(layer, shape, fp.rewiring.kolen_pollack(), lambda p: p.feedback)
    assert (dparams.feedback == dparams.params.w).all()


@every_layer
def test_uniform_signs(layer, shape):
    def weights(params):
        w = params.params.w
        return jnp.sign(w) * jnp.sqrt((w**2).mean())

    check(layer, shape, fp.rewiring.sign_symmetry(), weights)


@every_layer
def test_fixed_random_magnitudes(layer, shape):
    def weights(params):
        w, v = params.params.w, params.feedback * jnp.sign(params.params.w)
        return v * jnp.sqrt((w**2).sum() / (v**2).sum())

    params, _ = check(layer, shape, fp.rewiring.sign_symmetry("fixed random"), weights)
    assert (params.feedback >= 0).all() and (params.feedback < 1).all()


@every_layer
def test_batch_wise_random_magnitudes(layer, shape):
    rule = fp.rewiring.sign_symmetry("batch-wise random")
    drawn = []

    def weights(params):
        drawn.append(np.asarray(rule(layer).backward_weights(params)))
        return jnp.asarray(drawn[0])

    params, _ = check(layer, shape, rule, weights)
    assert params.feedback == ()
    v, w = drawn[0], params.params.w
    assert (np.sign(v) == np.sign(w)).all()
    np.testing.assert_allclose(np.linalg.norm(v), np.linalg.norm(w), 1e-6)


def test_magnitudes_are_drawn_anew_after_every_update_and_only_then():
    layer = fp.rewiring.sign_symmetry("batch-wise random")(fp.Dense(100))
    params = layer.init(KEY, jnp.ones((1, 100)))
    moved = params._replace(params=params.params._replace(w=params.params.w.at[3, 4].add(1e-6)))
    v, again, other = (jax.jit(layer.backward_weights)(p) for p in (params, params, moved))
    sizes, others = jnp.abs(v).ravel(), jnp.abs(other).ravel()
    assert (v == again).all() and (v == layer.backward_weights(params)).all()
    assert abs(np.corrcoef(sizes, others)[0, 1]) < 0.05
    assert abs(np.corrcoef(sizes, jnp.abs(params.params.w).ravel())[0, 1]) < 0.05
    # U(0, 1) but for the scale
    np.testing.assert_allclose(sizes.mean() / sizes.max(), 0.5, atol=0.02)
    np.testing.assert_allclose(sizes.std() / sizes.max(), 12**-0.5, atol=0.02)


def test_keys_from_bits():
    x = jax.random.normal(KEY, (50,))
    trees = [
        x, -x, 2 * x, x[::-1], x.at[7].multiply(1 + 2e-7), (x, x), (x, 2 * x),
        x.astype(jnp.bfloat16),
        jnp.arange(3), jnp.arange(3, dtype=jnp.int8), jnp.arange(4), (), jnp.zeros(1), jnp.zeros(2),
    ]  # fmt: skip
    keys = [tuple(jax.random.key_data(key_from(tree)).tolist()) for tree in trees]
    assert len(set(keys)) == len(keys) - 1  # small integers in any dtype are the same words
    shifted = [jax.random.key_data(key_from(x * (1 + i * 2**-20)))[1].item() for i in range(200)]
    assert len(set(shifted)) == 200


def test_weights_of_zero_send_zeros():
    layer = fp.rewiring.sign_symmetry()(fp.Dense(3, w_init=fp.initializers.Zeros()))
    with jax.enable_x64(True):
        *_, (dx, _) = setup(layer, (5, 4))
    dx = np.asarray(dx)
    assert (dx == 0).all() and dx.shape == (5, 4)


def test_kolen_pollack_becomes_w_by_weight_decay_alone():
    x = jax.random.normal(KEY, (20, 6))
    y = jnp.argmax(x, -1) % 3
    apart = {}
    for decay in (0.0, 0.05):
        optimizer = optax.chain(optax.add_decayed_weights(decay), optax.sgd(0.5))
        model = fp.Serial(fp.Dense(8), fp.Tanh(), fp.rewiring.kolen_pollack()(fp.Dense(3)))
        state = fp.init_state(model, optimizer, KEY, x)
        step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
        before = jnp.linalg.norm(state.params[2].params.w - state.params[2].feedback)
        batches = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (200, *leaf.shape)), (x, y))
        state, _ = jax.lax.scan(step, state, batches)
        after = jnp.linalg.norm(state.params[2].params.w - state.params[2].feedback)
        apart[decay] = float(after / before)
    np.testing.assert_allclose(apart[0.0], 1, 1e-4)
    np.testing.assert_allclose(apart[0.05], (1 - 0.5 * 0.05) ** 200, 1e-3, 1e-5)


def test_errors():
    with pytest.raises(fp.LayerError, match="there is no w to go back by"):
        fp.rewiring.feedback_alignment()(fp.Tanh()).init(KEY, jnp.ones(3))
    with pytest.raises(fp.LayerError, match="there is no w to go back by"):
        fp.rewiring.sign_symmetry()(fp.BatchNorm()).init(KEY, jnp.ones((2, 3)))
    with pytest.raises(fp.LayerError, match="magnitude is 'random', wanted one of 'uniform'"):
        fp.rewiring.sign_symmetry("random")(fp.Dense(3))


# --- learning -------------------------------------------------------------------------------------

CONVNET = fp.Serial(
    fp.Pixels(), fp.Conv(8, (3, 3)), fp.ReLU(), fp.MaxPool((2, 2)),
    fp.Conv(16, (3, 3)), fp.ReLU(), fp.MaxPool((2, 2)), fp.Flatten(), fp.Dense(10),
)  # fmt: skip
MLP = fp.Serial(fp.Pixels(), fp.Flatten(), fp.Dense(30), fp.Tanh(), fp.Dense(20), fp.Tanh(),
                fp.Dense(10))  # fmt: skip
LOSS = fp.SoftmaxCrossEntropy()


def trained(model, epochs, data=None):
    data = data or load("digits")
    x, y = map(jnp.asarray, data.train)
    optimizer = optax.adam(3e-3)
    state = fp.init_state(model, optimizer, KEY, x[:1])
    epoch = fp.epoch(fp.train_step(fp.backprop(model, LOSS), optimizer), 20)
    for _ in range(epochs):
        state, _ = epoch(state, (x, y))
    return state.params, fp.evaluate(model, state.params, data.test).accuracy


@pytest.mark.parametrize("magnitude", ["uniform", "batch-wise random", None])
def test_digits_are_learned(magnitude):
    rule = (
        fp.rewiring.feedback_alignment()
        if magnitude is None
        else fp.rewiring.sign_symmetry(magnitude)
    )
    model = fp.rewire(CONVNET, {fp.Conv: rule, fp.Dense: rule})
    _, accuracy = trained(model, 6)
    assert accuracy > 0.8


@pytest.mark.parametrize("rule", [fp.rewiring.sign_symmetry(), fp.rewiring.feedback_alignment()])
def test_mnist_is_learned(rule):
    beside = Path(__file__).parents[3] / "shared/data/mnist"
    folder = Path(os.environ.get("FUNCPROP_MNIST", beside))
    if not folder.is_dir():
        pytest.skip("MNIST's four IDX files are not here: set FUNCPROP_MNIST to their folder")
    model = fp.rewire(MLP, {fp.Dense: rule})
    _, accuracy = trained(model, 1, data=load("mnist", folder))
    assert accuracy > 0.9


def test_weights_align_with_the_feedback():
    """Lillicrap et al. (2016): w turns until errors by B point where errors by wᵀ would."""
    model = fp.rewire(MLP, {fp.Dense: fp.rewiring.feedback_alignment()})
    data = load("digits")
    batch = tuple(jnp.asarray(part[:300]) for part in data.train)
    angles = jax.jit(fp.rewiring.alignment(model, LOSS))
    before = angles(model.init(KEY, batch[0]), batch)
    params, accuracy = trained(model, 15)
    after = angles(params, batch)
    assert accuracy > 0.9
    assert before["[2].w"] > 60 and before["[4].w"] > 60
    assert after["[2].w"] < before["[2].w"] - 15 and after["[4].w"] < before["[4].w"] - 15
    assert after["[6].w"] < 0.1
