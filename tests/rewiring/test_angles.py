"""The angle between a rewired gradient and the true one."""

import jax
import jax.numpy as jnp
import numpy as np

import funcprop as fp
from funcprop.rewiring.angles import angle, without_rewirings

KEY = jax.random.key(0)
LOSS = fp.QuadraticCost()
X, Y = jax.random.normal(KEY, (20, 4)), jnp.ones((20, 3))


def test_angles():
    for degrees in (0.0, 1e-3, 30.0, 90.0, 179.0, 180.0):
        radians = np.radians(degrees)
        a, b = jnp.array([2.0, 0, 0]), jnp.array([np.cos(radians), np.sin(radians), 0]) * 0.1
        np.testing.assert_allclose(angle(a, b), degrees, 1e-3, 1e-5)
    assert jnp.isnan(angle(jnp.zeros(3), jnp.ones(3)))


def test_against_both_gradients_by_hand():
    plain = fp.Serial(fp.Dense(6), fp.Tanh(), fp.Dense(3))
    model = fp.rewire(plain, {fp.Dense: fp.rewiring.feedback_alignment()})
    params = model.init(KEY, X)
    angles = jax.jit(fp.rewiring.alignment(model, LOSS))(params, (X, Y))
    assert list(angles) == ["[0].b", "[0].w", "[2].b", "[2].w"]  # a dictionary under jit is sorted
    own = (params[0].params, (), params[2].params)
    a = fp.backprop(model, LOSS)(params, (X, Y))[1][0].params.w
    b = fp.backprop(plain, LOSS)(own, (X, Y))[1][0].w
    cosine = (a * b).sum() / jnp.linalg.norm(a) / jnp.linalg.norm(b)
    np.testing.assert_allclose(angles["[0].w"], np.degrees(np.arccos(cosine)), 1e-4)
    assert angles["[2].w"] < 0.1 < 10 < angles["[0].w"]


def test_in_composites_and_with_a_context():
    inner = fp.Skip(fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dropout(0.5)))
    model = fp.Serial(inner, fp.Repeat(fp.Serial(fp.Dense(4), fp.Tanh()), 3), fp.Dense(3))
    signs, frozen = fp.rewiring.sign_symmetry(), fp.rewiring.frozen()
    model = fp.rewire(model, {fp.Dense: signs, fp.Tanh: fp.rewiring.gradient_reversal()})
    params = model.init(KEY, X)
    angles = fp.rewiring.alignment(model, LOSS)(params, (X, Y), fp.Context(key=KEY))
    assert list(angles) == [
        "[0][0][0].w", "[0][0][0].b", "[1][0][0].w", "[1][0][0].b", "[2].w", "[2].b"
    ]  # fmt: skip
    assert angles["[2].w"] < 0.1 and angles["[1][0][0].w"] > 90
    model = fp.Serial(frozen(fp.Serial(fp.Dense(4), fp.Tanh())), fp.Dense(3))
    assert list(fp.rewiring.alignment(model, LOSS)(model.init(KEY, X), (X, Y))) == [
        "[1].w",
        "[1].b",
    ]
    direct = fp.rewiring.DirectFeedback(fp.Dense(4), signs(fp.Dense(4)), fp.Dense(3))
    angles = fp.rewiring.alignment(direct, LOSS)(direct.init(KEY, X), (X, Y))
    assert angles["[0].w"] > 10 and angles["[2].w"] < 0.1
    whole = fp.Serial(fp.Parallel(direct, fp.Identity()), LOSS)  # the model is the objective
    again = fp.rewiring.alignment(whole)(whole.init(KEY, (X, Y)), (X, Y))
    assert "[0][0][0].w" in again


def test_without_rewirings():
    plain = fp.Serial(fp.Dense(4), fp.Skip(fp.Dense(4)))
    model = fp.rewire(
        plain,
        {fp.Dense: fp.rewiring.feedback_alignment(), fp.Skip: fp.rewiring.gradient_reversal()},
    )
    params = model.init(KEY, X)
    layer, own = without_rewirings(model, params)
    assert layer == plain
    jax.tree.map(np.testing.assert_array_equal, own, plain.init(KEY, X))
