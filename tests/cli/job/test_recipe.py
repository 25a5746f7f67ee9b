"""Names become models, losses, optimizers and gradients; what is impossible is refused."""

import dataclasses
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcprop.cli.job.build import (
    build_gradient,
    build_model,
    build_optimizer,
    build_step,
    check_data,
    prepare,
    weights,
)
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.names import (
    ACTIVATIONS,
    DEFAULTS,
    DIFFERENCES,
    INITS,
    LOSSES,
    OPTIMIZERS,
    OPTIONS,
)
from funcprop.cli.job.recipe import Recipe, settled
from funcprop.comparison.programs import on_device
from funcprop.data import Dataset, Examples
from funcprop.gradient import backprop
from funcprop.initializers import HeNormal, Normal, VarianceScaling, Zeros
from funcprop.layers import Dense, Sigmoid
from funcprop.models import MODELS, from_objective, gpt, gpt_objective, to_objective, vit
from funcprop.training.loop import epoch
from funcprop.training.state import init_state
from funcprop.training.step import train_step

EXAMPLE, CLASSES = (3, 3, 1), 4


def losses(recipe, steps=100):
    """The loss of each of the first steps of a run on made-up data."""
    rng = np.random.default_rng(0)
    n = steps * recipe.batch_size
    y = rng.integers(0, CLASSES, n).astype(np.int32)
    x = rng.random((n, *EXAMPLE), np.float32) + y[:, None, None, None].astype(np.float32) / 4
    model, optimizer = build_model(recipe, EXAMPLE, CLASSES), build_optimizer(recipe)
    state = init_state(model, optimizer, jax.random.key(recipe.seed), jnp.asarray(x[:1]))
    run = epoch(train_step(build_gradient(recipe, model), optimizer), recipe.batch_size)
    return np.asarray(run(state, prepare(recipe, x, y, CLASSES))[1].loss)


NIELSEN = Recipe(
    layers=(6,), activation="sigmoid", loss="quadratic", optimizer="sgd", learning_rate=3.0
)


@pytest.mark.parametrize("recipe", [Recipe(layers=(6,)), NIELSEN], ids=["default", "nielsen"])
def test_manual_and_automatic_take_the_same_path_and_repeat_to_the_bit(recipe):
    recipe = dataclasses.replace(recipe, batch_size=10)
    manual = losses(recipe)
    automatic = losses(dataclasses.replace(recipe, gradient="automatic"))
    assert len(manual) == 100 and manual[-10:].mean() < manual[:10].mean()
    np.testing.assert_allclose(manual, automatic, rtol=1e-5)
    np.testing.assert_array_equal(manual, losses(recipe))
    np.testing.assert_array_equal(
        automatic, losses(dataclasses.replace(recipe, gradient="automatic"))
    )


