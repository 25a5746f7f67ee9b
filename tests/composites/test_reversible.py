"""Reversible: the backward pass rebuilds what the forward pass forgot."""

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp

F = fp.Serial(fp.Dense(3), fp.Tanh())
G = fp.Serial(fp.Dense(3), fp.Sigmoid())


def setup(layer, shape=(5, 6)):
    x = jax.random.normal(jax.random.key(1), shape)
    return layer.init(jax.random.key(2), x), x


def run(layer, params, x, context=fp.Context()):
    y, residuals = layer.forward(params, x, context)
    return y, *layer.backward(params, residuals, jax.tree.map(jnp.cos, y))


def test_a_stack_equals_repeat_of_a_block_and_keeps_one_output():
    stack, repeat = fp.ReversibleRepeat(F, G, 4), fp.Repeat(fp.Reversible(F, G), 4)
    params, x = setup(stack)
    got, wanted = jax.jit(lambda p, x: (run(stack, p, x), run(repeat, (p,), x)))(params, x)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape and jnp.allclose(a, b, atol=1e-5)
    kept = jax.tree.leaves(stack.forward(params, x)[1])
    assert [leaf.shape for leaf in kept] == [(5, 6)]


def test_a_pair_is_the_halves():
    block = fp.Reversible(F, G)
    params, x = setup(block)
    y, dx, dparams = run(block, params, x)
    pair, dpair, dparams_pair = run(block, params, (x[:, :3], x[:, 3:]))
    assert jnp.allclose(jnp.concatenate(pair, -1), y)
    assert jnp.allclose(jnp.concatenate(dpair, -1), dx)
    assert jax.tree.structure(dparams) == jax.tree.structure(dparams_pair)


def test_the_same_numbers_are_drawn_again():
    noisy = fp.Serial(fp.Dense(3), fp.Dropout(0.5), fp.Tanh())
    stack = fp.ReversibleRepeat(noisy, noisy, 3)
    params, x = setup(stack)
    context = fp.Context(key=jax.random.key(5))
    y, dx, dparams = run(stack, params, x, context)
    want, pull = jax.vjp(lambda p, x: stack.forward(p, x, context)[0], params, x)
    wdp, wdx = pull(jnp.cos(want))
    for a, b in zip(
        jax.tree.leaves((y, dx, dparams)), jax.tree.leaves((want, wdx, wdp)), strict=True
    ):
        assert jnp.allclose(a, b, atol=1e-5)
    predictor, _ = fp.inference(stack, params)
    plain = fp.Serial(fp.Dense(3), fp.Identity(), fp.Tanh())
    assert predictor == fp.ReversibleRepeat(plain, plain, 3)


def test_memory_does_not_grow_with_depth():
    wide = fp.Serial(fp.Dense(16), fp.Tanh())

    def temporary(layer):
        params, x = setup(layer, (2048, 32))

        def both(params, x):
            y, residuals = layer.forward(params, x)
            return layer.backward(params, residuals, y)

        return jax.jit(both).lower(params, x).compile().memory_analysis().temp_size_in_bytes

    activation = 2048 * 32 * 4
    short, long = (temporary(fp.ReversibleRepeat(wide, wide, n)) for n in (4, 32))
    assert long - short < activation
    assert temporary(fp.Repeat(fp.Reversible(wide, wide), 32)) > long + 25 * activation


def test_errors():
    with pytest.raises(fp.LayerError, match="7 features have no two halves"):
        fp.Reversible(F, G).init(jax.random.key(0), jnp.ones((2, 7)))
    with pytest.raises(fp.LayerError, match="wanted one array or two"):
        fp.Reversible(F, G).init(jax.random.key(0), (jnp.ones(2),) * 3)
    wrong = fp.Reversible(fp.Dense(2), G)
    with pytest.raises(fp.LayerError, match="cannot be added"):
        wrong.forward(*setup(wrong))
    with pytest.raises(fp.LayerError, match="length is 0"):
        fp.ReversibleRepeat(F, G, 0)
    block = fp.Reversible(F, G)
    params, x = setup(block)
    with pytest.raises(fp.LayerError, match="dy is"):
        block.backward(params, block.forward(params, x)[1], jnp.ones((5, 4)))
    assert repr(fp.ReversibleRepeat(fp.Tanh(), fp.Tanh(), 2)) == (
        "ReversibleRepeat(Tanh(), Tanh(), length=2)"
    )
