"""What is granted on request: a relative error, a leaf that is not judged, another derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

X = np.linspace(-1.0, 1.2, 6, dtype=np.float32).reshape(2, 3)
W = np.linspace(0.5, 1.5, 3, dtype=np.float32)


def off_by(share):
    """A rule that is right but for a share of dx."""

    @jax.custom_vjp
    def f(x):
        return jnp.sin(x)

    f.defvjp(lambda x: (f(x), x), lambda x, dy: (dy * jnp.cos(x) * (1 + share * jnp.cos(7 * x)),))
    return f


def test_an_error_below_rtol_is_granted_and_said():
    assert fp.compare(off_by(1e-5), X).wrong
    found = fp.compare(off_by(1e-5), X, rtol=1e-4)
    assert found.ok, found
    assert any("(rtol)" in row.rule for row in found.rows)
    assert any(note.startswith("rtol = 0.0001") for note in found.notes)
    assert fp.compare(off_by(1e-2), X, rtol=1e-4).wrong


def test_what_is_nearly_right_is_told_apart_from_what_is_wrong():
    found = fp.compare(off_by(1e-5), X)
    assert "agrees to" in found.headline and "less accurate" in found.headline
    assert "rtol=" in found.headline and found.less_accurate
    assert "wrong gradient" in fp.compare(off_by(1e-2), X).headline


def test_what_finite_differences_cannot_tell_from_jax_passes_with_a_note():
    found = fp.compare(off_by(1e-7), X)
    (note,) = [note for note in found.notes if note.startswith("dx[0]: ")]
    assert found.ok and "by less than finite differences can tell" in note


@jax.custom_vjp
def root(x):
    """z with z + tanh(z) / 2 = x, by steps that stop at 1e-6."""

    def step(state):
        z, _, i = state
        new = x - jnp.tanh(z) / 2
        return new, jnp.max(jnp.abs(new - z)), i + 1

    start = x, jnp.asarray(1.0, x.dtype), 0
    return jax.lax.while_loop(lambda s: (s[1] > 1e-6) & (s[2] < 100), step, start)[0]


root.defvjp(lambda x: (root(x), root(x)), lambda z, dy: (dy / (1.5 - jnp.tanh(z) ** 2 / 2),))


def test_a_loop_that_stops_at_a_tolerance():
    found = fp.compare(root, X, rtol=1e-4)
    assert found.ok, found

    def wrong(x):
        return 2 * root(x) - jax.lax.stop_gradient(root(x))

    assert fp.compare(wrong, X, rtol=1e-4).wrong


@pytest.mark.parametrize("rtol", [-1, 1, "small", True])
def test_an_rtol_that_is_none(rtol):
    with pytest.raises(ValueError, match="rtol"):
        fp.compare(jnp.sin, X, rtol=rtol)


@jax.custom_vjp
def scaled(x, scale):
    return x * scale


scaled.defvjp(lambda x, s: (x * s, (x, s)), lambda kept, dy: (dy * kept[1], 0 * kept[1]))


def test_an_argument_that_is_ignored_is_named_and_not_judged():
    assert fp.compare(scaled, X, W).wrong
    for name in ("scale", "dx[1]", ["scale"]):
        found = fp.compare(scaled, X, W, ignore=name)
        assert found.ok, found
        assert all(row.path == "dx[0]" for row in found.rows)
        assert any("ignore says: dx[1]" in note for note in found.notes)
    assert fp.compare(scaled, X, W, ignore="x").wrong
    assert fp.assert_gradients(scaled, X, W, ignore="scale").ok


def test_a_leaf_of_a_layer():
    class Half(fp.Dense):
        def backward(self, params, residuals, dy):
            dx, dparams = super().backward(params, residuals, dy)
            return dx, dparams._replace(b=0.5 * dparams.b)

    layer = Half(2)
    params = layer.init(jax.random.key(0), X)
    assert fp.compare(layer, params, X).wrong
    found = fp.compare(layer, params, X, ignore="b")
    assert found.ok and {row.path for row in found.rows} == {"dx", "dw"}


def test_names_that_there_are_not():
    with pytest.raises(ValueError, match="wanted some of: x, scale"):
        fp.compare(scaled, X, W, ignore="weight")
    with pytest.raises(ValueError, match="leaves no gradient"):
        fp.compare(scaled, X, W, ignore=("x", "scale"))
    with pytest.raises(TypeError, match="wanted names"):
        fp.compare(scaled, X, W, ignore=3)


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, dy: (dy,))


def test_a_surrogate_lends_its_derivative_and_not_its_values():
    found = fp.compare(straight_through, X, surrogate=lambda x: x)
    assert found.ok, found
    assert any("surrogate" in note for note in found.notes)
    assert fp.compare(straight_through, X, surrogate=jnp.tanh).wrong
    assert fp.compare(straight_through, X, against=lambda x: x).wrong  # its values are others
    assert fp.compare(fp.Binarize(), (), X, surrogate=fp.HardTanh()).ok


def test_a_surrogate_and_a_reference_are_one_too_many():
    with pytest.raises(TypeError, match="leave one out"):
        fp.compare(straight_through, X, surrogate=jnp.tanh, against=jnp.tanh)
