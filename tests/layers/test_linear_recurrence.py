"""LinearRecurrence: numbers by hand, the associative form, masks and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp


def test_three_steps_by_hand():
    a, x = jnp.array([[9.0], [2.0], [3.0]]), jnp.array([[1.0], [1.0], [1.0]])
    layer = fp.LinearRecurrence()
    h, residuals = layer.forward((), (a, x))
    assert h.ravel().tolist() == [1.0, 3.0, 10.0]
    (da, dx), _ = layer.backward((), residuals, jnp.ones_like(h))
    assert dx.ravel().tolist() == [9.0, 4.0, 1.0]  # 1 + 2·4, 1 + 3·1, 1
    assert da.ravel().tolist() == [0.0, 4.0, 3.0]  # dx times the state before


@pytest.mark.parametrize("reverse", [False, True])
def test_masked_steps_are_skipped(reverse):
    a_key, x_key = jax.random.split(jax.random.key(0))
    a, x = jax.random.uniform(a_key, (2, 6, 3)), jax.random.normal(x_key, (2, 6, 3))
    mask = jnp.array([True, False, True, True, False, True])
    layer = fp.LinearRecurrence(reverse=reverse)
    context = fp.Context(mask=jnp.broadcast_to(mask, (2, 6)))
    hidden = jnp.where(mask[:, None], x, jnp.nan)
    h, residuals = layer.forward((), (a, hidden), context)
    short, residuals_of_short = layer.forward((), (a[:, mask], x[:, mask]))
    np.testing.assert_allclose(h[:, mask], short, atol=1e-6)
    np.testing.assert_array_equal(h[:, ~mask], 0)
    grads, _ = layer.backward((), residuals, jnp.ones_like(h))
    grads_of_short, _ = layer.backward((), residuals_of_short, jnp.ones_like(short))
    for ours, theirs in zip(grads, grads_of_short, strict=True):
        np.testing.assert_allclose(ours[:, mask], theirs, atol=1e-5)
        np.testing.assert_array_equal(ours[:, ~mask], 0)


def test_the_last_state_of_a_constant_decay_is_a_geometric_sum():
    a, x = jnp.full((200, 1), 0.5), jnp.ones((200, 1))
    assert float(fp.LinearRecurrence().forward((), (a, x))[0][-1, 0]) == pytest.approx(2)


def test_low_precision_accumulates_in_float32():
    ones = jnp.ones((1, 1000, 1), jnp.bfloat16)
    h, _ = fp.LinearRecurrence().forward((), (ones, ones))
    # bfloat16 alone would stop counting at 256
    assert h.dtype == jnp.bfloat16 and float(h[0, -1, 0]) == 1000


def test_errors():
    x = jnp.zeros((2, 3, 4))
    with pytest.raises(fp.LayerError, match=r"wanted a tuple \(a, x\)"):
        fp.LinearRecurrence().forward((), x)
    with pytest.raises(fp.LayerError, match="shape and dtype must agree"):
        fp.LinearRecurrence().forward((), (jnp.zeros((3, 4)), x))
    with pytest.raises(fp.LayerError, match=r"context\.mask"):
        fp.LinearRecurrence().forward((), (x, x), fp.Context(mask=jnp.ones(2, bool)))