def test_another_seed_is_another_path():
    assert losses(Recipe(layers=(), seed=1), 2)[0] != losses(Recipe(layers=()), 2)[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns(name):
    seen = losses(Recipe(layers=(), optimizer=name, learning_rate=0.01), 40)
    assert seen[-10:].mean() < seen[:10].mean()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_learns(name):
    seen = losses(Recipe(layers=(), loss=name, learning_rate=0.01), 40)
    assert seen[-10:].mean() < seen[:10].mean()


def update(recipe, params, grads):
    optimizer = build_optimizer(recipe)
    with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
        return optax.apply_updates(params, updates)


def test_l2_joins_the_gradient_and_decay_stands_beside_it_and_both_spare_biases():
    params = {"w": jnp.full((2, 2), 2.0), "b": jnp.full(2, 2.0)}
    grads = jax.tree.map(jnp.ones_like, params)
    sgd = Recipe(optimizer="sgd", learning_rate=0.1)
    for option in ("l2", "weight_decay"):  # for plain descent the two are one
        new = update(dataclasses.replace(sgd, **{option: 0.5}), params, grads)
        np.testing.assert_allclose(new["w"], 2 - 0.1 * (1 + 0.5 * 2), rtol=1e-6)
        np.testing.assert_allclose(new["b"], 2 - 0.1, rtol=1e-6)
    adam = Recipe(optimizer="adam", learning_rate=0.1)
    new = update(dataclasses.replace(adam, l2=0.5), params, grads)
    np.testing.assert_allclose(new["w"], 2 - 0.1, rtol=1e-5)  # adam divides by the size
    new = update(dataclasses.replace(adam, weight_decay=0.5), params, grads)
    np.testing.assert_allclose(new["w"], 2 - 0.1 * (1 + 0.5 * 2), rtol=1e-5)


def test_clipping_limits_the_step():
    recipe = Recipe(layers=(), optimizer="sgd", learning_rate=1.0, clip_norm=1e-3)
    model = build_model(recipe, EXAMPLE, CLASSES)
    x, y = jnp.ones((2, *EXAMPLE)), jnp.array([0, 1], jnp.int32)
    params = model.init(jax.random.key(0), x)
    _, grads = build_gradient(recipe, model)(params, (x, y))
    assert float(optax.tree.norm(grads)) == pytest.approx(1e-3, rel=1e-4)


def test_sigmoid_and_quadratic_is_nielsens_network():
    model = build_model(NIELSEN, (28, 28, 1), 10)
    normal = {"w_init": Normal(), "b_init": Normal()}
    assert model.layers[2:] == (Dense(6, **normal), Sigmoid(), Dense(10, **normal), Sigmoid())
    chosen = build_model(dataclasses.replace(NIELSEN, init="scaled-normal"), (28, 28, 1), 10)
    assert chosen.layers[2].w_init == VarianceScaling(1.0, "fan_in", "normal")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("loss", LOSSES)
def test_only_sigmoid_networks_with_a_loss_of_a_difference_end_in_an_activation(activation, loss):
    last = build_model(Recipe(activation=activation, loss=loss), EXAMPLE, CLASSES).layers[-1]
    ends = activation == "sigmoid" and loss in DIFFERENCES
    assert isinstance(last, Sigmoid if ends else Dense)


def test_what_is_left_open_is_settled():
    recipe = settled(Recipe(optimizer="adamw"))
    assert (recipe.learning_rate, recipe.weight_decay, recipe.init) == (1e-3, 1e-4, "he")
    assert settled(Recipe(activation="tanh")).init == "glorot"
    assert settled(recipe) == recipe
    kept = Recipe(
        optimizer="adamw",
        layers=(),
        activation="tanh",
        learning_rate=0.5,
        weight_decay=0.0,
        init="normal",
    )
    assert settled(kept) == kept
    hidden = build_model(Recipe(), EXAMPLE, CLASSES).layers[2]
    assert (hidden.w_init, hidden.b_init) == (HeNormal(), Zeros())


# --- models and their options ---------------------------------------------------------------------


def test_every_model_has_its_options_and_its_defaults():
    assert list(DEFAULTS) == list(MODELS)
    for name, options in DEFAULTS.items():
        assert set(options) <= set(OPTIONS)
        recipe = settled(Recipe(model=name))
        assert all(getattr(recipe, option) is None for option in set(OPTIONS) - set(options))
        assert all(getattr(recipe, option) is not None for option in options)
        assert settled(recipe) == recipe


def test_options_reach_their_model():
    recipe = Recipe(model="vit", patch=4, width=6, depth=3, heads=2, dropout=0.1)
    assert build_model(recipe, (8, 12, 1), 5) == vit(5, (8, 12), 4, 6, 3, 2, 0.1)
    recipe = Recipe(model="gpt", length=9, width=6, depth=3, heads=2, dropout=0.1)
    assert build_model(recipe, (9,), 256) == gpt(256, 9, 6, 3, 2, 0.1)
    recipe = Recipe(model="convnet", width=3, activation="sigmoid", loss="quadratic")
    model = build_model(recipe, (8, 8, 1), 5)
    assert model.layers[1].features == 3 and model.layers[1].w_init == Normal()
    assert model.layers[-1] == Sigmoid()


@pytest.mark.parametrize("model", DEFAULTS)
def test_options_of_other_models_are_refused(model):
    values = dict.fromkeys(OPTIONS, 1) | {
        "layers": (3,),
        "dropout": 0.1,
        "activation": "relu",
        "init": "he",
    }
    for option in OPTIONS:
        if option in DEFAULTS[model]:
            Recipe(model=model, **{option: values[option]})
            continue
        with pytest.raises(RecipeError, match=f"--{option}: {model} has no such option; it has --"):
            Recipe(model=model, **{option: values[option]})


def toy(*shape, text=False):
    x = np.zeros((3, *shape), np.uint8)
    part = Examples(x, x.astype(np.int32) if text else np.array([0, 1, 0], np.int32))
    return Dataset("toy", part, part, 2)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_reads_what_it_can(model):
    image, sequence, table, text = toy(8, 8, 1), toy(5, 2), toy(4), toy(4, text=True)
    can = {
        "mlp": [image, sequence, table],
        "lstm": [image, sequence],
        "gpt": [text],
    }.get(model, [image])
    for data in (image, sequence, table, text):
        if data in can:
            check_data(Recipe(model=model), data)
        else:
            with pytest.raises(RecipeError, match=f"--model: {model} (cannot read|wants) .*toy"):
                check_data(Recipe(model=model), data)


def test_gpt_has_one_loss():
    with pytest.raises(RecipeError, match="--loss is 'hinge', and gpt is trained with"):
        Recipe(model="gpt", loss="hinge")


def test_the_gradient_of_text_is_the_objectives_in_the_models_arrangement():
    recipe = Recipe(model="gpt", length=4, width=4, depth=1, heads=1)
    model = build_model(recipe, (4,), 6)
    x = np.array([[0, 1, 2, 3], [5, 4, 3, 2]], np.uint8)
    batch = prepare(recipe, x, np.roll(x, 1).astype(np.int32), 6)
    params = on_device(lambda key: model.init(key, x), jax.random.key(0))
    found = []
    for name in ("manual", "automatic"):
        gradient = build_gradient(dataclasses.replace(recipe, gradient=name), model)
        found.append(on_device(gradient, params, batch))
    wanted = backprop(gpt_objective(model))
    value, grads = on_device(wanted, to_objective(params), batch)
    for (found_value, _), found_grads in found:
        np.testing.assert_allclose(found_value, value, rtol=1e-5)
        assert jax.tree.structure(found_grads) == jax.tree.structure(params)
        leaves = jax.tree.leaves(found_grads), jax.tree.leaves(from_objective(grads))
        for a, b in zip(*leaves, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6)


def test_stacked_biases_and_gains_do_not_decay():
    model = gpt(6, 4, width=4, depth=2, heads=1)
    tokens = jax.ShapeDtypeStruct((1, 4), jnp.int32)
    params = jax.eval_shape(lambda key: model.init(key, tokens), jax.random.key(0))
    named = {}
    for decays, (path, leaf) in zip(
        jax.tree.leaves(weights(params)), jax.tree.leaves_with_path(params), strict=True
    ):
        assert leaf.ndim > 1 or not decays
        named.setdefault(decays, set()).add(path[-1].name)
    assert named == {True: {"w"}, False: {"b", "scale", "bias"}}


def test_targets_are_prepared_as_the_loss_wants_them():
    x, y = np.zeros((2, *EXAMPLE), np.float32), np.array([2, 0], np.int32)
    assert prepare(Recipe(), x, y, 3)[1].tolist() == [2, 0]
    one_hot = prepare(Recipe(loss="quadratic"), x, y, 3)[1]
    assert one_hot.tolist() == [[0, 0, 1], [1, 0, 0]]
    assert one_hot.dtype == jnp.float32


def test_every_name_is_in_the_help():
    source = {
        "model": MODELS,
        "activation": ACTIVATIONS,
        "loss": LOSSES,
        "optimizer": OPTIMIZERS,
        "init": INITS,
    }
    text = inspect.getsource(Recipe)
    for names in source.values():
        for name in names:
            assert name in text


@pytest.mark.parametrize(
    ("option", "value", "nearest"),
    [
        ("model", "mpl", "mlp"),
        ("activation", "Sigmod", "sigmoid"),
        ("activation", "leaky_relu", "leaky-relu"),
        ("loss", "quadrati", "quadratic"),
        ("optimizer", "adamm", "adam"),
        ("init", "golrot", "glorot"),
        ("gradient", "auto", "automatic"),
    ],
)
def test_unknown_names_suggest_the_nearest(option, value, nearest):
    with pytest.raises(RecipeError, match=f"--{option}: unknown '{value}': did you mean "):
        Recipe(**{option: value})
    with pytest.raises(RecipeError, match=f"did you mean '{nearest}'"):
        Recipe(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("layers", (30, 0)),
        ("layers", (-1,)),
        ("layers", (10**9,)),
        ("layers", (1,) * 1001),
        ("batch_size", 0),
        ("batch_size", True),
        ("epochs", 0),
        ("epochs", -3),
        ("epochs", 10**9),
        ("seed", -1),
        ("seed", 2**32),
        ("width", 0),
        ("depth", 0),
        ("heads", 1.5),
        ("patch", -1),
        ("length", 10**9),
        ("dropout", 1.0),
        ("dropout", float("nan")),
        ("learning_rate", 0.0),
        ("learning_rate", -0.1),
        ("learning_rate", float("nan")),
        ("learning_rate", float("inf")),
        ("learning_rate", 1e9),
        ("clip_norm", 0.0),
        ("clip_norm", float("nan")),
        ("weight_decay", -1e-9),
        ("l2", float("nan")),
        ("l2", -1.0),
    ],
)
def test_impossible_numbers_are_refused(option, value):
    model = next(m for m, own in DEFAULTS.items() if option in own or option not in OPTIONS)
    with pytest.raises(RecipeError, match=f"--{option.replace('_', '-')}.*wanted"):
        Recipe(model=model, **{option: value})


