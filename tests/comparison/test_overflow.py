"""What a dtype cannot hold on the way is said, and not judged."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.comparison.programs import Programs, cast
from funcprop.comparison.subject.door import of_layer
from funcprop.comparison.witnesses.overflow import enlarged, overflows
from funcprop.comparison.witnesses.points import cotangents

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (5, 4))


@dataclass(frozen=True)
class Naive(fp.Softmax):
    """exp(z) / Σ exp(z): right, and NaN where exp(z) is beyond the dtype."""

    def forward(self, params, z, context=fp.Context()):
        a = jnp.exp(z)
        a = a / a.sum(-1, keepdims=True)
        return a, a


@dataclass(frozen=True)
class Exp(fp.Layer):
    """exp(z), which is beyond the dtype itself."""

    def forward(self, params, z, context=fp.Context()):
        a = jnp.exp(z)
        return a, a

    def backward(self, params, a, da):
        return da * a, ()


@dataclass(frozen=True)
class NaiveBackward(fp.Sigmoid):
    """σ, and its derivative as e⁻ᶻ / (1 + e⁻ᶻ)²: inf / inf far below zero."""

    def forward(self, params, z, context=fp.Context()):
        return jax.nn.sigmoid(z), z

    def backward(self, params, z, da):
        e = jnp.exp(-z)
        return da * e / (1 + e) ** 2, ()


@dataclass(frozen=True)
class NaiveLength(fp.Layer):
    """√(Σ z²), whose squares float16 cannot hold from 256 on; the gradient is right."""

    def forward(self, params, z, context=fp.Context()):
        squares = jax.lax.optimization_barrier(jnp.square(z))  # else XLA may add them up wide
        return jnp.sqrt(squares.sum(-1)), z

    def backward(self, params, z, dy):
        wide = z.astype(np.promote_types(z.dtype, np.float32))
        unit = wide / jnp.linalg.norm(wide, axis=-1, keepdims=True)
        return dy[..., None] * unit.astype(z.dtype), ()


def notes(layer, x=X, dtype="float32"):
    x = cast(x, dtype)
    subject = of_layer(layer, (), x, fp.Context(), KEY)
    dys = cotangents(subject, 2)
    with jax.enable_x64(True):
        wide = cast(dys, "float64")
    return overflows(subject, dys, wide, Programs())


def test_compare_notes_an_overflow_and_does_not_fail_for_it():
    found = fp.compare(Naive(), (), X)
    assert found.ok and found.notes[-1] == (
        "forward is not finite at |x| = 100 in float32, where float64's value would fit"
    )


@pytest.mark.parametrize(
    ("layer", "dtype", "words"),
    [
        (Naive(), "bfloat16", "forward is not finite at |x| = 100 in bfloat16"),
        (NaiveBackward(), "float32", "dx is not finite at |x| = 100 in float32"),
        (NaiveLength(), "float16", "forward is not finite at |x| = 10000 in float16"),
    ],
)
def test_what_overflows_on_the_way(layer, dtype, words):
    (note,) = notes(layer, dtype=dtype)
    assert note.startswith(words)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layer", [fp.Softmax(), fp.Sigmoid(), Exp()])
def test_what_is_safe_or_beyond_the_dtype_by_definition(layer, dtype):
    assert notes(layer, dtype=dtype) == []


@pytest.mark.parametrize(
    ("function", "lost"),
    [
        (lambda z: jnp.log(1 + jnp.exp(z)), "forward"),
        (lambda z: 1 / (1 + jnp.exp(-z)), "dx[0]"),  # 1 / (1 + inf) is right, its derivative is NaN
        (lambda z: (jnp.exp(z) - jnp.exp(-z)) / (jnp.exp(z) + jnp.exp(-z)), "forward"),
        (lambda z: z * jnp.exp(z) / (1 + jnp.exp(z)), "forward"),
    ],
    ids=["softplus", "logistic", "tanh", "silu"],
)
def test_plain_functions_overflow_on_the_way_too(function, lost):
    found = fp.compare(function, X, probes=2)
    told = f"{lost} is not finite at |x| = 100 in float32, where float64's value would fit"
    assert found.ok and told in found.notes


@pytest.mark.parametrize("function", [jnp.exp, jnp.tanh, jax.nn.softplus, jax.nn.sigmoid])
def test_plain_functions_that_are_safe_or_beyond_the_dtype(function):
    found = fp.compare(lambda z: function(z), X, probes=2)
    assert found.ok and not any("not finite" in note for note in found.notes)


def test_a_rule_of_a_function_that_overflows_is_named():
    """The forward is safe; e^z in the rule is not."""

    @jax.custom_vjp
    def softplus(z):
        return jax.nn.softplus(z)

    softplus.defvjp(
        lambda z: (jax.nn.softplus(z), z),
        lambda z, dy: (dy * jnp.exp(z) / (1 + jnp.exp(z)),),
    )
    found = fp.compare(softplus, X, probes=2)
    assert found.ok and found.notes[-1].startswith("dx[0] is not finite at |x| = 100 in float32")


def test_a_target_that_may_not_be_scaled_hides_nothing():
    """Targets beyond 1 are NaN in float64 too: the logits are enlarged alone as well."""

    @dataclass(frozen=True)
    class NaiveLoss(fp.BinaryCrossEntropy):
        def forward(self, params, x, context=fp.Context()):
            value, kept = super().forward(params, x, context)
            return value + 0 * jnp.log(1 + jnp.exp(x[0])).sum(), kept

    (note,) = notes(NaiveLoss(), (X, jax.nn.sigmoid(X)))
    assert note.startswith("forward is not finite at |x| = 100")


def test_enlarged_keeps_dtypes_integers_and_zeros():
    x = (jnp.array([1.0, -4.0], jnp.float16), jnp.array([2]), jnp.zeros(3))
    found = list(enlarged(x, 100.0))
    assert [np.asarray(each[0]).tolist() for each in found] == [[25, -100], [-25, 100]]
    assert all(each[0].dtype == jnp.float16 and each[1] is x[1] for each in found)
    top = np.abs(X).max()
    pairs = [(np.abs(a).max(), np.abs(b).max()) for a, b in enlarged((X, 2 * X), 100.0)]
    np.testing.assert_allclose(pairs[::2], [(100, 100), (100, 2 * top), (top, 100)], rtol=1e-6)
