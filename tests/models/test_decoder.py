"""A language model and its objective share parameters; text is drawn token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcprop.gradient import backprop
from funcprop.losses import SoftmaxCrossEntropy
from funcprop.models import from_objective, generate, gpt, gpt_objective, mlp, to_objective
from funcprop.prediction import inference

KEY = jax.random.key(0)
MODEL = gpt(11, length=6, width=8, depth=2, heads=2)
TOKENS = jax.random.randint(KEY, (3, 7), 0, 11)
BATCH = (TOKENS[:, :-1], TOKENS[:, 1:])


@pytest.fixture(scope="module")
def params():
    drawn = jax.jit(lambda key: MODEL.init(key, BATCH[0]))(KEY)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda w: w + 0.3 * rng.normal(size=w.shape).astype(np.float32), drawn)


def test_the_objective_is_the_cross_entropy_of_the_logits(params):
    by_logits = backprop(MODEL, SoftmaxCrossEntropy())
    without = backprop(gpt_objective(MODEL, chunk=5))
    value, grads = jax.jit(by_logits)(params, BATCH)
    value2, grads2 = jax.jit(without)(to_objective(params), BATCH)
    np.testing.assert_allclose(value, value2, rtol=1e-6)
    grads2 = from_objective(grads2)
    assert jax.tree.structure(grads) == jax.tree.structure(grads2) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grads2), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_each_arrangement_is_the_one_its_model_makes(params):
    objective = gpt_objective(MODEL)
    made = jax.eval_shape(lambda key: objective.init(key, BATCH), KEY)
    assert jax.tree.structure(made) == jax.tree.structure(to_objective(params))
    assert jax.tree.structure(from_objective(made)) == jax.tree.structure(params)
    same = from_objective(to_objective(params))
    assert all(map(np.array_equal, jax.tree.leaves(same), jax.tree.leaves(params)))


def test_a_position_reads_no_later_one(params):
    forward = jax.jit(lambda tokens: MODEL.forward(params, tokens)[0])
    y = forward(TOKENS[0, :6])
    changed = forward(TOKENS[0, :6].at[4].set((TOKENS[0, 4] + 1) % 11))
    np.testing.assert_allclose(y[:4], changed[:4], atol=1e-6)
    assert jnp.abs(y[4:] - changed[4:]).max() > 1e-3


def test_the_likeliest_tokens_follow_one_another(params):
    drawn = generate(MODEL, params, TOKENS[0, :3], 8, KEY, temperature=0)
    assert (drawn.shape, drawn.dtype) == ((8,), jnp.int32)
    forward = jax.jit(lambda tokens: MODEL.forward(params, tokens)[0])
    seen = TOKENS[0, :3].tolist()
    for token in drawn.tolist():
        last = seen[-6:]  # the model reads six tokens
        logits = forward(jnp.array(last + [0] * (6 - len(last))))
        assert token == int(logits[len(last) - 1].argmax())
        seen.append(token)


def test_what_is_drawn_depends_on_the_key_and_repeats(params):
    draw = jax.jit(lambda key: generate(MODEL, params, TOKENS[0], 20, key))
    first, again, other = (draw(jax.random.key(seed)).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_tokens_are_drawn_with_their_probabilities(params):
    prompt = TOKENS[1, :4]
    logits = jax.jit(MODEL.forward)(params, prompt)[0][-1] / 0.7

    def one(key):
        return generate(MODEL, params, prompt, 1, key, temperature=0.7)[0]

    drawn = jax.jit(jax.vmap(one))(jax.random.split(KEY, 4000))
    shares = np.bincount(drawn, minlength=11) / 4000
    np.testing.assert_allclose(shares, jax.nn.softmax(logits), atol=0.035)


def test_dropout_is_gone_in_prediction():
    model = gpt(11, length=6, width=8, depth=2, heads=2, dropout=0.5)
    params = jax.jit(lambda key: model.init(key, BATCH[0]))(KEY)
    predictor, params = inference(model, params)
    assert "Dropout" not in repr(predictor)
    draw = jax.jit(lambda key: generate(predictor, params, TOKENS[0, :2], 3, key))
    assert draw(KEY).shape == (3,)
    assert jnp.isfinite(jax.jit(gpt_objective(predictor).forward)(to_objective(params), BATCH)[0])


def test_mistakes_are_named(params):
    with pytest.raises(TypeError, match=r"is no language model of gpt: write gpt\("):
        gpt_objective(mlp((3,), 2))
    with pytest.raises(ValueError, match=r"the prompt is int32\[0\], wanted int\[T\]"):
        generate(MODEL, params, TOKENS[0, :0], 3, KEY)
    with pytest.raises(ValueError, match=r"the prompt is float32\[2\]"):
        generate(MODEL, params, jnp.ones(2), 3, KEY)
    with pytest.raises(ValueError, match="temperature is -1, wanted"):
        generate(MODEL, params, TOKENS[0], 3, KEY, temperature=-1)