def test_the_largest_seed_is_a_key():
    jax.random.key(Recipe(seed=2**32 - 1).seed)


# --- learning rates that change -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "warmup", "wanted"),
    [
        ("constant", 3, [0.25, 0.5, 0.75, 1, 1, 1, 1]),
        ("linear", 0, [1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]),
        ("linear", 3, [0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25]),
        ("cosine", 3, [0.25, 0.5, 0.75, *((1 + np.cos(np.pi * np.arange(4) / 4)) / 2)]),
    ],
)
def test_the_learning_rate_of_every_step(schedule, warmup, wanted):
    recipe = Recipe(optimizer="sgd", learning_rate=0.5, schedule=schedule, warmup=warmup)
    optimizer = build_optimizer(recipe, 7)
    state, seen = optimizer.init(jnp.zeros(())), []
    for _ in range(7):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            updates, state = optimizer.update(jnp.ones(()), state)
        seen.append(-float(updates))
    np.testing.assert_allclose(seen, 0.5 * np.array(wanted), rtol=1e-5)


def test_without_a_number_of_steps_the_rate_is_constant():
    optimizer = build_optimizer(Recipe(optimizer="sgd", learning_rate=0.5, schedule="cosine"))
    assert float(optimizer.update(jnp.ones(()), optimizer.init(jnp.zeros(())))[0]) == -0.5


