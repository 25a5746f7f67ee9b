"""LoRA: gradients of the small factors alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp

KEY = jax.random.key(0)


def setup(layer, shape, dtype=jnp.float64):
    x = jax.random.normal(KEY, shape, dtype)
    params = layer.init(KEY, x)
    noise = jax.random.normal(KEY, params.c.shape, dtype)  # c starts at zero, which hides da
    return params._replace(c=noise, b=None if params.b is None else params.b + 1), x


def plain(layer, params, x):
    w = params.w + layer.scale * params.a @ params.c
    return x @ w + (0 if params.b is None else params.b)


@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 5, 4), (200, 4)])
@pytest.mark.parametrize("layer", [fp.LoRA(3, 2, alpha=5.0), fp.LoRA(3, 7, bias=False)])
def test_equals_jax_vjp_of_its_definition(layer, shape):
    with jax.enable_x64(True):
        params, x = setup(layer, shape)
        y, kept = layer.forward(params, x)
        np.testing.assert_allclose(y, plain(layer, params, x), 1e-12)
        dy = jnp.cos(y)
        dx, dparams = layer.backward(params, kept, dy)
        wanted, pullback = jax.vjp(lambda p, x: plain(layer, p, x), params, x)
        want, want_dx = pullback(dy)
        np.testing.assert_allclose(y, wanted, 1e-12)
        for a, b in ((dx, want_dx), (dparams.a, want.a), (dparams.c, want.c)):
            np.testing.assert_allclose(a, b, 1e-10, 1e-12)
        assert dparams.w is None and dparams.b is None


def test_under_jit_vmap_scan_and_repeat():
    layer = fp.LoRA(4, 2)
    params, x = setup(layer, (5, 4), jnp.float32)

    def gradients(x):
        y, kept = layer.forward(params, x)
        return layer.backward(params, kept, y)

    dx, dparams = gradients(x)
    each_dx, each = jax.vmap(gradients)(x)
    np.testing.assert_allclose(each_dx, dx, 1e-4, 1e-5)
    np.testing.assert_allclose(each.a.sum(0), dparams.a, 1e-4, 1e-5)
    np.testing.assert_allclose(jax.jit(gradients)(x)[1].c, dparams.c, 1e-4, 1e-5)
    stack = fp.Repeat(fp.Serial(layer, fp.Tanh()), 3)
    params = stack.init(KEY, x)
    y, kept = stack.forward(params, x)
    (dstack,) = stack.backward(params, kept, y)[1]
    assert dstack[0].w is None and dstack[0].a.shape == (3, 4, 2)


def test_no_product_of_the_size_of_w():
    """Forward and dx: two products with w and small ones. The dense layer has a third."""
    x = jnp.ones((256, 512))

    def flops(layer):
        params = layer.init(KEY, x)

        def both(params, x):
            y, kept = layer.forward(params, x)
            return layer.backward(params, kept, y)

        return jax.jit(both).lower(params, x).compile().cost_analysis()["flops"]

    product = 2 * 256 * 512 * 512
    np.testing.assert_allclose(flops(fp.Dense(512)), 3 * product, rtol=0.02)
    np.testing.assert_allclose(flops(fp.LoRA(512, 4)), 2 * product, rtol=0.05)


def test_starts_from_a_trained_layer_and_merges_back():
    x, y = jax.random.normal(KEY, (20, 4)), jax.random.normal(KEY, (20, 3))
    trained = fp.Dense(3).init(KEY, x)
    layer = fp.LoRA(3, 2, alpha=4)
    params = layer.adapt(KEY, trained)
    np.testing.assert_array_equal(layer.forward(params, x)[0], fp.Dense(3).forward(trained, x)[0])

    model, optimizer = fp.Serial(layer), optax.adamw(0.1)
    state = fp.init_state(model, optimizer, KEY, x, (params,))
    step = fp.train_step(fp.backprop(model, fp.QuadraticCost()), optimizer)
    assert sum(leaf.size for leaf in jax.tree.leaves(state.opt_state)) == 2 * (8 + 6) + 1
    losses = []
    for _ in range(20):
        state, metrics = jax.jit(step)(state, (x, y))
        losses.append(metrics.loss)
    assert losses[-1] < losses[0]
    (learned,) = state.params
    np.testing.assert_array_equal(learned.w, trained.w)
    np.testing.assert_array_equal(learned.b, trained.b)

    dense, merged = fp.inference(layer, learned)
    assert dense == fp.Dense(3) and (merged.w != trained.w).all()
    np.testing.assert_allclose(
        dense.forward(merged, x)[0], layer.forward(learned, x)[0], rtol=1e-5, atol=1e-5
    )


def test_values_and_errors():
    assert repr(fp.LoRA(3, 2)) == "LoRA(3, rank=2)" and fp.LoRA(3, 2) == fp.LoRA(3, 2) != fp.LoRA(
        3, 1
    )
    assert fp.LoRA(3, 2, alpha=1).scale == 0.5 and fp.LoRA(3, 2).scale == 1
    with pytest.raises(fp.LayerError, match="rank is 0"):
        fp.LoRA(3, 0)
    with pytest.raises(fp.LayerError, match="alpha is -1"):
        fp.LoRA(3, 1, alpha=-1)
    with pytest.raises(fp.LayerError, match=r"write LoRA\(5, 2, bias=False\)"):
        fp.LoRA(3, 2).adapt(KEY, fp.Dense(5, bias=False).init(KEY, jnp.ones(4)))
    with pytest.raises(fp.LayerError, match="wanted LowRank"):
        fp.LoRA(3, 2).forward(fp.Dense(3).init(KEY, jnp.ones(4)), jnp.ones(4))
