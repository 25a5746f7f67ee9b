"""Losses: values by hand, what is counted, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.losses.linear_cross_entropy import Projection

A = jnp.array([[0.2, 0.9], [0.5, -1.0]])
Y = jnp.array([[0.0, 1.0], [1.0, 0.0]])
KEY = jax.random.key(1)
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


@pytest.mark.parametrize("loss", [fp.CosineDistance(), fp.TripletMargin(), fp.InfoNCE()])
def test_embeddings_at_zero_have_finite_gradients(loss):
    zero, other = jnp.zeros((2, 3)), jnp.ones((2, 3))
    pair = (zero, (zero, other)) if isinstance(loss, fp.TripletMargin) else (zero, other)
    y, residuals = loss.forward((), pair)
    dx, _ = loss.backward((), residuals, jnp.ones_like(y))
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(dx))
    naive = jax.grad(lambda a: 1 - (a @ other[0]) / (jnp.linalg.norm(a) * jnp.linalg.norm(other)))
    assert jnp.isnan(naive(zero[0])).all()


def test_linear_cross_entropy_is_the_cross_entropy_of_a_dense_layer():
    h, w = jax.random.normal(jax.random.key(0), (2, 7, 5)), jax.random.normal(KEY, (5, 11))
    target = (jnp.arange(14) % 11).reshape(2, 7)
    for scale in (0.02, 1.0, 30.0):
        for chunk in (1, 3, 14, 100):
            fused = fp.LinearCrossEntropy(11, chunk=chunk, label_smoothing=0.1, reduction="none")
            plain = fp.SoftmaxCrossEntropy(label_smoothing=0.1, reduction="none")
            params = Projection(w * scale, None)
            got, kept = fused.forward(params, (h, target))
            z = h @ (w * scale)
            want, plain_kept = plain.forward((), (z, target))
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
            dy = jnp.arange(14.0).reshape(2, 7)  # not uniform
            (dh, _), dparams = fused.backward(params, kept, dy)
            (dz, _), _ = plain.backward((), plain_kept, dy)
            np.testing.assert_allclose(dh, dz @ (w * scale).T, rtol=1e-3, atol=1e-4 * scale)
            want_dw = jnp.tensordot(h, dz, ((0, 1), (0, 1)))
            np.testing.assert_allclose(dparams.w, want_dw, rtol=1e-3, atol=1e-4)


def test_linear_cross_entropy_never_holds_the_logits():
    n, d, v = 512, 32, 8192
    loss = fp.LinearCrossEntropy(v, chunk=64)
    shapes = jax.eval_shape(loss.init, KEY, (jnp.zeros((n, d)), jnp.zeros(n, jnp.int32)))
    x = (jax.ShapeDtypeStruct((n, d), jnp.float32), jax.ShapeDtypeStruct((n,), jnp.int32))
    compiled = jax.jit(fp.backprop(loss)).lower(shapes, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < n * v * 4 / 3


def test_what_linear_cross_entropy_ignores_counts_for_nothing_whatever_it_holds():
    loss = fp.LinearCrossEntropy(4, ignore_index=-1, bias=True, chunk=2)
    h = jax.random.normal(KEY, (5, 3)).at[1].set(jnp.nan)
    target = jnp.array([0, -1, 2, 3, -1])
    params = loss.init(KEY, (h, target))
    few = jnp.array([0, 2, 3])
    got, kept = loss.forward(params, (h, target))
    want, few_kept = loss.forward(params, (h[few], target[few]))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    (dh, _), dparams = loss.backward(params, kept, jnp.ones(()))
    (dh_few, _), dparams_few = loss.backward(params, few_kept, jnp.ones(()))
    np.testing.assert_allclose(dh[few], dh_few, rtol=1e-5, atol=1e-7)
    assert np.array_equal(dh[1], jnp.zeros(3))
    np.testing.assert_allclose(dparams.w, dparams_few.w, rtol=1e-5, atol=1e-7)


def test_small_integers_are_classes_too():
    z = jax.random.normal(KEY, (3, 300))
    for loss in (fp.SoftmaxCrossEntropy(), fp.Hinge(), fp.FocalLoss()):
        wide, small = (jnp.array([0, 5, 200], dtype) for dtype in ("int32", "uint8"))
        assert value(loss, z, small) == value(loss, z, wide)
        assert np.array_equal(gradient(loss, z, small)[0], gradient(loss, z, wide)[0])


def test_a_mask_of_the_wrong_form_is_refused():
    for mask in (jnp.ones((2, 1), bool), jnp.zeros((2, 1, 1), int), [True, False]):
        with pytest.raises(fp.LayerError, match="the mask is"):
            value(fp.QuadraticCost(), A, Y, mask)
