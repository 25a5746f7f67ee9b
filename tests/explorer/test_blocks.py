"""Models that are not drawn neuron by neuron: blocks, attention, feature maps, lifted functions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.explorer.arrays import unpacked

KEY = jax.random.key(0)


def randoms(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def test_attention_is_drawn_with_the_error_of_its_scores():
    model = fp.Serial(fp.SelfAttention(8, heads=2, causal=True), fp.Dense(3))
    x, y = randoms(2, 5, 8), jnp.asarray(np.arange(10, dtype=np.int32).reshape(2, 5) % 3)
    params = model.init(KEY, x)
    loss = fp.SoftmaxCrossEntropy()
    page = fp.explain(model, params, (x, y), loss, costs=False)
    (run,) = page.data["runs"]
    names = [layer["name"] for layer in run["layers"]]
    place = names.index("DotProductAttention")
    pairs = run["layers"][place]["maps"][0]["pairs"]
    assert [pair["name"] for pair in pairs] == ["head 1", "head 2"]
    p, ds = (unpacked(pairs[0][key]) for key in ("value", "error"))
    assert p.shape == ds.shape == (5, 5)
    assert np.allclose(p.sum(1), 1, atol=0.05) and np.allclose(np.triu(p, 1), 0)
    assert np.allclose(ds.sum(1), 0, atol=0.05 * np.abs(ds).max())  # a softmax's rows
    assert page.data["leaves"] and max(leaf["apart"] for leaf in page.data["leaves"]) < 1e-5
    assert "7 layers" in page.about or f"{len(names)} layers" in page.about


def test_every_step_of_a_repeat_is_a_block():
    model = fp.Serial(fp.Repeat(fp.Serial(fp.Dense(4), fp.Tanh()), 3), fp.Dense(2))
    x, y = randoms(6, 4), jnp.asarray(np.array([0, 1] * 3, np.int32))
    params = model.init(KEY, x)
    page = fp.explain(model, params, (x, y), fp.SoftmaxCrossEntropy(), steps=2, costs=False)
    layers = page.data["runs"][0]["layers"]
    assert [layer["name"] for layer in layers] == ["Dense", "Tanh"] * 3 + ["Dense"]
    groups = [layer["group"] for layer in layers]
    assert groups == ["block 1"] * 2 + ["block 2"] * 2 + ["block 3"] * 2 + [None]
    assert layers[0]["parameters"] == 20 and layers[0]["kept"] == 6 * 4 * 4
    value, found = fp.backprop(fp.collect(model, fp.collectors.trace), fp.SoftmaxCrossEntropy())(
        params, (x, y)
    )
    last = fp.collectors.records(found)[-1].value
    assert unpacked(layers[-1]["norms"]["dy"])[0] == pytest.approx(
        float(last.norms["dy"]), rel=1e-6
    )
    assert unpacked(page.data["runs"][0]["cost"])[0] == pytest.approx(float(value), rel=1e-6)


def test_costs_and_feature_maps_of_a_convolution():
    model = fp.Serial(fp.Conv(3, (3, 3)), fp.ReLU(), fp.Flatten(), fp.Dense(2))
    x, y = randoms(2, 5, 5, 1), jnp.asarray(np.array([0, 1], np.int32))
    params = model.init(KEY, x)
    page = fp.explain(model, params, (x, y), fp.SoftmaxCrossEntropy(), title="a convolution")
    assert page.title == "a convolution"
    maps = page.data["runs"][0]["layers"][0]["maps"]
    assert unpacked(maps[0]["pairs"][2]["value"]).shape == (5, 5)
    ways = page.data["costs"]["ways"]
    assert [way["name"] for way in ways] == ["by hand", "automatic"]
    assert all(way["seconds"] > 0 and way["kept"] > 0 for way in ways)


def test_any_function_through_lift():
    def loss(params, batch):
        x, y = batch
        hidden = jnp.tanh(x @ params["first"])
        return jnp.mean((hidden @ params["second"] - y) ** 2)

    params = {"first": randoms(3, 4), "second": randoms(4, 1)}
    batch = randoms(5, 3), randoms(5, 1)
    page = fp.explain(fp.lift(loss, params, batch), params, batch, costs=False)
    layers = page.data["runs"][0]["layers"]
    assert [layer["name"] for layer in layers] == ["first", "second"]
    assert page.data["heading"] and "2 uses of parameters" in page.about
    assert page.data["flow"] == [[-1], [0], [-1, 1]]
    grads = jax.grad(loss)(params, batch)
    norms = sorted(float(unpacked(layer["norms"]["dparams"])[0]) for layer in layers)
    wanted = sorted(float(np.linalg.norm(g)) for g in grads.values())
    assert norms == pytest.approx(wanted, rel=1e-5)
