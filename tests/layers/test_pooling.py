"""Pooling: numbers by hand, PyTorch, ties, padding and NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp


def gradients(layer, x):
    """y, dy and dx, compiled as one: tap by tap it would take longer."""

    @jax.jit
    def run(x):
        y, residuals = layer.forward((), x)
        dy = jax.random.normal(jax.random.key(0), y.shape, y.dtype)
        return y, dy, layer.backward((), residuals, dy)[0]

    return run(x)


def test_a_maximum_by_hand():
    x = jnp.asarray([[1.0], [5.0], [2.0], [3.0], [9.0]])
    y, residuals = fp.MaxPool((2,)).forward((), x)
    assert y.ravel().tolist() == [5, 3]
    assert residuals.index.dtype == jnp.int8
    dx, _ = fp.MaxPool((2,)).backward((), residuals, jnp.asarray([[10.0], [20.0]]))
    assert dx.ravel().tolist() == [0, 10, 0, 20, 0]


def test_a_mean_by_hand_with_and_without_the_padding():
    x = jnp.asarray([[3.0], [6.0], [9.0]])
    pads = ((1, 1),)
    y, _ = fp.AvgPool((3,), stride=(1,), padding=pads).forward((), x)
    assert y.ravel().tolist() == [3, 6, 5]
    y, _ = fp.AvgPool((3,), stride=(1,), padding=pads, count_include_pad=False).forward((), x)
    assert y.ravel().tolist() == [4.5, 6, 7.5]


@pytest.mark.parametrize(
    "layer", [fp.MaxPool((2, 2)), fp.MaxPool((3, 3), stride=(1, 1), padding="SAME")]
)
def test_a_tie_goes_to_the_first(layer):
    x = jnp.zeros((4, 4, 1))
    y, residuals = layer.forward((), x)
    dx, _ = layer.backward((), residuals, jnp.ones_like(y))
    assert float(dx.sum()) == y.size
    assert float(dx[0, 0, 0]) == (1 if layer.stride is None else 4)  # first of every window there


def test_padding_never_wins():
    x = jnp.full((3, 3, 1), -jnp.inf)
    layer = fp.MaxPool((3, 3), stride=(1, 1), padding="SAME")
    y, residuals = layer.forward((), x)
    dx, _ = layer.backward((), residuals, jnp.ones_like(y))
    assert float(dx.sum()) == 9


def test_nan_wins():
    x = jnp.asarray([[1.0], [jnp.nan], [2.0], [jnp.nan], [5.0], [3.0]])
    y, residuals = fp.MaxPool((3,)).forward((), x)
    assert bool(jnp.isnan(y).all())
    dx, _ = fp.MaxPool((3,)).backward((), residuals, jnp.ones_like(y))
    assert dx.ravel().tolist() == [0, 1, 0, 1, 0, 0]
    y, residuals = fp.GlobalMaxPool(axes=1).forward((), x)
    assert bool(jnp.isnan(y[0])) and residuals.index.tolist() == [1]


@pytest.mark.parametrize(
    ("stride", "padding"),
    [(None, "SAME"), ((1, 2), "VALID"), ((3, 4), ((1, 0), (0, 2))), ((1, 1), ((1, 1), (2, 1)))],
)
def test_agrees_with_reduce_window(stride, padding):
    x = jax.random.normal(jax.random.key(1), (2, 7, 9, 3))
    pads = padding if isinstance(padding, str) else ((0, 0), *padding, (0, 0))
    steps = stride or (2, 3)

    def plain(x, start, operation):
        return jax.lax.reduce_window(x, start, operation, (1, 2, 3, 1), (1, *steps, 1), pads)

    for layer, reference in (
        (
            fp.MaxPool((2, 3), stride=stride, padding=padding),
            lambda x: plain(x, -jnp.inf, jax.lax.max),
        ),
        (
            fp.AvgPool((2, 3), stride=stride, padding=padding),
            lambda x: plain(x, 0.0, jax.lax.add) / 6,
        ),
    ):
        y, dy, dx = gradients(layer, x)
        wanted, pullback = jax.vjp(reference, x)
        np.testing.assert_allclose(y, wanted, atol=1e-6)
        np.testing.assert_allclose(dx, pullback(dy)[0], atol=1e-6)


def test_windows_without_a_tap_inside():
    """Wide padding around a single element: some taps see nothing but padding."""
    x = jnp.ones((1, 1, 2))
    layer = fp.AvgPool((4, 3), stride=(5, 5), padding=((3, 3), (2, 0)), count_include_pad=False)
    y, residuals = layer.forward((), x)
    assert y.tolist() == [[[1, 1]]]
    assert layer.backward((), residuals, y)[0].tolist() == [[[1, 1]]]


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pytorch_agrees(rank):
    torch = pytest.importorskip("torch")
    functions = torch.nn.functional
    x = np.asarray(jax.random.normal(jax.random.key(rank), (2, *(7, 6, 5)[:rank], 3)))
    first, last = (0, rank + 1, *range(1, rank + 1)), (0, *range(2, rank + 2), 1)
    window, stride, pads = (3,) * rank, (2,) * rank, ((1, 1),) * rank
    max_pool = getattr(functions, f"max_pool{rank}d")
    avg_pool = getattr(functions, f"avg_pool{rank}d")
    rows = [
        (fp.MaxPool(window, stride=stride, padding=pads), lambda t: max_pool(t, 3, 2, 1)),
        (fp.AvgPool(window, stride=stride, padding=pads), lambda t: avg_pool(t, 3, 2, 1)),
        (
            fp.AvgPool(window, stride=stride, padding=pads, count_include_pad=False),
            lambda t: avg_pool(t, 3, 2, 1, count_include_pad=False),
        ),
    ]
    for layer, theirs in rows:
        y, dy, dx = gradients(layer, jnp.asarray(x))
        t = torch.tensor(x.transpose(first), requires_grad=True)
        wanted = theirs(t)
        wanted.backward(torch.tensor(np.asarray(dy).transpose(first)))
        np.testing.assert_allclose(y, wanted.detach().numpy().transpose(last), atol=1e-6)
        np.testing.assert_allclose(dx, t.grad.numpy().transpose(last), atol=1e-6)


@pytest.mark.parametrize("layer", [fp.GlobalAvgPool(), fp.GlobalMaxPool()])
def test_global(layer):
    x = jax.random.normal(jax.random.key(0), (2, 3, 5, 7, 4))
    y, dy, dx = gradients(layer, x)
    plain = jnp.mean if isinstance(layer, fp.GlobalAvgPool) else jnp.max
    wanted, pullback = jax.vjp(lambda x: plain(x, (-3, -2)), x)
    np.testing.assert_allclose(y, wanted, atol=1e-6)
    np.testing.assert_allclose(dx, pullback(dy)[0], atol=1e-6)


def test_many_taps_keep_a_wider_index():
    x = jax.random.normal(jax.random.key(0), (12, 12, 1))
    y, residuals = jax.jit(lambda x: fp.MaxPool((12, 12)).forward((), x))(x)
    assert residuals.index.dtype == jnp.int16
    assert float(y[0, 0, 0]) == float(x.max())


def test_unpooling_puts_the_maxima_back_and_the_later_of_two_stays():
    pool = fp.MaxPool((3,), stride=(2,), return_places=True)
    x = jnp.asarray([1.0, 2.0, 7.0, 3.0, 4.0])[:, None]
    (maxima, places), _ = pool.forward((), x)
    assert maxima.ravel().tolist() == [7, 7] and places.ravel().tolist() == [2, 2]
    unpool = fp.MaxUnpool((3,), stride=(2,))
    y, residuals = unpool.forward((), (jnp.asarray([[5.0], [6.0]]), places))
    assert y.ravel().tolist() == [0, 0, 6, 0, 0]
    (dx, none), _ = unpool.backward((), residuals, jnp.ones((5, 1)))
    assert dx.ravel().tolist() == [0, 1] and none is None


def test_a_place_in_another_window_is_an_error_and_under_jit_nan():
    unpool, x = fp.MaxUnpool((2,)), (jnp.ones((2, 2)), jnp.asarray([[0, 1], [1, 2]]))
    with pytest.raises(fp.LayerError, match="none of the taps of its own window"):
        unpool.forward((), x)
    y = jax.jit(lambda x: unpool.forward((), x)[0])(x)
    assert y[:2, 0].tolist() == [1, 0] and bool(jnp.isnan(y[2:, 0]).any())
    assert y[:, 1].tolist() == [0, 1, 1, 0]


def test_adaptive_windows_overlap_where_they_must():
    x = jnp.asarray([1.0, 2.0, 6.0])[:, None]
    y, residuals = fp.AdaptiveMaxPool((2,)).forward((), x)
    assert y.ravel().tolist() == [2, 6]
    dx, _ = fp.AdaptiveMaxPool((2,)).backward((), residuals, y)
    assert dx.ravel().tolist() == [0, 2, 6]
    y, _ = fp.AdaptiveAvgPool((None,)).forward((), x)
    assert y.ravel().tolist() == [1, 2, 6]


def test_nan_wins_in_windows_that_are_not_alike_too():
    x = jnp.asarray([[jnp.nan, 1.0, 2.0], [3.0, jnp.nan, 4.0], [5.0, 6.0, 9.0]])[..., None]
    y, residuals = fp.AdaptiveMaxPool((1, 2)).forward((), x)
    assert bool(jnp.isnan(y).all()) and residuals.place.ravel().tolist() == [4, 4]


def test_fractional_windows_are_those_of_the_key():
    layer, x = fp.FractionalMaxPool((2,), (5,)), jnp.arange(24.0).reshape(2, 12, 1)
    with pytest.raises(fp.LayerError, match="no key"):
        layer.forward((), x)
    keys = jax.random.split(jax.random.key(0), 4)
    pooled = jax.vmap(lambda key: layer.forward((), x, fp.Context(key))[0])(keys)
    assert pooled.shape == (4, 2, 5, 1) and pooled[:, :, -1].ravel().tolist() == [11, 23] * 4
    assert len({tuple(row) for row in pooled[..., 0].reshape(8, 5).tolist()}) > 2
    steps = jnp.diff(pooled[..., 0], axis=-1)
    assert set(steps.ravel().tolist()) <= {2, 3}  # α is 2.5


@pytest.mark.parametrize(
    "make",
    [
        lambda: fp.MaxPool((2, 2), padding="SAME", ceil_mode=True),
        lambda: fp.MaxPool((2, 2), dilation=(1,)),
        lambda: fp.MaxPool((2,), dilation=(2,), padding=((1, 1),)).forward((), jnp.ones((1, 1))),
        lambda: fp.MaxPool((2,), return_places=True).backward(
            (), fp.MaxPool((2,)).forward((), jnp.ones((4, 1)))[1], jnp.ones((2, 1))
        ),
        lambda: fp.AvgPool((2,), divisor=0),
        lambda: fp.AvgPool((2,), divisor=2, count_include_pad=False),
        lambda: fp.LPPool((2,), 0.0),
        lambda: fp.LPPool(2, (2,)),
        lambda: fp.AdaptiveAvgPool(3),
        lambda: fp.AdaptiveAvgPool((0, 3)),
        lambda: fp.AdaptiveMaxPool((3, 3)).forward((), jnp.ones((4, 2))),
        lambda: fp.FractionalMaxPool((2, 2), (3,)),
        lambda: fp.FractionalMaxPool((2, 2), (0.5, 1.5)),
        lambda: fp.FractionalMaxPool((2,), (4,)).forward((), jnp.ones((4, 1))),
        lambda: fp.FractionalMaxPool((2,), (2,)).forward((), (jnp.ones((4, 1)), jnp.ones(1))),
        lambda: fp.MaxUnpool((2,), padding="SAME"),
        lambda: fp.MaxUnpool((2,)).forward((), jnp.ones((2, 1))),
        lambda: fp.MaxUnpool((2,)).forward((), (jnp.ones((2, 1)), jnp.ones((2, 1)))),
        lambda: fp.MaxUnpool((2,), sizes=(9,)).forward(
            (), (jnp.ones((2, 1)), jnp.zeros((2, 1), int))
        ),
        lambda: fp.MaxPool(2),
        lambda: fp.MaxPool((2, 0)),
        lambda: fp.MaxPool((2,) * 4),
        lambda: fp.MaxPool((2, 2), stride=(1,)),
        lambda: fp.AvgPool((2, 2), padding="same"),
        lambda: fp.AvgPool((2, 2), padding=((2, 0), (0, 0))),
        lambda: fp.GlobalAvgPool(axes=0),
        lambda: fp.MaxPool((3, 3)).forward((), jnp.zeros((2, 2, 1))),
        lambda: fp.MaxPool((3, 3)).forward((), jnp.zeros((3, 1))),
        lambda: fp.MaxPool((2,)).forward((), jnp.zeros((4, 1), jnp.int32)),
        lambda: gradients(fp.GlobalMaxPool(), jnp.zeros((0, 3, 1))),
    ],
)
def test_errors(make):
    with pytest.raises(fp.LayerError):
        make()


@pytest.mark.parametrize("layer", [fp.MaxPool((2, 2)), fp.AvgPool((2, 2))])
def test_a_cotangent_of_another_shape_is_an_error(layer):
    _, residuals = layer.forward((), jnp.zeros((4, 4, 1)))
    with pytest.raises(fp.LayerError):
        layer.backward((), residuals, jnp.zeros((2, 3, 1)))
