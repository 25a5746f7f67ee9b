"""FixedPoint: a gradient where automatic differentiation has none."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.catalogue.rows.composites import Cell
from funcprop.layer import Layer


@dataclass(frozen=True)
class Linear(Layer):
    """z′ = a z + x, whose fixed point is x / (1 − a)."""

    def init(self, key, x):
        return jnp.asarray(0.5, x[0].dtype)

    def forward(self, a, x, context=fp.Context()):
        return a * x[0] + x[1], x[0]

    def backward(self, a, z, dy):
        return (a * dy, dy), (z * dy).sum()


def test_by_hand():
    layer, x = fp.FixedPoint(Linear()), jnp.array([1.0, -2.0])
    z, residuals = layer.forward((jnp.float32(0.5),), x)
    assert jnp.allclose(z, x / 0.5, rtol=1e-5)
    dy = jnp.array([1.0, 3.0])
    dx, (da,) = layer.backward((jnp.float32(0.5),), residuals, dy)
    assert jnp.allclose(dx, dy / 0.5, rtol=1e-5)
    assert jnp.allclose(da, (dy * x).sum() / 0.5**2, rtol=1e-5)  # d/da x / (1 − a)


def test_equals_a_long_unrolled_iteration():
    layer = fp.FixedPoint(Cell(), 3)
    x = jax.random.normal(jax.random.key(0), (5, 4))
    params = layer.init(jax.random.key(1), x)
    params = jax.tree.map(lambda p: 2 * p, params)

    def unrolled(params, x):
        z = jnp.zeros((5, 3))
        for _ in range(30):
            z = Cell().forward(params[0], (z, x))[0]
        return z

    z, residuals = jax.jit(layer.forward)(params, x)
    want, pull = jax.vjp(unrolled, params, x)
    dx, dparams = jax.jit(layer.backward)(params, residuals, jnp.cos(z))
    wdp, wdx = pull(jnp.cos(want))
    for a, b in zip(
        jax.tree.leaves((z, dx, dparams)), jax.tree.leaves((want, wdx, wdp)), strict=True
    ):
        assert jnp.allclose(a, b, atol=2e-5)
    with pytest.raises(ValueError, match="Reverse-mode differentiation does not work"):
        jax.grad(lambda p: layer.forward(p, x)[0].sum())(params)
    function = fp.as_function(layer)
    grads = jax.grad(lambda p: jnp.sin(function(p, x)).sum())(params)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(dparams), strict=True):
        assert jnp.allclose(a, b, atol=1e-5)


def test_what_does_not_converge_is_an_error_or_nan():
    layer, x = fp.FixedPoint(Linear(), max_steps=20), jnp.ones(2)
    params = (jnp.float32(1.5),)
    with pytest.raises(fp.LayerError, match=r"did not come to rest in 20 steps\n.*contract"):
        layer.forward(params, x)
    assert jnp.isnan(jax.jit(layer.forward)(params, x)[0]).all()
    kept = jnp.ones(2)
    with pytest.raises(fp.LayerError, match="did not come to rest"):
        layer.backward(params, (kept), jnp.ones(2))
    dx, _ = jax.jit(layer.backward)(params, (kept), jnp.ones(2))
    assert jnp.isnan(dx).all()
    mixed = jax.vmap(lambda a: layer.forward((a,), x)[0])(jnp.array([0.1, 1.5]))
    assert jnp.isfinite(mixed[0]).all() and jnp.isnan(mixed[1]).all()


def test_residuals_are_those_of_one_step():
    layer = fp.FixedPoint(Cell(), 3)
    x = jnp.ones((5, 4))
    params = layer.init(jax.random.key(0), x)
    kept = jax.tree.leaves(layer.forward(params, x)[1])
    assert [leaf.shape for leaf in kept] == [(5, 3), (5, 4), (5, 3)]


def test_values_and_errors():
    layer = fp.FixedPoint(Linear(), 3, tolerance=1e-3, max_steps=7)
    assert repr(layer) == "FixedPoint(Linear(), 3, tolerance=0.001, max_steps=7)"
    assert layer.rebuild((Linear(),)) == layer
    with pytest.raises(fp.LayerError, match="max_steps is 0"):
        fp.FixedPoint(Linear(), max_steps=0)
    with pytest.raises(fp.LayerError, match="the output of f"):
        fp.FixedPoint(Linear(), 1).forward((jnp.float32(0.5),), jnp.ones((3, 4)))
    with pytest.raises(fp.LayerError, match="wanted floats"):
        fp.FixedPoint(Linear()).forward((jnp.float32(0.5),), jnp.arange(3))
