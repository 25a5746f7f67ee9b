"""Where jax.grad of the plain program raises or is NaN, the gradient by hand exists."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.rows.composites import Cell

ZERO, Y = jnp.zeros(3), jnp.array([3.0, 0.0, 4.0])
CERTAIN = jnp.array([[0.0, 1000.0]])


def by_hand(layer, x, params=()):
    """dx of the sum of the outputs."""

    def dx(params, x):
        y, residuals = layer.forward(params, x)
        return layer.backward(params, residuals, jnp.ones_like(y))[0]

    return jax.jit(dx)(params, x)


def cosine(a):
    return 1 - a @ Y / jnp.maximum(jnp.linalg.norm(a) * jnp.linalg.norm(Y), 1e-6)


def triplet(a):
    return jnp.linalg.norm(a - ZERO) - jnp.linalg.norm(a - Y) + 9


def contrast(a):
    a, b = (v / jnp.linalg.norm(v, axis=-1, keepdims=True) for v in (a, jnp.stack([Y, -Y])))
    return -jnp.diagonal(jax.nn.log_softmax(a @ b.T)).mean()


def root_mean_square(x):
    return (x / jnp.sqrt(jnp.mean(x * x))).sum()


def elu(z):
    return jnp.where(z > 0, z, jnp.exp(z) - 1).sum()


def divergence(y):
    return jnp.where(y > 0, y * (jnp.log(y) + 3.0), 0).sum()


def sigmoid_cost(z):
    return -jnp.log(1 / (1 + jnp.exp(-z))).sum()


def softmax_cost(z):
    return -jnp.log(jax.nn.softmax(z))[0, 0]


def focal(z):
    p = jax.nn.softmax(z)[0, 0]
    return -jnp.sqrt(1 - p) * jnp.log(p)


# What is right is a limit or a convention that docs/gradients.md states.
# the plain program, where, then by hand: the layer, its x of that, its parameters, the gradient
CASES = {
    "the cosine of a zero vector": (
        cosine, ZERO, fp.CosineDistance(), lambda a: (a, Y), (), [0, 0, 0],
    ),
    "a triplet at its positive": (
        triplet, ZERO, fp.TripletMargin(9.0), lambda a: (a, (ZERO, Y)), (), [0.6, 0, 0.8],
    ),
    "contrast of a zero vector": (
        contrast, jnp.stack([ZERO, -Y]), fp.InfoNCE(1.0), lambda a: (a, jnp.stack([Y, -Y])), (),
        np.zeros((2, 3)),
    ),
    "the scale of a zero vector": (
        root_mean_square, ZERO, fp.RMSNorm(eps=1e-4, scale=False), lambda x: x,
        fp.layers.Gain(None, None), [100, 100, 100],
    ),
    "a branch that overflows": (
        elu, jnp.array([1000.0, -1.0]), fp.ELU(), lambda z: z, (), [1, np.exp(-1)],
    ),
    "the sigmoid of −1000": (
        lambda z: (1 / (1 + jnp.exp(-z))).sum(), jnp.array([-1000.0]), fp.Sigmoid(), lambda z: z,
        (), [0],
    ),
    "the logarithm of a saturated sigmoid": (
        sigmoid_cost, jnp.array([-1000.0]), fp.BinaryCrossEntropy(), lambda z: (z, jnp.ones(1)),
        (), [-1],
    ),
    "the logarithm of a saturated softmax": (
        softmax_cost, CERTAIN, fp.SoftmaxCrossEntropy(), lambda z: (z, jnp.array([0])), (),
        [[-1, 1]],
    ),
    "softmax, then its logarithm": (
        softmax_cost, CERTAIN, fp.LogSoftmax(), lambda z: z, (), [[1, -1]],
    ),
    "the focal weight where p is 1": (
        focal, -CERTAIN, fp.FocalLoss(0.5), lambda z: (z, jnp.array([0])), (), [[0, 0]],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_nan_there_and_right_here(name):
    plain, at, layer, x, params, wanted = CASES[name]
    assert np.isnan(jax.jit(jax.grad(plain))(at)).any()
    dx = jax.tree.leaves(by_hand(layer, x(at), params))[0]
    np.testing.assert_allclose(dx, wanted, rtol=1e-5, atol=1e-6)


def test_a_probability_of_zero_in_a_divergence():
    y = jnp.array([0.0, 1.0])
    assert np.isnan(jax.grad(divergence)(y)).any()
    log_p = jnp.array([-3.0, jnp.log1p(-jnp.exp(-3.0))])
    dlog_p, dy = by_hand(fp.KLDivergence(), (log_p, y))
    np.testing.assert_allclose(dlog_p, [0, -1])
    np.testing.assert_allclose(dy, [3, 1 - log_p[1]], rtol=1e-6)
    with_none = by_hand(fp.KLDivergence(), (log_p.at[0].set(-jnp.inf), y))[0]
    np.testing.assert_allclose(with_none, [0, -1])


def test_zero_is_the_mean_of_the_slopes_through_a_vector_of_zero():
    """‖a‖ along a line through 0 has the slopes ±‖u‖ to both sides."""
    layer, others = fp.TripletMargin(9.0), (ZERO, Y)
    da = by_hand(layer, (ZERO, others))[0]
    value = jax.jit(lambda a: layer.forward((), (a, others))[0])
    for way in jax.random.normal(jax.random.key(0), (3, 3)):
        slope = (value(0.01 * way) - value(-0.01 * way)) / 0.02
        np.testing.assert_allclose(da @ way, slope, atol=2e-3)


def test_a_loop_of_unknown_length():
    layer = fp.FixedPoint(Cell(), 3)
    x = jax.random.normal(jax.random.key(0), (2, 4))
    params = layer.init(jax.random.key(1), x)

    def value(x):
        return layer.forward(params, x)[0].sum()

    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(value)(x)
    dx = by_hand(layer, x, params)
    way, h = jnp.cos(jnp.arange(8.0)).reshape(2, 4), 1e-2
    value = jax.jit(value)
    slope = (value(x + h * way) - value(x - h * way)) / (2 * h)
    np.testing.assert_allclose((dx * way).sum(), slope, rtol=1e-3)
