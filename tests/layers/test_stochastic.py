"""Noise: its statistics, and that prediction does without."""

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp

CONTEXT = fp.Context(key=jax.random.key(0))


def test_spatial_dropout_drops_whole_channels():
    layer, x = fp.SpatialDropout(0.25), jnp.ones((20, 3, 4, 30))
    y, kept = layer.forward((), x, CONTEXT)
    assert kept is not None and kept.shape == (20, 1, 1, 30)
    assert jnp.allclose(y, jnp.where(kept, 1 / 0.75, 0)) and 0.65 < kept.mean() < 0.85
    assert (layer.backward((), kept, x)[0] == y).all()
    with pytest.raises(fp.LayerError, match="dy is"):
        layer.backward((), kept, jnp.ones((20, 3, 4, 29)))
    with pytest.raises(fp.LayerError, match="at least 3 axes"):
        layer.forward((), jnp.ones((3, 4)), CONTEXT)
    assert repr(fp.SpatialDropout(0.5, axes=1)) == "SpatialDropout(0.5, axes=1)"


def test_gaussian_noise_has_the_given_deviation():
    layer, x = fp.GaussianNoise(0.5), jnp.zeros(10000)
    y, kept = layer.forward((), x, CONTEXT)
    assert kept == () and abs(y.std() - 0.5) < 0.02 and abs(y.mean()) < 0.02
    assert layer.backward((), kept, x)[0] is x
    with pytest.raises(fp.LayerError, match="stddev is -1"):
        fp.GaussianNoise(-1)


@pytest.mark.parametrize("layer", [fp.SpatialDropout(0.5), fp.GaussianNoise(0.5)])
def test_prediction_draws_nothing(layer):
    assert fp.inference(layer, ()) == (fp.Identity(), ())
    with pytest.raises(fp.LayerError, match="no key"):
        layer.forward((), jnp.ones((2, 2, 2)))


def test_all_is_dropped_at_rate_one():
    """As in PyTorch and Flax: zeros, and no gradient of 0 / 0."""
    x, context = jnp.ones((3, 4)), fp.Context(jax.random.key(0))
    for layer in (fp.Dropout(1), fp.Dropout(1.0), fp.SpatialDropout(1.0, axes=1)):
        y, kept = layer.forward((), x, context)
        dx, _ = layer.backward((), kept, x)
        assert not y.any() and not dx.any() and dx.dtype == x.dtype
    depth = fp.StochasticDepth(fp.Scale(), 1.0)
    params = depth.init(jax.random.key(0), x)
    y, residuals = depth.forward(params, x, context)
    dx, dparams = depth.backward(params, residuals, x)
    assert not y.any() and not dx.any() and not jax.tree.leaves(dparams)[0].any()
    for wrong in (True, 1.1, -0.1):
        with pytest.raises(fp.LayerError, match="rate is"):
            fp.Dropout(wrong)
