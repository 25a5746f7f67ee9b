"""Wrong gradients that hide, and right ones that look wrong."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

CONTEXT = fp.Context(jax.random.key(1))


def normal(*shape):
    return jax.random.normal(jax.random.key(3), shape)


@dataclass(frozen=True)
class WrongInFloat32(fp.Tanh):
    def backward(self, params, a, da):
        dz, _ = super().backward(params, a, da)
        return dz if dz.dtype == jnp.float64 else (1.5 * dz).astype(dz.dtype), ()


@dataclass(frozen=True)
class OneKey(fp.Dropout):
    def backward(self, params, kept, dy):
        again = jax.random.bernoulli(jax.random.key(1), jnp.float32(0.5), dy.shape)
        return super().backward(params, again, dy)


@dataclass(frozen=True)
class Rounded(fp.Layer):
    """Straight through: round(x) with the gradient of x."""

    def forward(self, params, x, context=fp.Context()):
        return x + jax.lax.stop_gradient(jnp.round(x) - x), ()

    def backward(self, params, residuals, dy):
        return dy, ()


def newton(a):
    """√a by a loop that jax.vjp cannot go back through."""

    def step(carry):
        y, i = carry
        return (y + a / y) / jnp.asarray(2, y.dtype), i + 1

    start = jnp.maximum(a, jnp.ones_like(a)), 0
    return jax.lax.while_loop(lambda carry: carry[1] < 60, step, start)[0]


def sinc(x):
    return jnp.where(x == 0, 1.0, jnp.sin(x) / x), x


def sinc_backward(x, dy):
    safe = jnp.where(x == 0, 1.0, x)
    return dy * jnp.where(x == 0, 0.0, (jnp.cos(x) - jnp.sin(x) / safe) / safe)


def with_primal(primal, forward, backward):
    f = jax.custom_vjp(primal)
    f.defvjp(forward, backward)
    return f


def sine(x):
    return jnp.sin(x), x


def sine_backward(x, dy):
    return (dy * jnp.cos(x),)


def layer(model, x):
    return fp.compare(model, model.init(jax.random.key(0), x), x, context=CONTEXT)


def dropped(inner):
    return fp.Serial(fp.Dense(5), fp.Dropout(0.5), inner, fp.Dense(2))


WRONG = {
    "a low precision, behind dropout": lambda: layer(dropped(WrongInFloat32()), normal(6, 4)),
    "nan at a kink": lambda: fp.compare(
        (lambda x: (jnp.abs(x), x), lambda x, dy: dy * x / jnp.abs(x)), normal(5, 4)
    ),
    "no slope at a kink": lambda: fp.compare(
        (
            lambda x: (jnp.maximum(x, 0), x),
            lambda x, dy: dy * jnp.where(x == 0, 1e6, (x > 0).astype(x.dtype)),
        ),
        normal(5, 4),
    ),
    "nan where jax.vjp has it too": lambda: fp.compare(
        (lambda x: (jnp.where(x == 0, 0.0, x * x / x), x), lambda x, dy: dy * x / x),
        normal(6).at[2].set(0.0),
    ),
    "no automatic peer, in bfloat16 alone": lambda: fp.compare(
        (
            lambda a: (newton(a), newton(a)),
            lambda y, dy: -dy / (2 * y) if y.dtype == jnp.bfloat16 else dy / (2 * y),
        ),
        jnp.exp(normal(5)).astype(jnp.bfloat16),
    ),
    "always one key": lambda: fp.compare(OneKey(0.5), (), normal(6, 4), context=CONTEXT),
    "another value where differentiated": lambda: fp.compare(
        with_primal(jnp.sin, lambda x: (jnp.zeros_like(x), x), sine_backward), normal(4)
    ),
    "another value than the reference": lambda: fp.compare(
        (sine, sine_backward), normal(4), against=lambda x: jnp.sin(x) + 1
    ),
}
RIGHT = {
    "dropout": lambda: layer(dropped(fp.Tanh()), normal(6, 4)),
    "exact zeros": lambda: fp.compare(fp.Softplus(), (), jnp.maximum(normal(5, 4), 0)),
    "exact zeros inside": lambda: layer(
        fp.Serial(fp.Dense(3), fp.ReLU(), fp.Softplus()), normal(5, 4)
    ),
    "zero logits": lambda: fp.compare(
        fp.BinaryCrossEntropy(), (), (jnp.zeros((8, 8)), jnp.eye(8, dtype=jnp.float32))
    ),
    "another convention at a kink": lambda: fp.compare(
        (lambda x: (jnp.maximum(x, 0), x), lambda x, dy: dy * (x > 0).astype(dy.dtype)),
        jnp.asarray([[0.0, 1.0, 2.0], [3.0, -1.0, 0.0]]),
    ),
    "small numbers in a loop": lambda: fp.compare(
        (lambda a: (newton(a), newton(a)), lambda y, dy: dy / (2 * y)), 0.01 * jnp.exp(normal(5))
    ),
    "finite where jax.vjp is not": lambda: fp.compare((sinc, sinc_backward), jnp.zeros(4)),
    "a stopped gradient": lambda: fp.compare(Rounded(), (), normal(5, 4)),
    "cast to what it was written for": lambda: fp.compare(
        (sine, lambda x, dy: (dy * jnp.cos(x)).astype(jnp.float32)), normal(50)
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_is_caught(name):
    assert not WRONG[name]().ok


@pytest.mark.parametrize("name", RIGHT)
def test_is_not_accused(name):
    RIGHT[name]().raise_if_wrong()


def test_two_outputs_of_three_arguments_are_no_gradient_function():
    def f(q, k, v):
        return q * k, v

    assert fp.compare(f, *3 * [normal(4)], against=f).ok


@pytest.mark.parametrize("option", [{"floor": "a"}, {"floor": -1}, {"floor": float("inf")}])
def test_the_floor_is_a_number(option):
    with pytest.raises(ValueError, match="wanted a number of eps"):
        fp.compare(fp.Tanh(), (), normal(4), **option)


def test_the_key_is_one_key():
    with pytest.raises(TypeError, match="wanted one key"):
        fp.compare(fp.Tanh(), (), normal(4), key=0)


def test_backward_returns_a_pair():
    class Alone(fp.Tanh):
        def backward(self, params, a, da):
            return da * (1 - a * a)

    found = fp.compare(Alone(), (), normal(4))
    assert not found.ok and "wanted the pair (dx, dparams)" in str(found)


def test_params_and_x_exchanged():
    @dataclass(frozen=True)
    class Times(fp.Layer):
        def init(self, key, x):
            return (jnp.ones(x.shape[-1]),)

        def forward(self, params, x, context=fp.Context()):
            return x * params[0], x

        def backward(self, params, x, dy):
            return dy * params[0], ((dy * x).sum(0),)

    x = normal(5, 4)
    params = Times().init(jax.random.key(0), x)
    assert fp.compare(Times(), params, x).ok
    with pytest.raises(TypeError, match="they are exchanged"):
        fp.compare(Times(), x, params)


def test_the_score_of_a_wrong_backward_is_refused():
    pair = sine, lambda x, dy: dy * jnp.cos(x) / 8
    with pytest.raises(ValueError, match="is wrong itself"):
        fp.mutation_score(pair, normal(4))
    assert fp.mutation_score((sine, sine_backward), normal(4)).share == 1


@pytest.mark.parametrize(("wide", "factor"), [(False, 1.3), (False, 0.0), (True, 1.3), (True, 1)])
@pytest.mark.parametrize("rate", [0.4, 0.05])
def test_no_difference_of_two_draws_passes_for_a_rounding(rate, wide, factor):
    """Float64 draws another mask than float32: how far they are apart grants nothing."""

    @dataclass(frozen=True)
    class InOneDtype(fp.Dropout):
        def backward(self, params, kept, dy):
            dx, _ = super().backward(params, kept, dy)
            planted = dy.dtype == (jnp.float64 if wide else jnp.float32)
            return dx * (factor if planted else 1), ()

    context = fp.Context(key=jax.random.key(1))
    found = fp.compare(InOneDtype(rate), (), normal(5, 4), context=context)
    assert found.ok == (factor == 1)
    wrong = {row.dtype for row in found.wrong}
    assert wrong == (set() if factor == 1 else {"float64" if wide else "float32"})
    assert all(row.relative < 1e-5 for row in found.rows if row.ok)
    told = "zero" if not factor else f"a factor of {factor}"
    assert all(row.words.startswith(told) for row in found.wrong)
    agreed = [note for note in found.notes if "finite differences agree along" in note]
    assert bool(agreed) == found.ok


@jax.custom_vjp
def gap(a, b):
    return (a * a - b * b) ** 2


def gap_backward(kept, dy):
    a, b = kept
    slope = 4 * dy * (a * a - b * b)
    return slope * a, -slope * b


gap.defvjp(lambda a, b: (gap(a, b), (a, b)), gap_backward)


@pytest.mark.parametrize("size", [1, 1000])
def test_an_input_at_which_float32_says_little_is_told(size):
    """At 1000 the squares differ in their last digits: automatic differentiation is no better."""
    a = np.float32(size) * np.linspace(1.05, 1.1, 6, dtype=np.float32)
    found = fp.compare(gap, a, a + np.float32(1e-4), probes=2)
    assert found.ok
    told = [note for note in found.notes if "automatic differentiation's own error is" in note]
    assert [note.startswith("float32: ") and "% of dx[0], " in note for note in told] == (
        [True] if size > 1 else []
    )
