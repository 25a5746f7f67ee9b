"""Normalization: PyTorch, large offsets, constant rows, statistics and prediction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.row import off_zero
from funcprop.comparison.programs import generator

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (4, 5, 6, 8)) * 2 + 1


def run(layer, x):
    """params off their start, and y, dy, dx, dparams, residuals."""
    params = off_zero(layer.init(KEY, x), generator(KEY))
    y, residuals = layer.forward(params, x)
    dy = jax.random.normal(jax.random.key(2), y.shape, y.dtype)
    return params, y, dy, *layer.backward(params, residuals, dy), residuals


def against_torch(layer, theirs, x):
    """theirs(torch, x, scale, bias) with channels second."""
    torch = pytest.importorskip("torch")
    params, y, dy, dx, dparams, residuals = run(layer, x)

    def there(v, grad=True):
        return torch.tensor(np.moveaxis(np.asarray(v), -1, 1), requires_grad=grad)

    def flat(v):
        return None if v is None else torch.tensor(np.asarray(v), requires_grad=True)

    t, scale, bias = there(x), flat(params.scale), flat(params.bias)
    wanted = theirs(torch, t, scale, bias)
    wanted.backward(there(dy, False))
    np.testing.assert_allclose(y, np.moveaxis(wanted.detach().numpy(), 1, -1), atol=2e-5)
    np.testing.assert_allclose(dx, np.moveaxis(t.grad.numpy(), 1, -1), atol=2e-5)
    for mine, other in ((dparams.scale, scale), (dparams.bias, bias)):
        assert (mine is None) == (other is None)
        if other is not None:
            np.testing.assert_allclose(mine, other.grad.numpy(), atol=1e-4)
    return params, y, residuals


@pytest.mark.parametrize("x", [X, X[0, 0], X[0]], ids=["2d", "0d", "1d"])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_pytorchs(x, affine):
    torch = pytest.importorskip("torch")
    layer = fp.BatchNorm(scale=affine, bias=affine)
    mean, variance = torch.zeros(8), torch.ones(8)

    def theirs(torch, t, scale, bias):
        return torch.nn.functional.batch_norm(t, mean, variance, scale, bias, True, 0.1)

    params, _, residuals = against_torch(layer, theirs, x)
    seen = layer.statistics(residuals)
    np.testing.assert_allclose(0.1 * seen.mean, mean.numpy(), atol=1e-6)
    np.testing.assert_allclose(0.9 + 0.1 * seen.variance, variance.numpy(), atol=1e-6)
    model, new = layer.inference(params, seen)
    y, _ = model.forward(new, x)
    flat = [None if p is None else torch.tensor(np.asarray(p)) for p in params]
    wanted = torch.nn.functional.batch_norm(
        torch.tensor(np.moveaxis(np.asarray(x), -1, 1)),
        *(torch.tensor(np.asarray(s)) for s in seen),
        *flat,
        False,
    )
    np.testing.assert_allclose(y, np.moveaxis(wanted.numpy(), 1, -1), atol=1e-5)


def test_layer_norm_is_pytorchs():
    torch = pytest.importorskip("torch")
    for axes in (1, 2):
        params, y, dy, dx, dparams, _ = run(fp.LayerNorm(axes=axes), X)
        t = torch.tensor(np.asarray(X), requires_grad=True)
        scale, bias = (torch.tensor(np.asarray(p), requires_grad=True) for p in params)
        wanted = torch.nn.functional.layer_norm(t, scale.shape, scale, bias, 1e-5)
        wanted.backward(torch.tensor(np.asarray(dy)))
        np.testing.assert_allclose(y, wanted.detach().numpy(), atol=1e-5)
        for mine, other in ((dx, t), (dparams.scale, scale), (dparams.bias, bias)):
            np.testing.assert_allclose(mine, other.grad.numpy(), atol=1e-4)


def test_rms_norm_is_pytorchs():
    torch = pytest.importorskip("torch")
    params, y, dy, dx, dparams, _ = run(fp.RMSNorm(), X)
    t = torch.tensor(np.asarray(X), requires_grad=True)
    scale = torch.tensor(np.asarray(params.scale), requires_grad=True)
    wanted = torch.nn.functional.rms_norm(t, scale.shape, scale, 1e-6)
    wanted.backward(torch.tensor(np.asarray(dy)))
    np.testing.assert_allclose(y, wanted.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(dx, t.grad.numpy(), atol=1e-5)
    np.testing.assert_allclose(dparams.scale, scale.grad.numpy(), atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_group_norm_is_pytorchs(groups):
    def theirs(torch, t, scale, bias):
        return torch.nn.functional.group_norm(t, groups, scale, bias)

    against_torch(fp.GroupNorm(groups), theirs, X)
    if groups < 8:  # PyTorch wants two values a group
        against_torch(fp.GroupNorm(groups, axes=0), theirs, X[0, 0])


def test_instance_norm_is_pytorchs():
    against_torch(
        fp.InstanceNorm(),
        lambda torch, t, scale, bias: torch.nn.functional.instance_norm(t, weight=scale, bias=bias),
        X,
    )


NORMS = [
    fp.LayerNorm(),
    fp.RMSNorm(),
    fp.BatchNorm(),
    fp.GroupNorm(2),
    fp.InstanceNorm(),
    fp.GroupNorm(4, axes=0),
]


@pytest.mark.parametrize("layer", NORMS, ids=repr)
def test_a_constant_input_is_finite(layer):
    x = jnp.full((2, 3, 3, 8), 7.0)
    _, y, _, dx, dparams, _ = run(layer, x)
    assert all(bool(jnp.isfinite(v).all()) for v in jax.tree.leaves((y, dx, dparams)))


@pytest.mark.parametrize(
    "layer", [norm for norm in NORMS if not isinstance(norm, fp.RMSNorm)], ids=repr
)
def test_a_large_offset_costs_no_more_than_the_input_lost(layer):
    """The spacing of float32 at 1e4 is 1e-3; the median, as groups of two may lie close."""
    x = (jax.random.normal(KEY, (64, 16, 16, 8)) + 1e4).astype(jnp.float32)
    params = layer.init(KEY, x)
    y = layer.forward(params, x)[0]
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda v: v.astype(jnp.float64), (params, x))
        exact = np.asarray(layer.forward(*wide)[0])
    assert float(np.median(np.abs(np.asarray(y) - exact))) < 1e-3


@pytest.mark.parametrize("layer", NORMS, ids=repr)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_sums_in_float32(layer, dtype):
    x = X.astype(dtype)
    params = layer.init(KEY, x)
    y, residuals = layer.forward(params, x)
    dx, dparams = layer.backward(params, residuals, y)
    assert {leaf.dtype for leaf in jax.tree.leaves((y, dx, dparams))} == {jnp.dtype(dtype)}
    assert residuals.rstd.dtype == jnp.float32
    wide = layer.forward(
        jax.tree.map(lambda p: p.astype(jnp.float32), params), x.astype(jnp.float32)
    )[0]
    np.testing.assert_allclose(y.astype(jnp.float32), wide, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("layer", [norm for norm in NORMS if not isinstance(norm, fp.BatchNorm)])
def test_examples_do_not_mix(layer):
    params, y, *_ = run(layer, X)
    np.testing.assert_allclose(y[1], layer.forward(params, X[1])[0], atol=1e-6)


def test_batch_norm_statistics_reach_through_a_model():
    model = fp.Serial(fp.Dense(3), fp.BatchNorm())
    x = X[0, 0]
    params = model.init(KEY, x)
    y, residuals = model.forward(params, x)
    statistics = model.statistics(residuals)
    predictor, new = fp.inference(model, params, statistics)
    assert isinstance(predictor, fp.Serial) and predictor.layers[1] == fp.Scale(bias=True)
    # prediction divides by the unbiased variance
    np.testing.assert_allclose(predictor.forward(new, x)[0], y * np.sqrt(5 / 6), atol=1e-4)
    with pytest.raises(fp.LayerError, match="Statistics"):
        fp.inference(model, params)


def test_weight_standardization():
    layer = fp.WeightStandardized(fp.Dense(3))
    params = layer.init(KEY, X)
    y, residuals = layer.forward(params, X)
    w = (params.w - params.w.mean(0)) / jnp.sqrt(params.w.var(0) + 1e-5)
    np.testing.assert_allclose(y, X @ w + params.b, atol=1e-4)
    predictor, new = fp.inference(layer, params)
    assert predictor == fp.Dense(3)
    np.testing.assert_allclose(predictor.forward(new, X)[0], y, atol=1e-5)
    _, dparams = layer.backward(params, residuals, jnp.ones_like(y))
    np.testing.assert_allclose(dparams.w.sum(0), 0, atol=1e-2)  # a common shift changes nothing
    assert layer.statistics(residuals) == ()


def test_scale_and_bias_by_hand():
    x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])
    params = fp.layers.Gain(jnp.asarray([2.0, 10.0]), jnp.asarray([1.0, 0.0]))
    y, kept = fp.Scale(bias=True).forward(params, x)
    assert y.tolist() == [[3, 20], [7, 40]]
    dx, dparams = fp.Scale(bias=True).backward(params, kept, jnp.ones((2, 2)))
    assert dx.tolist() == [[2, 10], [2, 10]]
    assert dparams.scale.tolist() == [4, 6] and dparams.bias.tolist() == [2, 2]
    params = fp.layers.Gain(None, jnp.asarray([1.0, 0.0]))
    y, kept = fp.Bias().forward(params, x)
    assert kept == () and y.tolist() == [[2, 2], [4, 4]]
    assert fp.Bias().backward(params, kept, x)[1].bias.tolist() == [4, 6]


@pytest.mark.parametrize(
    "make",
    [
        lambda: fp.LayerNorm(eps=0.0),
        lambda: fp.LayerNorm(axes=0),
        lambda: fp.GroupNorm(0),
        lambda: fp.GroupNorm(3).init(KEY, X),
        lambda: fp.GroupNorm(2, axes=3).init(KEY, X[0]),
        lambda: fp.InstanceNorm(axes=0),
        lambda: fp.BatchNorm().forward(fp.BatchNorm().init(KEY, X), X[0, 0, 0]),
        lambda: fp.BatchNorm().forward(fp.BatchNorm().init(KEY, X), X[:1, 0, 0]),
        lambda: fp.LayerNorm().forward(fp.LayerNorm().init(KEY, X), X[..., :7]),
        lambda: fp.LayerNorm().forward(fp.LayerNorm().init(KEY, X), X.astype(jnp.bfloat16)),
        lambda: fp.LayerNorm().init(KEY, jnp.zeros((2, 3), jnp.int32)),
        lambda: fp.WeightStandardized("Dense(3)"),
        lambda: fp.WeightStandardized(fp.ReLU()).init(KEY, X),
        lambda: fp.WeightStandardized(fp.Serial(fp.Dense(3))).init(KEY, X),
    ],
)
def test_errors(make):
    with pytest.raises(fp.LayerError):
        make()
