"""Wrong rules that are no simple slip of a whole leaf: which term, which element, which sum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.comparison.leaf import NO_PATTERN

X = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)


def ruled(value, backward):
    """The function with a rule: backward(x, dy) -> dx."""

    @jax.custom_vjp
    def f(x):
        return value(x)

    f.defvjp(lambda x: (value(x), x), lambda x, dy: (backward(x, dy),))
    return f


def softmax(x):
    return jax.nn.softmax(x, -1)


def shifted(x):
    return jnp.roll(x, 1, -1) * x


def before(x):
    return jnp.roll(x, 1, -1)


def after(x):
    return jnp.roll(x, -1, -1)


def spectrum(x):
    return jnp.abs(jnp.fft.fft(x)) ** 2


def of_softmax(change):
    return lambda x, dy: change(softmax(x), dy)


def summed(values, axis):
    return jnp.sum(values, axis, keepdims=True)


WORDS = [
    (jnp.square, lambda x, dy: 2 * x * jnp.mean(dy, -1, keepdims=True) + 0 * dy,
     "as if dy were its mean along axis 1"),
    (jnp.square, lambda x, dy: 2 * x * jnp.sum(dy, 0, keepdims=True) + 0 * dy,
     "as if dy were its sum along axis 0"),
    (softmax, of_softmax(lambda y, dy: y * (dy - summed(y * dy, 0))),
     "−y Σ y dy along axis 0, in the place of −y Σ y dy along axis 1; y is the output"),
    (softmax, of_softmax(lambda y, dy: y * dy - y * y * summed(dy, -1)),
     "−y² Σ dy along axis 1, in the place of −y Σ y dy along axis 1; y is the output"),
    (softmax, of_softmax(lambda y, dy: y * dy + y * summed(y * dy, -1)),
     "the term through operand 0 of reduce_sum (test_words.py:"),
    (shifted, lambda x, dy: before(x) * dy + before(x * dy),
     "read from dy one before along axis 1 in the place of dy one after along axis 1"),
    (shifted, lambda x, dy: after(x * dy), "the term through operand 1 of mul (test_words.py:"),
    (shifted, lambda x, dy: before(x) * dy - after(x * dy), "has the wrong sign"),
    (spectrum, lambda x, dy: jnp.real(jnp.fft.fft(2 * dy * jnp.fft.fft(x))).astype(x.dtype),
     "index n holds what belongs to −n along axis 1, as if a Fourier transform were conjugated"),
    (spectrum, lambda x, dy: jnp.real(
        jnp.fft.ifft(2 * dy * jnp.conj(jnp.fft.fft(x)))).astype(x.dtype),
     "and a factor of 0.1667: an inverse Fourier transform in the place of one"),
    (lambda x: x * jnp.cumsum(x, -1), lambda x, dy: jax.vjp(
        lambda x: jax.lax.stop_gradient(x) * jnp.cumsum(x, -1), x)[1](dy)[0],
     "the term through operand 0 of mul (test_words.py:"),
    (jnp.square, lambda x, dy: 2 * x * dy * jnp.abs(dy[:, ::-1]), "not linear in dy"),
]  # fmt: skip


@pytest.mark.parametrize("value, backward, words", WORDS, ids=range(len(WORDS)))
def test_the_words(value, backward, words):
    found = fp.compare(ruled(value, backward), X, probes=3)
    assert found.wrong and words in found.wrong[0].words, found.wrong[0].words


def test_what_is_none_of_these_gets_no_words():
    noise = np.random.default_rng(1).normal(size=(6, 6)).astype(np.float32)
    for backward in (
        lambda x, dy: 2 * x * dy + dy @ noise,
        lambda x, dy: jnp.sin(x) * (dy @ noise),
    ):
        found = fp.compare(ruled(jnp.square, backward), X, probes=3)
        assert found.wrong[0].words == NO_PATTERN


def test_a_tie_at_ones_is_no_missing_factor():
    """At ones a maximum is a tie, where JAX's gradient is shared out too: no x is left out."""

    def value(x):
        return jnp.max(x.reshape(2, 2, 6), 1)

    def shared(x, dy):
        return jnp.broadcast_to(dy[:, None] / 2, (2, 2, 6)).reshape(x.shape)

    (row, *_) = fp.compare(ruled(value, shared), X).wrong
    assert "were 1" not in row.words, row.words


@pytest.mark.parametrize(
    ("slope", "words"),
    [
        (lambda a: 1, "the slope of tanh is left out"),
        (lambda a: 1 - a, "1 − a in the place of 1 − a², the slope of tanh"),
        (lambda a: 1 - a * a * a, ""),
    ],
)
def test_the_slope_inside_a_layer(slope, words):
    class Inside(fp.Dense):
        def forward(self, params, x, context=fp.Context()):
            a = jnp.tanh(x @ params.w + params.b)
            return a, (x, a)

        def backward(self, params, residuals, da):
            x, a = residuals
            return super().backward(params, x, da * slope(a))

    layer = Inside(3)
    found = fp.compare(layer, layer.init(jax.random.key(0), X), X, probes=3)
    told = {row.path: row.words for row in found.wrong if row.dtype == "float64"}
    assert told.keys() == {"dw", "db", "dx"}
    assert all(each == (words or NO_PATTERN) for each in told.values()), told
