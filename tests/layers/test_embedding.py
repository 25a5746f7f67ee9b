"""What the table of layers cannot say of embeddings and positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.layers.embedding import sum_by_matmul, sum_by_scatter, sum_by_sort

KEY = jax.random.key(0)


def test_repeated_ids_add():
    layer, w = fp.Embedding(3, 2), jnp.arange(6.0).reshape(3, 2)
    ids = jnp.array([2, 0, 2])
    y, kept = layer.forward(fp.layers.Table(w), ids)
    assert y.tolist() == [[4, 5], [0, 1], [4, 5]]
    dx, dparams = layer.backward(fp.layers.Table(w), kept, jnp.array([[1.0, 2], [3, 4], [5, 6]]))
    assert dx is None
    assert dparams.w.tolist() == [[3, 4], [0, 0], [6, 8]]


@pytest.mark.parametrize("shape", [(), (4,), (2, 3), (1, 2, 3, 2)])
def test_embedding_agrees_with_pytorch(shape):
    torch = pytest.importorskip("torch")
    layer, ids = fp.Embedding(7, 3), np.random.default_rng(0).integers(0, 7, shape)
    params = layer.init(KEY, jnp.asarray(ids, jnp.int32))
    dy = np.random.default_rng(1).normal(size=(*shape, 3)).astype(np.float32)
    y, kept = layer.forward(params, jnp.asarray(ids, jnp.int32))
    _, dparams = layer.backward(params, kept, jnp.asarray(dy))
    theirs = torch.nn.Embedding(7, 3)
    theirs.weight.data = torch.tensor(np.asarray(params.w))
    out = theirs(torch.tensor(ids))
    out.backward(torch.tensor(dy))
    np.testing.assert_array_equal(y, out.detach().numpy())
    np.testing.assert_allclose(dparams.w, theirs.weight.grad.numpy(), rtol=1e-6, atol=1e-6)


def test_the_three_sums_agree():
    rows = jax.random.randint(KEY, (50,), 0, 8)  # 7 is no row: vocabulary is 7
    dys = jax.random.normal(KEY, (50, 3))
    sums = [f(rows, dys, 7) for f in (sum_by_scatter, sum_by_sort, sum_by_matmul)]
    np.testing.assert_allclose(sums[1], sums[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sums[2], sums[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bad", [-1, 5, 300])
def test_ids_out_of_range(bad):
    layer, ids = fp.Embedding(5, 2), jnp.array([0, bad])
    params = layer.init(KEY, jnp.array([0, 1]))
    with pytest.raises(fp.LayerError, match=f"the id {bad}, wanted ids from 0 to 4"):
        layer.forward(params, ids)
    y = jax.jit(lambda ids: layer.forward(params, ids)[0])(ids)
    assert jnp.isfinite(y[0]).all() and jnp.isnan(y[1]).all()
    _, dparams = jax.jit(lambda ids: layer.backward(params, ids, jnp.ones((2, 2))))(ids)
    assert dparams.w.tolist() == [[1, 1], [0, 0], [0, 0], [0, 0], [0, 0]]


def test_narrow_ids_reach_a_wide_vocabulary():
    layer, ids = fp.Embedding(1000, 2), jnp.array([0, 255], jnp.uint8)
    params = layer.init(KEY, ids)
    y, kept = jax.jit(layer.forward)(params, ids)
    np.testing.assert_array_equal(y, params.w[jnp.array([0, 255])])
    _, dparams = layer.backward(params, kept, jnp.ones((2, 2)))
    assert dparams.w[255].tolist() == [1, 1] and float(dparams.w.sum()) == 4


def test_sixteen_bit_sums_are_made_in_float32():
    layer, ids = fp.Embedding(2, 1), jnp.zeros(1000, jnp.int32)
    params = fp.layers.Table(jnp.zeros((2, 1), jnp.bfloat16))
    _, dparams = layer.backward(params, ids, jnp.ones((1000, 1), jnp.bfloat16))
    assert dparams.w.dtype == jnp.bfloat16 and float(dparams.w[0, 0]) == 1000


def test_floats_are_no_ids():
    with pytest.raises(fp.LayerError, match=r"jnp\.asarray\(ids, jnp\.int32\)"):
        fp.Embedding(5, 2).init(KEY, jnp.zeros(3))
    with pytest.raises(fp.LayerError, match="wanted an array of integers"):
        fp.Embedding(5, 2).forward(fp.layers.Table(jnp.zeros((5, 2))), jnp.array([True]))
    with pytest.raises(fp.LayerError, match="vocabulary is 0"):
        fp.Embedding(0, 2)


def test_positions_past_the_end_have_no_gradient():
    layer, x = fp.LearnedPositions(4), jnp.zeros((2, 3, 2))
    params = layer.init(KEY, x)
    y, kept = layer.forward(params, x)
    np.testing.assert_array_equal(y[1], params.w[:3])
    dx, dparams = layer.backward(params, kept, jnp.ones_like(x))
    assert dx.shape == x.shape
    assert dparams.w.tolist() == [[2, 2], [2, 2], [2, 2], [0, 0]]
    with pytest.raises(fp.LayerError, match=r"LearnedPositions\(5\)"):
        layer.forward(params, jnp.zeros((5, 2)))


def test_sinusoids_by_hand():
    y, _ = fp.SinusoidalPositions().forward((), jnp.zeros((3, 5)))
    angle = 2 / 10000 ** (2 / 5)
    wanted = [np.sin(2), np.cos(2), np.sin(angle), np.cos(angle), np.sin(2 / 10000 ** (4 / 5))]
    np.testing.assert_allclose(y[2], wanted, rtol=1e-5)
    assert y[0].tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_depends_on_distance_alone(interleaved):
    layer = fp.Rotary(base=100.0, interleaved=interleaved)
    q, k = (jnp.tile(jax.random.normal(key, (1, 1, 6)), (9, 1, 1)) for key in jax.random.split(KEY))
    (qs, _), (ks, _) = layer.forward((), q), layer.forward((), k)
    s = jnp.einsum("tnk,snk->ts", qs, ks)
    np.testing.assert_allclose(s[3, 1], s[8, 6], rtol=1e-5)
    np.testing.assert_array_equal(qs[0], q[0])
    back, _ = layer.backward((), (), qs)  # a rotation's transpose is its inverse
    np.testing.assert_allclose(back, q, rtol=1e-5, atol=1e-6)


def test_rotary_conventions_are_permutations_of_each_other():
    x = jax.random.normal(KEY, (5, 2, 6))
    order = jnp.array([0, 2, 4, 1, 3, 5])
    halves, _ = fp.Rotary().forward((), x[..., order])
    pairs, _ = fp.Rotary(interleaved=True).forward((), x)
    np.testing.assert_allclose(pairs[..., order], halves, rtol=1e-6)
    with pytest.raises(fp.LayerError, match="5 features are not pairs"):
        fp.Rotary().forward((), jnp.zeros((3, 2, 5)))
