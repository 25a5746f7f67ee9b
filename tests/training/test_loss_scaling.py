"""Loss scaling against its definition: the same gradient, and a scale that follows it."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp

KEY = jax.random.key(0)
MODEL, LOSS = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(3)), fp.SoftmaxCrossEntropy()
LOW = fp.Cast(MODEL, "float16")
X = jax.random.normal(KEY, (12, 4))
DATA = X, jnp.argmax(X[:, :3], -1)
PARAMS = MODEL.init(KEY, X)


@pytest.mark.parametrize("has_aux", [False, True])
@pytest.mark.parametrize("by_hand", [False, True])
def test_a_scaled_gradient_is_the_gradient(by_hand, has_aux):
    gradient = fp.backprop(MODEL, LOSS, has_aux)
    if not by_hand:
        gradient = jax.value_and_grad(fp.objective(MODEL, LOSS, has_aux), has_aux=has_aux)
    wanted = jax.jit(gradient)(PARAMS, DATA)
    found = jax.jit(fp.loss_scaled(gradient, 2.0**10))(PARAMS, DATA)
    # a power of two rounds nothing
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("by_hand", [False, True])
def test_small_gradients_survive_float16(by_hand):
    # outputs of 0, and targets 1e-9 below: δ is 1e-9 / 12, in float16 that is 0
    low = fp.Cast(fp.Dense(1, w_init=fp.initializers.Zeros()), "float16")
    params, batch = low.init(KEY, X), (X, jnp.full((12, 1), -1e-9))
    gradient = fp.backprop(low, fp.QuadraticCost())
    if not by_hand:
        gradient = jax.value_and_grad(fp.objective(low, fp.QuadraticCost()))
    (alone,) = gradient(params, batch)[1]
    (found,) = fp.loss_scaled(gradient, 2.0**20)(params, batch)[1]
    assert not alone.b.any() and found.b.dtype == jnp.float32
    np.testing.assert_allclose(found.b, 1e-9, rtol=5e-3)


def test_the_scale_doubles_after_a_period_and_halves_where_a_gradient_is_not_finite():
    optimizer = fp.with_loss_scale(optax.adam(0.1), scale=4.0, period=2)
    plain, params = optax.adam(0.1), {"w": jnp.ones(2)}
    state, own, other = optimizer.init(params), params, plain.init(params)
    bad, good = {"w": jnp.array([1.0, jnp.nan])}, {"w": jnp.array([1.0, -2.0])}
    seen, ours = [], params
    with jax.numpy_dtype_promotion("standard"):
        for grads in (good, good, bad, good, bad, bad, bad, good):
            updates, state = optimizer.update(grads, state, ours)
            ours = optax.apply_updates(ours, updates)
            seen.append((float(state.scale), int(state.finite), int(state.skipped)))
            if grads is good:  # the optimizer inside sees nothing of the others
                updates, other = plain.update(grads, other, own)
                own = optax.apply_updates(own, updates)
            np.testing.assert_array_equal(ours["w"], own["w"])
    assert seen == [
        (4, 1, 0), (8, 0, 0), (4, 0, 1), (4, 1, 1), (2, 0, 2), (1, 0, 3), (1, 0, 4), (1, 1, 4),
    ]  # fmt: skip
    for a, b in zip(jax.tree.leaves(state.optimizer), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_scale_that_is_too_large_comes_down_until_training_goes_on():
    def at(scale):
        return fp.clip_by_norm(fp.loss_scaled(fp.backprop(LOW, LOSS), scale), 1.0)

    optimizer = fp.with_loss_scale(fp.with_ema(optax.sgd(0.5), 0.5), scale=2.0**24)
    state = start = fp.init_state(LOW, optimizer, KEY, X)
    step, losses = jax.jit(fp.scaled_step(at, optimizer)), []
    for _ in range(20):
        state, metrics = step(state, DATA)
        losses.append(float(metrics.loss))
    found = fp.loss_scale(state)
    assert 0 < int(found.skipped) < 15 and float(found.scale) == 2.0 ** (24 - int(found.skipped))
    assert len(set(losses[: int(found.skipped) + 1])) == 1 and losses[-1] < losses[0]
    assert int(state.opt_state.optimizer.count) == 20 - int(found.skipped)
    assert jax.tree.map(jnp.shape, fp.ema_params(state)) == jax.tree.map(jnp.shape, start.params)


def test_what_cannot_be_scaled_is_told():
    gradient = fp.backprop(MODEL, LOSS)
    with pytest.raises(TypeError, match=r"clip_by_norm\(loss_scaled\(gradient, scale\), 1.0\)"):
        fp.loss_scaled(fp.clip_by_norm(gradient, 1.0), 2.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="wanted a positive number"):
            fp.loss_scaled(gradient, wrong)
    for wrong in ("2", None, True, jnp.ones(2)):
        with pytest.raises(TypeError, match="scale is"):
            fp.loss_scaled(gradient, wrong)
    squares = fp.collect(MODEL, fp.collectors.squared_norms)
    with pytest.raises(ValueError, match="collects something else"):
        fp.loss_scaled(fp.backprop(squares, fp.SoftmaxCrossEntropy(reduction="sum")), 2.0)
    with pytest.raises(ValueError, match="from 1 to"):
        fp.with_loss_scale(optax.sgd(0.1), scale=2.0**25)
    with pytest.raises(ValueError, match="period is 0"):
        fp.with_loss_scale(optax.sgd(0.1), period=0)
    with pytest.raises(TypeError, match="wanted a function of the scale"):
        fp.scaled_step(3, optax.sgd(0.1))
    state = fp.init_state(MODEL, optax.sgd(0.1), KEY, X)
    with pytest.raises(ValueError, match=r"no loss scales.*with_loss_scale"):
        fp.scaled_step(lambda scale: fp.loss_scaled(gradient, scale), optax.sgd(0.1))(state, DATA)
