"""The classifier reads to the last step that counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcprop.comparison import compare
from funcprop.layer import Context, LayerError
from funcprop.layers import LSTM, LastStep
from funcprop.models import lstm_classifier

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (3, 5, 2))
LENGTHS = jnp.array([5, 2, 0])
MASK = jnp.arange(5) < LENGTHS[:, None]


def test_rows_of_an_image_are_its_steps():
    model = lstm_classifier(4, width=3)
    image = jax.random.normal(KEY, (2, 5, 3, 2))
    params = model.init(KEY, image)
    sequence = lstm_classifier(4, width=3, axes=2)
    rows = sequence.forward((params[0], *params[2:]), image.reshape(2, 5, 6))[0]
    np.testing.assert_allclose(model.forward(params, image)[0], rows, rtol=1e-6)


def test_the_last_step_is_the_final_state_whatever_is_masked():
    layer = LSTM(3)
    params = layer.init(KEY, X)
    zero = jnp.zeros((3, 3))
    context = Context(mask=MASK)
    _, (final, _) = layer.forward(params, (X, (zero, zero)), context)[0]
    ys, _ = layer.forward(params, X, context)
    np.testing.assert_allclose(LastStep().forward((), ys, context)[0], final, atol=1e-6)
    plain, _ = layer.forward(params, X)
    np.testing.assert_array_equal(LastStep().forward((), plain)[0], plain[:, -1])


@pytest.mark.parametrize("mask", [None, MASK])
def test_last_step_has_the_gradient_of_jax(mask):
    assert compare(LastStep(), (), X, Context(mask=mask)).ok


def test_what_is_masked_may_hold_anything():
    spoiled = jnp.where(MASK[..., None], X, jnp.nan)
    y, kept = LastStep().forward((), spoiled, Context(mask=MASK))
    np.testing.assert_array_equal(y, jnp.stack([X[0, 4], X[1, 1], jnp.zeros(2)]))
    dx, _ = LastStep().backward((), kept, jnp.ones((3, 2)))
    assert dx.sum(-1).tolist() == [[0, 0, 0, 0, 2], [0, 2, 0, 0, 0], [0, 0, 0, 0, 0]]


def test_a_mask_of_another_shape_raises():
    with pytest.raises(LayerError, match=r"context\.mask is bool\[5\], wanted bool\[3, 5\]"):
        LastStep().forward((), X, Context(mask=MASK[0]))