# --- smoothed targets and averaged parameters -----------------------------------------------------


@pytest.mark.parametrize("model", ["mlp", "gpt"])
def test_smoothed_targets_mix_the_loss_with_that_of_all_classes(model):
    recipe = Recipe(model=model, layers=() if model == "mlp" else None)
    recipe = dataclasses.replace(recipe, **({"width": 4, "depth": 1} if model == "gpt" else {}))
    example = (5,) if model == "gpt" else EXAMPLE
    net = build_model(recipe, example, CLASSES)
    x = jnp.zeros((2, 5), jnp.int32) if model == "gpt" else jnp.ones((2, *EXAMPLE))
    y = jnp.ones(x.shape if model == "gpt" else (2,), jnp.int32)
    params = net.init(jax.random.key(0), x)

    def value(smoothing, target):
        smoothed = dataclasses.replace(recipe, label_smoothing=smoothing)
        return build_gradient(smoothed, net)(params, (x, target))[0][0]

    uniform = sum(value(0.0, y * 0 + c) for c in range(CLASSES)) / CLASSES
    np.testing.assert_allclose(value(0.2, y), 0.8 * value(0.0, y) + 0.2 * uniform, rtol=1e-5)


@pytest.mark.parametrize(
    ("model", "precision", "gradient"),
    [
        ("resnet", "bfloat16", "manual"),
        ("resnet", "float16", "automatic"),
        ("gpt", "bfloat16", "automatic"),
        ("gpt", "float16", "manual"),
    ],
)
def test_a_step_in_sixteen_bits_leaves_a_state_in_thirty_two(model, precision, gradient):
    recipe = Recipe(model=model, width=4, depth=1, precision=precision, gradient=gradient, ema=0.5)
    text = model == "gpt"
    x, y = (jnp.zeros((2, 8), jnp.int32),) * 2 if text else (
        jnp.ones((2, 8, 8, 1)), jnp.zeros(2, jnp.int32))  # fmt: skip
    net, optimizer = build_model(recipe, x.shape[1:], CLASSES), build_optimizer(recipe)
    state = jax.eval_shape(lambda key: init_state(net, optimizer, key, x), jax.random.key(0))
    step = build_step(recipe, net, optimizer)
    program, (low, metrics) = jax.make_jaxpr(step, return_shape=True)(state, (x, y))
    assert jax.tree.map(like, low) == jax.tree.map(like, state)
    assert metrics.loss.dtype == jnp.float32
    assert {"bfloat16": "bf16", "float16": "f16"}[precision] in str(program)


def like(leaf):
    return leaf.shape, leaf.dtype
