"""What the table of layers cannot say of attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

KEY = jax.random.key(0)


def draw(t=7, s=7, n=4, m=2, k=3, batch=(2,)):
    shapes = ((*batch, t, n, k), (*batch, s, m, k), (*batch, s, m, k), (*batch, t, n, k))
    keys = jax.random.split(KEY, 4)
    q, k, v, dy = (jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))
    return (q, k, v), dy


def passes(layer, x, dy, context=fp.Context()):
    @jax.jit
    def both(x, dy, context):
        y, kept = layer.forward((), x, context)
        return y, layer.backward((), kept, dy)[0]

    return both(x, dy, context)


def test_two_keys_by_hand():
    q, k, v = jnp.ones((1, 1, 1)), jnp.array([0.0, np.log(3)]).reshape(2, 1, 1), jnp.array([0.0, 8])
    x, dy = (q, k.astype(jnp.float32), v.reshape(2, 1, 1)), jnp.ones((1, 1, 1))
    y, (dq, dk, dv) = passes(fp.DotProductAttention(), x, dy)
    np.testing.assert_allclose(y.ravel(), [6], rtol=1e-6)  # p = (1/4, 3/4)
    np.testing.assert_allclose(dv.ravel(), [0.25, 0.75], rtol=1e-6)
    np.testing.assert_allclose(dk.ravel(), [-1.5, 1.5], rtol=1e-6)  # p(dp − Σ p dp), dp = (0, 8)
    np.testing.assert_allclose(dq.ravel(), [1.5 * np.log(3)], rtol=1e-6)


@pytest.mark.parametrize("case", ["plain", "causal", "masked", "scaled", "memory"])
def test_pytorch_agrees(case):
    torch = pytest.importorskip("torch")
    causal = case == "causal"
    layer = fp.DotProductAttention(causal=causal, scale=0.3 if case == "scaled" else None, block=3)
    x, dy = draw(s=5 if case == "memory" else 7)
    seen = np.arange(x[1].shape[1]) < np.array([[3], [5]])
    masked = case in ("masked", "memory")
    given = (*x, jnp.asarray(seen)) if case == "memory" else x
    context = fp.Context(mask=jnp.asarray(seen) if case == "masked" else None)
    y, dx = passes(layer, given, dy, context)
    theirs = [torch.tensor(np.asarray(a)).transpose(1, 2).requires_grad_() for a in x]
    out = torch.nn.functional.scaled_dot_product_attention(
        *theirs,
        attn_mask=torch.tensor(seen)[:, None, None] if masked else None,
        is_causal=causal,
        scale=layer.scale,
        enable_gqa=True,
    )
    out.backward(torch.tensor(np.asarray(dy)).transpose(1, 2))
    pairs = [(y, out.detach()), *zip(dx, (a.grad for a in theirs), strict=False)]
    for ours, torchs in pairs:
        np.testing.assert_allclose(ours, torchs.transpose(1, 2).numpy(), rtol=2e-5, atol=2e-6)
    assert len(dx) == 3 or dx[3] is None


def test_a_query_that_sees_nothing_is_zero_and_has_gradient_zero():
    x, dy = draw()
    mask = jnp.array([[False] * 7, [False, False] + [True] * 5])
    y, dx = passes(fp.DotProductAttention(causal=True, block=3), x, dy, fp.Context(mask=mask))
    assert not y[0].any() and not any(d[0].any() for d in dx)
    assert not y[1, :2].any() and not dx[0][1, :2].any()  # causal: only hidden keys before them
    assert y[1, 2:].all() and all(jnp.isfinite(d).all() for d in dx)
    assert not dx[1][1, :2].any() and not dx[2][1, :2].any()


@pytest.mark.parametrize("block", [1, 2, 5])
def test_the_block_changes_nothing(block):
    (x, dy), options = draw(), {"causal": block != 2, "window": 3 if block < 5 else None}
    wanted = passes(fp.DotProductAttention(**options, block=7), x, dy)
    given = passes(fp.DotProductAttention(**options, block=block), x, dy)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_hidden_tiles_are_not_computed():
    q, k = (jnp.zeros((64, 1, 2)),) * 2

    def tiles(**options):
        return len(fp.DotProductAttention(block=8, **options)._tiles(q, k).places)

    assert tiles() == 64
    assert tiles(causal=True) == 36
    assert tiles(causal=True, window=9) == 15
    assert tiles(causal=True, window=1) == 8
    assert tiles(window=9) == 22


@pytest.mark.parametrize(
    "options",
    [{}, {"causal": True}, {"window": 3}, {"causal": True, "window": 5, "soft_cap": 2.0}],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True])
def test_a_loop_over_tiles_is_the_tiles_written_out(options, masked):
    x, dy = draw(t=13, s=13, n=4, m=2)
    mask = jnp.arange(26).reshape(2, 13) % 9 != 4
    context = fp.Context(mask=mask if masked else None)

    def run(block):
        layer = fp.DotProductAttention(block=block, **options)
        y, residuals = layer.forward((), x, context)
        return y, *layer.backward((), residuals, dy)[0]

    assert len(fp.DotProductAttention(block=2)._tiles(*x[:2]).places) == 49
    assert len(fp.DotProductAttention(block=4, causal=True)._tiles(*x[:2]).places) == 4
    for loop, written in zip(run(2), run(4), strict=True):
        np.testing.assert_allclose(loop, written, rtol=1e-5, atol=2e-6)


def test_a_window_of_one_sees_itself():
    x, dy = draw(m=4)
    y, (dq, dk, dv) = passes(fp.DotProductAttention(window=1, block=2), x, dy)
    np.testing.assert_allclose(y, x[2], rtol=1e-6)
    np.testing.assert_allclose(dv, dy, rtol=1e-6)
    assert jnp.abs(dq).max() < 1e-6 and jnp.abs(dk).max() < 1e-6


@pytest.mark.parametrize("rank", [0, 2])
def test_leading_axes_are_examples(rank):
    batch = (2, 3)[:rank]
    x, dy = draw(batch=batch)
    layer = fp.DotProductAttention(causal=True, block=4)
    y, dx = passes(layer, x, dy)
    last = tuple(size - 1 for size in batch)
    one = passes(layer, tuple(a[last] for a in x), dy[last])
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves((y, dx)), strict=True):
        np.testing.assert_allclose(a, b[last], rtol=2e-5, atol=2e-6)


def test_memory_grows_with_the_length_and_not_its_square():
    layer = fp.DotProductAttention(causal=True)

    def temporary(t):
        (q, k, v), dy = jax.eval_shape(lambda: draw(t, t, 2, 2, 16, (1,)))

        def both(x, dy):
            return layer.backward((), layer.forward((), x)[1], dy)

        return jax.jit(both).lower((q, k, v), dy).compile().memory_analysis().temp_size_in_bytes

    assert temporary(2048) < 2.2 * temporary(1024)
    assert temporary(2048) < 2048 * 2048 * 2 * 4 / 2  # half of one matrix of scores


def test_large_scores_stay_finite():
    x, dy = draw()
    y, dx = passes(fp.DotProductAttention(block=3), (1e4 * x[0], x[1], x[2]), dy)
    assert all(jnp.isfinite(a).all() for a in jax.tree.leaves((y, dx)))


@pytest.mark.parametrize(
    "options, problem",
    [
        ({"window": 0}, "window is 0"),
        ({"block": -1}, "block is -1"),
        ({"soft_cap": 0}, "soft_cap=None"),
        ({"scale": -1.0}, "scale is -1.0"),
    ],
)
def test_options_are_checked(options, problem):
    with pytest.raises(fp.LayerError, match=problem):
        fp.DotProductAttention(**options)


def test_inputs_are_checked():
    layer, ((q, k, v), dy) = fp.DotProductAttention(), draw()
    for x, problem in [
        ((q, k), "wanted"),
        ((q, k, v.astype(jnp.bfloat16)), "one float dtype"),
        ((q[..., :3, :], k, v), "a multiple of the key heads"),
        ((q, k[:, :5], v), "leading axes agree"),
        ((q, k[:, :0], v[:, :0]), "nothing to attend to"),
        ((q, k, v, jnp.ones((2, 6), bool)), r"jnp.broadcast_to\(mask, \(2, 7\)\)"),
        ((q, k, v, jnp.ones((2, 7))), "one truth value for each key"),
    ]:
        with pytest.raises(fp.LayerError, match=problem):
            layer.forward((), x)
    with pytest.raises(fp.LayerError, match="7 queries and 5 keys"):
        fp.DotProductAttention(causal=True).forward((), (q, k[:, :5], v[:, :5]))
    _, kept = layer.forward((), (q, k, v))
    with pytest.raises(fp.LayerError, match="they must agree"):
        layer.backward((), kept, dy[:, :3])


def test_a_mask_in_x_stands_alone():
    x, dy = draw()
    context = fp.Context(mask=jnp.zeros((2, 7), bool))
    y, dx = passes(fp.DotProductAttention(), (*x, None), dy, context)
    wanted, _ = passes(fp.DotProductAttention(), x, dy)
    np.testing.assert_allclose(y, wanted, rtol=1e-6)
    assert len(dx) == 4 and dx[3] is None


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_sixteen_bits(dtype):
    x, dy = draw()
    y, dx = passes(fp.DotProductAttention(causal=True, block=3), x, dy)
    low = jax.tree.map(lambda a: a.astype(dtype), (x, dy))
    given = passes(fp.DotProductAttention(causal=True, block=3), *low)
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves((y, dx)), strict=True):
        assert a.dtype == dtype
        np.testing.assert_allclose(a.astype(jnp.float32), b, atol=0.05)


def test_the_forward_has_both_modes():
    (q, k, v), dy = draw()
    layer = fp.DotProductAttention(causal=True, soft_cap=2.0, block=3)

    def f(x):
        return layer.forward((), x)[0]

    t = jax.tree.map(lambda a: jax.random.normal(jax.random.key(3), a.shape), (q, k, v))
    _, dy_t = jax.jit(lambda x, t: jax.jvp(f, (x,), (t,)))((q, k, v), t)
    _, dx = passes(layer, (q, k, v), dy)
    by_hand = sum(jnp.vdot(a, b) for a, b in zip(dx, t, strict=True))
    np.testing.assert_allclose(jnp.vdot(dy, dy_t), by_hand, rtol=1e-4)
