"""Bidirectional: two layers, one sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp


def test_it_is_two_layers_side_by_side():
    block = fp.Bidirectional(fp.GRU(3))
    assert block.layers == (fp.GRU(3), fp.GRU(3, reverse=True))
    x = jax.random.normal(jax.random.key(0), (2, 5, 4))
    params = block.init(jax.random.key(1), x)
    y = block.forward(params, x)[0]
    parts = [layer.forward(p, x)[0] for layer, p in zip(block.layers, params, strict=True)]
    np.testing.assert_allclose(y, jnp.concatenate(parts, -1), atol=1e-6)
    assert (
        repr(block) == "Bidirectional(GRU(3))"
        and eval(repr(block), vars(fp.layers) | vars(fp.blocks)) == block
    )


def test_a_layer_without_direction_is_refused():
    with pytest.raises(fp.LayerError, match="no direction to reverse"):
        fp.Bidirectional(fp.Dense(3))
