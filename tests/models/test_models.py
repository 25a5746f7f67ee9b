"""Models are compositions found by name; each trains, predicts, and has the gradient of JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcprop.comparison.programs import on_device
from funcprop.composites import Serial
from funcprop.gradient import backprop, objective
from funcprop.initializers import HeNormal, Normal
from funcprop.layer import Context, LayerError
from funcprop.layers import (
    Conv,
    Dense,
    Dropout,
    Flatten,
    Identity,
    MaxPool,
    Pixels,
    ReLU,
    Sigmoid,
    Tanh,
)
from funcprop.losses import SoftmaxCrossEntropy
from funcprop.models import (
    MODELS,
    convnet,
    gpt,
    gpt_objective,
    lstm_classifier,
    mlp,
    resnet,
    vit,
)
from funcprop.prediction import inference
from funcprop.training import init_state, train_step

KEY = jax.random.key(0)
SMALL = {
    "mlp": mlp((5,), 3, Tanh()),
    "convnet": convnet(3, width=2, activation=Tanh()),
    "resnet": resnet(3, width=2),
    "lstm": lstm_classifier(3, width=3, dropout=0.2),
    "vit": vit(3, (4, 6), patch=2, width=4, depth=2, heads=2, dropout=0.2),
    "gpt": gpt(7, length=5, width=4, depth=2, heads=2, dropout=0.2),
}
CLASSIFIERS = [name for name in SMALL if name != "gpt"]


def setting(name, dtype=jnp.float32):
    """-> what backprop takes, and a batch of four."""
    rng = np.random.default_rng(0)
    if name == "gpt":
        tokens = rng.integers(0, 7, (4, 6)).astype(np.uint8)
        return (gpt_objective(SMALL[name], chunk=7),), (tokens[:, :-1], tokens[:, 1:].astype("i4"))
    x = rng.random((4, 4, 6, 1)).astype(dtype)
    return (SMALL[name], SoftmaxCrossEntropy()), (x, np.array([0, 1, 2, 1], np.int32))


@functools.cache
def init(name):
    """Parameters in float32: made by one program for all tests of a model."""
    parts, batch = setting(name)
    x = batch if len(parts) == 1 else batch[0]
    return on_device(lambda key: parts[0].init(key, x), KEY)


def test_every_model_is_tried_here_and_documented_and_a_value():
    assert list(MODELS) == list(SMALL)
    for name, model in SMALL.items():
        assert "[" in MODELS[name].__doc__ and "Raises LayerError" in MODELS[name].__doc__
        hash(model)
    assert convnet(3, 2) == convnet(3, 2) != convnet(3, 4)


@pytest.mark.parametrize("name", SMALL)
def test_the_gradient_by_hand_is_that_of_jax(name):
    rng = np.random.default_rng(1)
    # off zero, so that nothing is hidden behind it
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf, np.float64) + 0.1 * rng.normal(size=leaf.shape), init(name)
    )
    with jax.enable_x64(True):
        parts, batch = setting(name, jnp.float64)

        def both(params, batch):
            context = Context(key=KEY)
            by_jax = jax.value_and_grad(objective(*parts))(params, batch, context)
            return backprop(*parts)(params, batch, context), by_jax

        by_hand, by_jax = on_device(both, params, batch)
    assert jax.tree.structure(by_hand) == jax.tree.structure(by_jax)
    for a, b in zip(jax.tree.leaves(by_hand), jax.tree.leaves(by_jax), strict=True):
        assert a.dtype == jnp.float64
        assert np.linalg.norm(a - b) <= 1e-10 * max(np.linalg.norm(b), 1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_every_model_takes_a_step_and_predicts(name):
    parts, batch = setting(name)
    optimizer = optax.adam(0.02)
    x = batch if len(parts) == 1 else batch[0]
    step = train_step(backprop(*parts, has_aux=True), optimizer)

    def run(key, batch):
        state = init_state(parts[0], optimizer, key, x)
        state, metrics = jax.lax.scan(lambda s, _: step(s, batch), state, length=20)
        return state, metrics.loss

    state, losses = on_device(run, KEY, batch)
    assert losses[-5:].mean() < losses[:5].mean()
    predictor, params = inference(parts[0], state.params, state.statistics)
    y = on_device(lambda p, x: predictor.forward(p, x)[0], params, x)
    assert jnp.isfinite(y).all()
    assert y.shape == (() if name == "gpt" else (4, 3)) and y.dtype == jnp.float32


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_read_bytes_as_numbers_up_to_one(name):
    x = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 1)).astype(np.uint8)

    def run(params, *inputs):
        return [SMALL[name].forward(params, x, Context(key=KEY))[0] for x in inputs]

    both = on_device(run, init(name), x, (x / 255).astype(np.float32))
    np.testing.assert_allclose(*both, atol=1e-5)


# --- one by one -----------------------------------------------------------------------------------


def test_mlp_is_dense_layers_with_an_activation_between():
    assert mlp((30,), 10) == Serial(Pixels(), Flatten(), Dense(30), Sigmoid(), Dense(10))


def test_mlp_with_everything():
    model = mlp((5, 4), 3, ReLU(), Sigmoid(), w_init=HeNormal(), b_init=Normal(), axes=1)
    dense = [Dense(size, w_init=HeNormal(), b_init=Normal()) for size in (5, 4, 3)]
    assert model == Serial(
        Pixels(), Flatten(axes=1), dense[0], ReLU(), dense[1], ReLU(), dense[2], Sigmoid()
    )


def test_mlp_without_hidden_layers_is_linear():
    assert mlp((), 3) == Serial(Pixels(), Flatten(), Dense(3))


def test_convnet_is_two_convolutions_and_two_dense_layers():
    he = {"w_init": HeNormal()}
    assert convnet(10, 8, dropout=0.3, output=Sigmoid()) == Serial(
        *(Pixels(), Conv(8, (3, 3), **he), ReLU(), MaxPool((2, 2))),
        *(Conv(16, (3, 3), **he), ReLU(), MaxPool((2, 2))),
        *(Flatten(), Dense(32, **he), ReLU(), Dropout(0.3), Dense(10, **he), Sigmoid()),
    )


def test_resnet_20_has_its_published_size():
    model = resnet(10, width=16, depth=3)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    params = jax.eval_shape(lambda key: model.init(key, x), KEY)
    # 269,722 with shortcuts that pad with zeros, and 2,752 in ours, which are convolutions
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 269_722 + 2_752


def test_vit_needs_patches_that_fill_the_image():
    with pytest.raises(LayerError, match="patches of 3 × 3 do not fill an image of 8 × 6"):
        vit(10, (8, 6), patch=3)
    with pytest.raises(LayerError, match="no multiple of heads = 3"):
        vit(10, (8, 8), patch=2, width=64, heads=3)


@pytest.mark.parametrize(
    "build", [lambda: mlp((0,), 10), lambda: convnet(10, 0), lambda: lstm_classifier(10, 0)]
)
def test_sizes_must_be_positive_whole_numbers(build):
    with pytest.raises(LayerError, match="features is 0, wanted a whole number of at least 1"):
        build()


def test_dropout_is_gone_in_prediction():
    assert inference(SMALL["convnet"], init("convnet"))[0].layers[10] == Identity()
