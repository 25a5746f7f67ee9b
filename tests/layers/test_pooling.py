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


@pytest.mark.parametrize(
    "make",
    [
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
