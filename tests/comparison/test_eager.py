"""Functions that JAX cannot trace are run as Python runs them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

X = np.float32([0.3, -1.2, 2.0])


def ruled(factor):
    """A rule around what NumPy computes."""

    @jax.custom_vjp
    def sine(x):
        return jnp.asarray(np.sin(np.asarray(x)))

    sine.defvjp(lambda x: (sine(x), x), lambda x, dy: (factor * dy * jnp.cos(x),))
    return sine


def test_a_right_rule_around_numpy():
    found = fp.compare(ruled(1), X)
    assert found.ok, found
    assert {row.dtype for row in found.rows} == {"float64", "float32"}
    assert any("JAX cannot trace it" in note for note in found.notes)
    assert fp.compare(ruled(1), X, against=jnp.sin).ok


def test_a_wrong_one():
    found = fp.compare(ruled(2), X)
    assert not found.ok and found.wrong[0].path == "dx[0]"


def test_a_branch_of_python():
    def branching(x):
        return x * x if x > 0 else -x

    found = fp.compare(branching, jnp.float32(1.5))
    assert found.ok and any("eagerly" in note for note in found.notes)


def test_a_pair():
    def forward(x):
        return jnp.asarray(np.sin(np.asarray(x))), x

    assert fp.compare((forward, lambda x, dy: (dy * jnp.cos(x),)), X).ok
    assert fp.compare((forward, lambda x, dy: (dy * jnp.sin(x),)), X).wrong


def test_what_has_no_derivative_is_told_in_a_line():
    with pytest.raises(TypeError, match="has no derivative: JAX cannot trace it"):
        fp.compare(lambda x: jnp.asarray(np.sin(np.asarray(x))), X)


def test_a_staircase_cannot_be_judged():
    @jax.custom_vjp
    def rounded(x):
        return jnp.asarray(np.round(1777 * np.asarray(x)) / 1777)

    rounded.defvjp(lambda x: (rounded(x), None), lambda _, dy: (dy,))
    found = fp.compare(rounded, X)
    assert not found.ok and not found.wrong and found.unjudged
