"""Steps with straight-through gradients. They are not the derivative, so `compare` is no judge:
the definition stands here, as x + stop_gradient(steps(x) - x)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

X = jnp.array([-2.0, -1.0, -0.7, -0.0, 0.0, 1e-8, 0.2, 0.5, 1.0, 1.5])


def estimate(steps, low, high):
    """Straight-through around a clip, as it is written with automatic differentiation."""

    def f(x):
        clipped = jnp.where((x >= low) & (x <= high), x, jax.lax.stop_gradient(x.clip(low, high)))
        return clipped + jax.lax.stop_gradient(steps(x) - clipped)

    return f


@pytest.mark.parametrize(
    ("layer", "low", "high"),
    [
        (fp.Binarize(), -1, 1),
        (fp.Quantize(3), -1, 1),
        (fp.Quantize(2**8, low=0.0, high=1.0), 0, 1),
        (fp.Quantize(5, low=-2.0, high=1.25), -2, 1.25),
    ],
)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_gradient_is_the_straight_through_estimate(layer, low, high, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        x = jnp.asarray(X, dtype)
        y, kept = layer.forward((), x)
        assert y.dtype == dtype and kept.dtype == bool
        dy = jnp.cos(3 * x)
        f = estimate(lambda x: layer.forward((), x)[0], low, high)
        np.testing.assert_array_equal(layer.backward((), kept, dy)[0], jax.vjp(f, x)[1](dy)[0])


def test_values():
    y, kept = fp.Binarize().forward((), X)
    np.testing.assert_array_equal(y, [-1, -1, -1, 1, 1, 1, 1, 1, 1, 1])
    np.testing.assert_array_equal(kept, [False, *[True] * 8, False])
    y, _ = fp.Quantize(5).forward((), X)
    np.testing.assert_allclose(y, [-1, -1, -0.5, 0, 0, 0, 0, 0.5, 1, 1])
    y, _ = fp.Quantize(3, low=0.0, high=1.0).forward((), jnp.array([0.25, 0.75]))
    np.testing.assert_array_equal(y, [0, 1])  # half-way: the even one
    for layer in (fp.Binarize(), fp.Quantize(4)):
        assert jnp.isnan(layer.forward((), jnp.array([jnp.nan]))[0]).all()
        np.testing.assert_array_equal(jax.vmap(lambda x: layer.forward((), x)[0])(X),  # noqa: B023
                                      layer.forward((), X)[0])  # fmt: skip


def test_compare_says_that_they_are_no_derivatives():
    assert not fp.compare(fp.Binarize(), (), jnp.array([0.3, -0.4])).ok


def test_errors():
    with pytest.raises(fp.LayerError, match="levels is 1"):
        fp.Quantize(1)
    with pytest.raises(fp.LayerError, match="wanted low < high"):
        fp.Quantize(4, low=1.0, high=1.0)
    with pytest.raises(fp.LayerError, match="they must agree"):
        fp.Binarize().backward((), jnp.ones(3, bool), jnp.ones(4))
