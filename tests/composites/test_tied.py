"""Tied: one parameter in several places, one gradient."""

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.layer import LayerError

CODER = fp.Serial(fp.Dense(7), fp.Tanh(), fp.Dense(4))
TIED = fp.Tied(CODER, (("[0].w.T", "[2].w"),))


def setup(layer, shape=(5, 4)):
    x = jax.random.normal(jax.random.key(1), shape)
    return layer.init(jax.random.key(2), x), x


def test_a_transposed_weight_has_the_gradient_of_both_uses():
    params, x = setup(TIED)
    assert params[0][2].w is None and params[0][2].b.shape == (4,)

    def plain(params):
        ((first, _, last),) = params
        return jnp.tanh(x @ first.w + first.b) @ first.w.T + last.b

    y, residuals = TIED.forward(params, x)
    want, pull = jax.vjp(plain, params)
    _, dparams = TIED.backward(params, residuals, jnp.cos(y))
    (wanted,) = pull(jnp.cos(want))
    assert jax.tree.structure(dparams) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(dparams), jax.tree.leaves(wanted), strict=True):
        assert jnp.allclose(a, b, atol=1e-5)


def test_layers_can_share_all_they_have():
    block = fp.Serial(fp.Dense(4), fp.Tanh())
    tied = fp.Tied(fp.Serial(block, block, block), (("[0]", "[1]"), ("[0]", "[2]")))
    params, x = setup(tied)
    assert params[0][1] is None and params[0][2] is None
    apart = fp.Serial(block, block, block)
    y, residuals = tied.forward(params, x)
    _, (dparams,) = tied.backward(params, residuals, jnp.cos(y))
    full = (params[0][0],) * 3
    wanted, kept = apart.forward(full, x)
    _, three = apart.backward(full, kept, jnp.cos(wanted))
    assert (y == wanted).all()
    assert jnp.allclose(dparams[0][0].w, sum(d[0].w for d in three), atol=1e-6)


def test_under_repeat_and_training_step():
    repeat = fp.Repeat(fp.Tied(fp.Serial(fp.Dense(4), fp.Dense(4)), (("[0].w", "[1].w"),)), 3)
    params, x = setup(repeat)
    value, grads = jax.jit(fp.backprop(repeat, fp.QuadraticCost()))(params, (x, x))
    objective = fp.objective(repeat, fp.QuadraticCost())
    wanted, automatic = jax.value_and_grad(objective)(params, (x, x))
    assert jnp.allclose(value, wanted)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(automatic), strict=True):
        assert jnp.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_inference_stays_tied_where_nothing_changed():
    model = fp.Tied(fp.Serial(fp.Dense(7), fp.Dropout(0.5), fp.Dense(4)), (("[0].w.T", "[2].w"),))
    params, x = setup(model)
    predictor, new = fp.inference(model, params)
    assert predictor == fp.Tied(fp.Serial(fp.Dense(7), fp.Identity(), fp.Dense(4)), model.pairs)
    assert new[0][2].w is None
    assert predictor.forward(new, x)[0].shape == (5, 4)


def test_errors_spell_the_paths():
    x = jnp.ones((5, 4))
    key = jax.random.key(0)
    with pytest.raises(fp.LayerError, match=r"'\[0\].table' names no parameter\n.*\[0\]\.w, \[0\]"):
        fp.Tied(CODER, (("[0].table", "[2].w"),)).init(key, x)
    with pytest.raises(fp.LayerError, match=r"float32\[4, 7\].*float32\[7, 4\](.|\n)*transposed"):
        fp.Tied(CODER, (("[0].w", "[2].w"),)).init(key, x)
    with pytest.raises(fp.LayerError, match="is no path"):
        fp.Tied(CODER, (("0.w", "[2].w"),))
    with pytest.raises(fp.LayerError, match="named twice, or lies in a source"):
        fp.Tied(CODER, (("[0].w", "[2].w"), ("[0].b", "[2]")))
    with pytest.raises(fp.LayerError, match="wanted a tuple of"):
        fp.Tied(CODER, ("[0].w", "[2].w"))  # pyright: ignore
    with pytest.raises(fp.LayerError, match="wanted None"):
        TIED.forward((CODER.init(key, x),), x)
    with pytest.raises(fp.LayerError, match="wanted two axes"):
        fp.Tied(CODER, (("[0].b.T", "[2].b"),)).init(key, x)
    assert repr(TIED) == f"Tied({CODER!r}, (('[0].w.T', '[2].w'),))"


def test_a_source_inside_another_is_refused():
    layer = fp.Serial(fp.Dense(4), fp.Dense(4), fp.Dense(4, bias=False))
    with pytest.raises(LayerError, match="one source lies in another"):
        fp.Tied(layer, (("[0]", "[1]"), ("[0].w", "[2].w")))
