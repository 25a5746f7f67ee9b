"""Losses: values by hand, what is counted, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

A = jnp.array([[0.2, 0.9], [0.5, -1.0]])
Y = jnp.array([[0.0, 1.0], [1.0, 0.0]])
Z = jnp.array([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])


def value(loss, prediction, target, mask=None):
    return loss.forward((), (prediction, target), fp.Context(mask=mask))[0]


def gradient(loss, prediction, target, mask=None):
    y, residuals = loss.forward((), (prediction, target), fp.Context(mask=mask))
    return loss.backward((), residuals, jnp.ones_like(y))[0]


def test_values_by_hand():
    d = np.asarray(A - Y)
    per_example = 0.5 * (d**2).sum(-1)
    assert np.allclose(value(fp.QuadraticCost(), A, Y), per_example.mean())
    assert np.allclose(value(fp.QuadraticCost(reduction="sum"), A, Y), per_example.sum())
    assert np.allclose(value(fp.QuadraticCost(reduction="none"), A, Y), per_example)
    assert np.allclose(value(fp.MeanSquaredError(), A, Y), (d**2).mean())
    assert np.allclose(value(fp.Huber(0.5), A, Y), (0.02 + 0.005 + 0.125 + 0.5 * (1 - 0.25)) / 2)
    p = np.asarray(jax.nn.sigmoid(A))
    assert np.allclose(
        value(fp.BinaryCrossEntropy(), A, Y),
        -(Y * np.log(p) + (1 - Y) * np.log(1 - p)).sum(-1).mean(),
    )
    assert np.allclose(value(fp.Hinge(), Z, jnp.array([2, 1])), (2.5 + 0) / 2)


def test_cross_entropy_of_classes_and_of_one_hot_rows_agree():
    target = jnp.array([2, 0])
    for smoothing in (0.0, 0.1):
        loss = fp.SoftmaxCrossEntropy(label_smoothing=smoothing)
        hot = jax.nn.one_hot(target, 3)
        assert np.allclose(value(loss, Z, target), value(loss, Z, hot), rtol=1e-6)
        assert np.allclose(gradient(loss, Z, target)[0], gradient(loss, Z, hot)[0], atol=1e-7)


@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0, 1e4])
def test_cross_entropy_is_exact_at_any_scale(scale):
    z = np.asarray(Z, np.float64) * scale
    shifted = z - z.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    got = value(fp.SoftmaxCrossEntropy(reduction="none"), Z * scale, jnp.array([1, 2]))
    assert np.allclose(got, [-log_p[0, 1], -log_p[1, 2]], rtol=2e-6)


def test_masked_and_ignored_examples_count_for_nothing_whatever_they_hold():
    z = Z.at[0].set(jnp.nan)
    mask, targets = jnp.array([False, True]), jnp.array([99, 2])
    only = fp.SoftmaxCrossEntropy()
    alone = value(only, Z[1:], targets[1:])
    assert np.allclose(value(only, z, targets, mask), alone)
    dz, _ = gradient(only, z, targets, mask)
    assert np.array_equal(dz[0], jnp.zeros(3))
    assert np.allclose(dz[1:], gradient(only, Z[1:], targets[1:])[0])
    ignoring = fp.SoftmaxCrossEntropy(ignore_index=99)
    assert np.allclose(value(ignoring, z, targets), alone)
    square = fp.QuadraticCost()
    assert np.allclose(value(square, A.at[0].set(jnp.inf), Y, mask), value(square, A[1:], Y[1:]))


def test_a_mask_over_more_axes_is_not_the_losss():
    mask = jnp.ones((2, 5), bool)
    assert value(fp.QuadraticCost(), A, Y, mask) == value(fp.QuadraticCost(), A, Y)


@pytest.mark.parametrize(
    ("loss", "pair", "mask", "message"),
    [
        (fp.QuadraticCost(), (A, Y[:1]), None, "shape and dtype must agree"),
        (fp.QuadraticCost(), (A, jnp.array([0, 1])), None, "one_hot"),
        (fp.QuadraticCost(), (A[:0], Y[:0]), None, "empty"),
        (fp.QuadraticCost(), A, None, "wanted a tuple"),
        (fp.QuadraticCost(), (A, Y), jnp.ones(3, bool), "the mask is"),
        (fp.QuadraticCost(), (A, Y), jnp.ones(2), "the mask is"),
        (fp.QuadraticCost(), (A, Y), jnp.zeros(2, bool), "a mean over none"),
        (fp.SoftmaxCrossEntropy(), (Z, jnp.array([0, 3])), None, r"at \(1,\) is 3"),
        (fp.SoftmaxCrossEntropy(), (Z, jnp.array([-1, 0])), None, r"at \(0,\) is -1"),
        (fp.SoftmaxCrossEntropy(), (Z, jnp.array([[0, 1]])), None, r"wanted int\[2\]"),
        (fp.SoftmaxCrossEntropy(), (Z, 2 * jnp.ones((2, 3))), None, "probabilities"),
        (fp.SoftmaxCrossEntropy(), (Z, jnp.array([[2.0, -1, 0]] * 2)), None, "probabilities"),
        (fp.SoftmaxCrossEntropy(ignore_index=0), (Z, jnp.array([0, 0])), None, "none of them"),
        (fp.BinaryCrossEntropy(), (A, Y * 2), None, r"targets in \[0, 1\]"),
        (fp.Hinge(), (Z, jnp.array([0, 5])), None, "classes from 0 to 2"),
    ],
)
def test_bad_input(loss, pair, mask, message):
    with pytest.raises(fp.LayerError, match=message):
        loss.forward((), pair, fp.Context(mask=mask))


def test_bad_targets_are_nan_under_jit():
    binary = jax.jit(lambda y: gradient(fp.BinaryCrossEntropy(), A, y))
    assert jnp.isnan(binary(Y * 2)[0]).sum() == 2
    soft = jax.jit(lambda y: value(fp.SoftmaxCrossEntropy(), Z, y))
    assert jnp.isnan(soft(2 * jnp.ones((2, 3))))


def test_bad_configuration():
    for make in (
        lambda: fp.QuadraticCost(reduction="average"),
        lambda: fp.Huber(-1.0),
        lambda: fp.SoftmaxCrossEntropy(label_smoothing=1.0),
        lambda: fp.Hinge(margin=float("nan")),
    ):
        with pytest.raises(fp.LayerError):
            make()


def test_low_precision_accumulates_in_float32():
    a = jnp.full((4096, 2), 1.0, jnp.bfloat16)
    assert value(fp.QuadraticCost(reduction="sum"), a, a * 0) == 4096
    assert value(fp.QuadraticCost(), a, a * 0).dtype == jnp.bfloat16
