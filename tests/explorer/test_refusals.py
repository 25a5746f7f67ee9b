"""What `explain` refuses, and what it does not draw neuron by neuron."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

MODEL, LOSS = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(3)), fp.SoftmaxCrossEntropy()
X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Y = np.arange(6, dtype=np.int32) % 3


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(jax.random.key(0), X)


def test_what_the_page_could_not_compute_itself_is_blocks(params):
    masked = fp.Context(mask=jnp.array([True, True, True, False, False, False]))
    page = fp.explain(MODEL, params, (X, Y), LOSS, context=masked, costs=False)
    assert page.data["kind"] == "blocks"
    wide = np.stack([X, X], 1)
    page = fp.explain(MODEL, params, (wide, np.stack([Y, Y], 1)), LOSS, costs=False)
    assert page.data["kind"] == "blocks"


def test_frozen_layers_are_not_trained(params):
    model = fp.Serial(fp.rewiring.frozen()(fp.Dense(3)), fp.Tanh(), fp.Dense(3))
    given = jax.jit(model.init)(jax.random.key(0), X)
    assert fp.explain(model, given, (X, Y), LOSS, steps=1, costs=False).data["kind"] == "blocks"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch": (X, Y + 5)}, "the target at|the cost is nan"),
        ({"batch": None}, "the batch is None"),
        ({"batch": (X * 1j, Y)}, "complex64"),
        ({"params": ()}, "wanted a tuple of 3"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0, wanted a finite number of at least 0"),
    ],
)
def test_it_is_refused_in_words(params, change, words):
    given = {"params": params, "batch": (X, Y)} | change
    with pytest.raises((ValueError, TypeError), match=words):
        fp.explain(MODEL, loss=LOSS, **given)


def test_a_training_that_diverges_says_when(params):
    model = fp.Serial(fp.Dense(3), fp.ReLU(), fp.Dense(1))
    given = jax.jit(model.init)(jax.random.key(0), X)
    batch = (X, np.ones((6, 1), np.float32))
    with pytest.raises(ValueError, match=r"not finite after step \d+, with a learning rate of"):
        fp.explain(model, given, batch, fp.QuadraticCost(), learning_rate=1e200, steps=20)


def test_no_name_ends_the_script(params):
    page = fp.explain(MODEL, params, (X, Y), LOSS, title="<!--<script>")
    data = page.html.partition("application/json")[2].partition("</script>")[0]
    assert data and "<" not in data.partition(">")[2]
