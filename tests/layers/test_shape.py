"""Transpose, Pad, Upsample, Lambda: by hand and by PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

# PyTorch's names of the modes, and arguments of interpolate
MODES = {"constant": "constant", "edge": "replicate", "reflect": "reflect", "wrap": "circular"}
METHODS = {"nearest": {"mode": "nearest"}, "linear": {"mode": "bilinear", "align_corners": False}}


def against_torch(layer, function):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
    y, residuals = layer.forward((), jnp.asarray(x))
    dy = np.cos(np.asarray(y))
    dx, _ = layer.backward((), residuals, jnp.asarray(dy))
    theirs = torch.tensor(x.transpose(0, 3, 1, 2).copy(), requires_grad=True)
    out = function(torch, theirs)
    out.backward(torch.tensor(dy.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(y, out.detach().numpy().transpose(0, 2, 3, 1), atol=1e-6)
    np.testing.assert_allclose(dx, theirs.grad.numpy().transpose(0, 2, 3, 1), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_pad_agrees_with_pytorch(mode):
    layer = fp.Pad(((2, 1), (1, 3), (0, 0)), mode=mode)
    against_torch(layer, lambda t, x: t.nn.functional.pad(x, (1, 3, 2, 1), MODES[mode]))


@pytest.mark.parametrize("method", METHODS)
def test_upsample_agrees_with_pytorch(method):
    layer = fp.Upsample((2, 3), method=method)
    against_torch(
        layer, lambda t, x: t.nn.functional.interpolate(x, scale_factor=(2, 3), **METHODS[method])
    )


def test_numbers_by_hand():
    x, dy = jnp.array([1.0, 2.0, 3.0]), jnp.arange(1.0, 7.0)
    reflect = fp.Pad(((2, 1),), mode="reflect")
    assert reflect.forward((), x)[0].tolist() == [3, 2, 1, 2, 3, 2]
    assert reflect.backward((), (), dy)[0].tolist() == [3, 2 + 4 + 6, 1 + 5]
    sequence = fp.Upsample((2,))
    assert sequence.forward((), x[:, None])[0][:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    assert sequence.backward((), (), dy[:, None])[0][:, 0].tolist() == [3, 7, 11]
    turn = fp.Transpose((1, 2, 0))
    y, _ = turn.forward((), jnp.ones((9, 2, 3, 4)))
    assert y.shape == (9, 3, 4, 2) and turn.backward((), (), y)[0].shape == (9, 2, 3, 4)


def test_low_precision_sums_in_float32():
    dy = jnp.full((64, 1), 1.01, jnp.bfloat16)
    dx, _ = fp.Upsample((64,)).backward((), (), dy)
    assert dx.dtype == jnp.bfloat16 and abs(float(dx[0, 0]) - 64 * float(dy[0, 0])) < 0.3


def test_lambda_uses_the_given_derivative():
    layer = fp.Lambda(fp.Elementwise(jnp.sin, jnp.cos))
    assert layer == fp.Lambda(fp.Elementwise(jnp.sin, jnp.cos))
    assert repr(layer) == "Lambda(Elementwise(sin, cos))"
    z = jnp.array([0.0, 1.0])
    _, kept = jax.jit(lambda z: layer.forward((), z))(z)
    assert jnp.allclose(layer.backward((), kept, z)[0], z * jnp.cos(z))
    with pytest.raises(fp.LayerError, match=r"df\(z\) is"):
        fp.Lambda(fp.Elementwise(jnp.sin, lambda z: 1.0)).backward((), z, z)  # pyright: ignore


def test_errors():
    for make, match in (
        (lambda: fp.Transpose((0, 2)), "each of 0"),
        (lambda: fp.Pad((1, 1)), "wanted a tuple of pairs"),
        (lambda: fp.Pad(((-1, 0),)), "a width is -1"),
        (lambda: fp.Pad(((1, 1),), mode="mirror"), "mode is 'mirror'"),
        (lambda: fp.Pad(((3, 0),), mode="reflect").forward((), jnp.ones(3)), "not enough for"),
        (lambda: fp.Upsample(0), "factor is 0"),
        (lambda: fp.Upsample().forward((), jnp.ones(3)), "at least 3 axes"),
        (lambda: fp.Upsample().backward((), (), jnp.ones((3, 4, 1))), "no multiple of 2"),
        (lambda: fp.Lambda(jnp.sin), "a function and its derivative"),
    ):
        with pytest.raises(fp.LayerError, match=match):
            make()
