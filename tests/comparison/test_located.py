"""Rules that are wrong in one way only, or stand in a branch or a rule, are named all the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

X = np.linspace(-1.0, 1.2, 12, dtype=np.float32).reshape(3, 4)


def ruled(value, backward, forward=None):
    @jax.custom_vjp
    def planted(x):
        return value(x)

    planted.defvjp(forward or (lambda x: (value(x), x)), lambda x, dy: (backward(x, dy),))
    return planted


def narrow(x):
    return 1 if x.dtype == jnp.float32 else 0


def inside(rule):
    return lambda x: jnp.sum(jnp.tanh(rule(x)) * jnp.cos(x))


def in_a_scan(rule):
    def f(x):
        block = jax.jit(lambda c: jnp.tanh(rule(c)))
        return jnp.sum(jax.lax.scan(lambda c, _: (block(c), None), x, None, length=3)[0])

    return f


PLACES = [inside, in_a_scan]


@pytest.mark.parametrize("place", PLACES)
def test_wrong_in_float32_alone(place):
    rule = ruled(jnp.square, lambda x, dy: 2 * x * dy * (1 + 1e-2 * narrow(x)))
    found = fp.compare(place(rule), X, probes=2)
    assert found.wrong[0].place.startswith("planted ("), found
    assert "a factor of 1.01 in float32 alone" in found.wrong[0].words


def test_a_right_rule_beside_it_is_not_named():
    wrong = ruled(jnp.square, lambda x, dy: 2 * x * dy * (1 + 1e-2 * narrow(x)))
    right = ruled(jnp.sin, lambda x, dy: dy * jnp.cos(x))
    found = fp.compare(lambda x: jnp.sum(right(x) * wrong(x)), X, probes=2)
    assert len({row.place for row in found.wrong if row.place}) == 1
    (note,) = [note for note in found.notes if note.startswith("right by themselves")]
    assert note.count("planted") == 1


@pytest.mark.parametrize("place", PLACES)
def test_wrong_under_vmap_alone(place):
    @jax.custom_batching.custom_vmap
    def slope(x, dy):
        return 2 * x * dy

    @slope.def_vmap
    def _(size, batched, x, dy):
        return 3 * x * dy, True

    found = fp.compare(place(ruled(jnp.square, slope)), X, probes=2)
    assert found.wrong[0].place.startswith("planted ("), found


@pytest.mark.parametrize("place", PLACES)
def test_wrong_in_its_second_derivative_alone(place):
    rule = ruled(
        lambda x: x**3,
        lambda kept, dy: kept * dy,
        lambda x: (x**3, jax.lax.stop_gradient(3 * x * x)),
    )
    assert fp.compare(place(rule), X, probes=2).ok
    found = fp.compare(place(rule), X, probes=2, order=2)
    assert found.wrong[0].place.startswith("planted ("), found
    assert found.wrong[0].path == "d²x[0]"


def test_a_rule_whose_forward_calls_itself():
    @jax.custom_vjp
    def planted(x):
        return x * x

    planted.defvjp(lambda x: (planted(x), x), lambda x, dy: (3 * x * dy,))
    found = fp.compare(inside(planted), X, probes=2)
    assert found.wrong[0].place.startswith("planted (") and "1.5" in found.wrong[0].words


def test_a_rule_of_forward_mode_that_calls_itself():
    @jax.custom_jvp
    def planted(x):
        return x * x

    planted.defjvp(lambda x, dx: (planted(*x), 3 * x[0] * dx[0]))
    found = fp.compare(inside(planted), X, probes=2)
    assert found.wrong[0].place.startswith("planted ("), found


# --- branches -------------------------------------------------------------------------------------


def in_a_branch(rule, taken):
    def f(x):
        return jnp.sum(jax.lax.cond(taken, lambda c: jnp.tanh(rule(c)), jnp.cos, x))

    return f


def in_a_switch(rule):
    def f(x):
        def step(c, i):
            return jax.lax.switch(i, [jnp.sin, lambda c: 0.5 * rule(c), jnp.cos], c), None

        return jnp.sum(jax.lax.scan(step, x, jnp.arange(3))[0])

    return f


SQUARE = ruled(jnp.square, lambda x, dy: 3 * x * dy)
RIGHT = ruled(jnp.square, lambda x, dy: 2 * x * dy)


@pytest.mark.parametrize("place", [lambda r: in_a_branch(r, jnp.asarray(True)), in_a_switch])
def test_in_a_branch(place):
    found = fp.compare(place(SQUARE), X, probes=2)
    assert found.wrong[0].place.startswith("planted ("), found
    assert found.wrong[0].words.startswith("a factor of 1.5")
    assert fp.compare(place(RIGHT), X, probes=2).ok


def test_a_branch_that_is_not_taken_proves_nothing():
    found = fp.compare(in_a_branch(SQUARE, jnp.asarray(False)), X, probes=2)
    assert found.ok and "no cotangent reaches a rule inside" in found.notes


# --- rules called by rules ------------------------------------------------------------------------


def calling(rule):
    """A rule whose backward is that of another."""

    @jax.custom_vjp
    def outer(x):
        return jnp.sin(rule(x))

    def forward(x):
        y, pullback = jax.vjp(rule, x)
        return jnp.sin(y), (y, pullback)

    outer.defvjp(forward, lambda kept, dy: kept[1](jnp.cos(kept[0]) * dy))
    return outer


def test_the_rule_that_a_wrong_rule_calls():
    found = fp.compare(inside(calling(SQUARE)), X, probes=2)
    first = found.wrong[0]
    assert first.place.startswith("planted (") and first.place.endswith(", in outer")
    assert first.words.startswith("a factor of 1.5")
    assert any(row.place.startswith("outer (") for row in found.wrong)


def test_a_right_rule_that_calls_a_wrong_one_is_right():
    @jax.custom_vjp
    def outer(x):
        return jnp.sin(SQUARE(x))

    outer.defvjp(lambda x: (outer(x), x), lambda x, dy: (dy * jnp.cos(x * x) * 2 * x,))
    assert fp.compare(inside(outer), X, probes=2).ok
