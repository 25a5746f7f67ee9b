"""What no witness can judge is neither right nor wrong, and does not pass unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

X = np.float32([1.0, 2.0, 3.0])


def root(factor):
    """y with y³ + y = x, by bisection: a staircase, whose slope is in no difference of it."""

    @jax.custom_vjp
    def f(x):
        def halve(_, ends):
            low, high = ends
            middle = (low + high) / 2
            above = middle**3 + middle > x
            return jnp.where(above, low, middle), jnp.where(above, middle, high)

        return jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(x), jnp.full_like(x, 10)))[0]

    f.defvjp(lambda x: (f(x), f(x)), lambda y, dy: (factor * dy / (3 * y**2 + 1),))
    return f


@pytest.mark.parametrize("factor", [1, -1, 2])
def test_the_gradient_of_a_bisection_cannot_be_judged(factor):
    found = fp.compare(root(factor), X)
    assert not found.ok and found.wrong == ()
    assert found.headline == "f: cannot be judged: dx[0], at no input that was tried"
    assert "not judged" in str(found)
    with pytest.raises(fp.GradientError, match="cannot be judged"):
        fp.assert_gradients(root(factor), X)
    assert fp.assert_gradients(root(factor), X, allow_unjudged=True).unjudged == found.unjudged


def test_it_is_judged_against_a_reference():
    def smooth(x):  # Cardano's
        root = jnp.sqrt(x**2 / 4 + 1 / 27)
        return jnp.cbrt(x / 2 + root) + jnp.cbrt(x / 2 - root)

    assert fp.compare(smooth, X).ok


def test_on_a_kink_the_other_inputs_judge():
    zeros = np.zeros(3, np.float32)
    found = fp.compare(jax.nn.relu, zeros)
    assert found.ok and found.unjudged == ()

    @jax.custom_vjp
    def wrong(x):
        return jnp.abs(x)

    wrong.defvjp(lambda x: (jnp.abs(x), x), lambda x, dy: (dy * (jnp.sign(x) + 0.5),))
    assert fp.compare(wrong, zeros).wrong


@pytest.mark.parametrize(
    "draw", [lambda key, a: jax.random.gamma(key, a), lambda key, a: jax.random.beta(key, a, a)]
)
def test_a_sampler_cannot_be_judged(draw):
    found = fp.compare(draw, jax.random.key(1), X)
    assert not found.ok and found.wrong == () and "cannot be judged" in found.headline
    assert any("accepted or rejected" in row.rule for row in found.unjudged)


def test_chance_that_decides_nothing_excuses_nothing():
    @jax.custom_vjp
    def dropped(key, x):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), x, 0)

    def backward(mask, dy):
        return None, jnp.where(mask, 2 * dy, 0)

    dropped.defvjp(
        lambda key, x: (dropped(key, x), jax.random.bernoulli(key, 0.5, x.shape)), backward
    )
    assert fp.compare(dropped, jax.random.key(1), X).wrong


def test_differences_of_what_is_rounded_take_longer_steps():
    def halved(x):
        def rounded(state):
            return state[0] + 1, (0.5 * state[1]).astype(jnp.float32).astype(x.dtype)

        return jax.lax.while_loop(lambda state: state[0] < 3, rounded, (0, jnp.sin(x)))[1]

    rule = jax.custom_vjp(halved)
    rule.defvjp(lambda x: (halved(x), x), lambda x, dy: (0.125 * jnp.cos(x) * dy,))
    assert fp.compare(rule, jnp.linspace(0.1, 1.0, 6)).ok
    rule.defvjp(lambda x: (halved(x), x), lambda x, dy: (0.126 * jnp.cos(x) * dy,))
    assert not fp.compare(rule, jnp.linspace(0.1, 1.0, 6)).ok
