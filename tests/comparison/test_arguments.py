"""What a function takes, `compare` takes: options, keywords, keys, complex numbers, domains."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp

X = np.linspace(-1.0, 2.0, 4, dtype=np.float32)
Z = (X + 1j * X[::-1] ** 2).astype(np.complex64)


def paths(found):
    return list(dict.fromkeys(row.path for row in found.rows))


# --- options --------------------------------------------------------------------------------------


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def power(n, x, scale):
    return scale * x**n


power.defvjp(
    lambda n, x, scale: (scale * x**n, x), lambda n, scale, x, dy: (dy * scale * n * x ** (n - 1),)
)


def test_arguments_of_a_rule_that_are_not_differentiated():
    found = fp.compare(power, 3, X, 2.0)
    assert found.ok and paths(found) == ["dx[1]"]


def test_options_and_keywords_are_what_they_are():
    def f(x, mode, *, scale, shift=None, activation=jnp.tanh):
        y = activation(x) if mode == "tanh" else x
        return scale * (y if shift is None else y + shift)

    found = fp.compare(f, X, "tanh", scale=2.0, activation=jax.nn.relu)
    assert found.ok and paths(found) == ["dx[0]", "dx[2]['scale']"]
    found = fp.compare(f, X, "none", scale=np.float32(2), shift=X)
    assert paths(found) == ["dx[0]", "dx[2]['scale']", "dx[2]['shift']"]


def test_keys_and_integers_are_read():
    def f(key, x, i, keep):
        return x[i] * jax.random.normal(key, (2,)) * keep

    found = fp.compare(f, jax.random.key(3), X, np.array([2, 0]), np.array([True, False]))
    assert found.ok and paths(found) == ["dx[1]"]


def test_a_keyword_is_for_functions():
    with pytest.raises(TypeError, match="scale= is for functions and pairs"):
        fp.compare(fp.Tanh(), (), X, scale=2.0)
    with pytest.raises(TypeError, match="scale= is for functions: close over it in both"):
        fp.compare((lambda x: (x, ()), lambda kept, dy: (dy,)), X, scale=2.0)


# --- complex numbers ------------------------------------------------------------------------------


def rule(forward, backward):
    """A `jax.custom_vjp` function that keeps its arguments."""
    f = jax.custom_vjp(forward)
    f.defvjp(lambda *x: (forward(*x), x), backward)
    return f


def matmul(a, b):
    return a @ b


M = np.stack([Z, Z[::-1], 2j * Z])  # [3, 4]
RIGHT = {
    "product": (rule(jnp.multiply, lambda r, g: (g * r[1], g * r[0])), Z, Z + 1),
    "conjugate": (rule(jnp.conj, lambda r, g: (jnp.conj(g),)), Z),
    "hermitian form": (
        rule(
            lambda a, x: jnp.real(jnp.vdot(x, a @ x)),
            lambda r, g: (
                g * jnp.outer(jnp.conj(r[1]), r[1]),
                g * jnp.conj((r[0] + r[0].conj().T) @ r[1]),
            ),
        ),
        M[:, :3],
        Z[:3],
    ),
    "matmul": (rule(matmul, lambda r, g: (g @ r[1].T, r[0].T @ g)), M, M.T),
    "abs": (rule(jnp.abs, lambda r, g: (g * jnp.conj(jnp.sign(r[0])),)), Z),
    "square of abs": (rule(lambda z: jnp.abs(z) ** 2, lambda r, g: (2 * g * jnp.conj(r[0]),)), Z),
    "angle": (
        rule(lambda z: jnp.angle(z), lambda r, g: (-1j * g / jnp.where(r[0] == 0, 1, r[0]),)),
        Z,
    ),
    "real": (rule(jnp.real, lambda r, g: (jax.lax.complex(g, 0 * g),)), Z),
    "imag": (rule(jnp.imag, lambda r, g: (-1j * g,)), Z),
    "fft": (rule(lambda z: jnp.fft.fft(z), lambda r, g: (jnp.fft.fft(g),)), Z),
    "ifft": (rule(lambda z: jnp.fft.ifft(z), lambda r, g: (jnp.fft.ifft(g),)), Z),
    "exp": (rule(jnp.exp, lambda r, g: (g * jnp.exp(r[0]),)), Z),
    "power spectrum": (
        rule(
            lambda x: jnp.abs(jnp.fft.fft(x)) ** 2,
            lambda r, g: (jnp.real(jnp.fft.fft(2 * g * jnp.conj(jnp.fft.fft(r[0])))),),
        ),
        X,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_complex_rules_pass(name):
    f, *x = RIGHT[name]
    found = fp.compare(f, *x)
    assert found.ok, found
    parts = {row.path.rpartition(".")[2] for row in found.rows}
    assert parts == {"real", "imag"} or name == "power spectrum"


FORGOTTEN = {  # the rule, and the words for its first wrong leaf
    "product": (lambda r, g: (g * jnp.conj(r[1]), g * r[0]), "as if x[1] were conjugated"),
    "matmul": (lambda r, g: (g @ r[1].conj().T, r[0].T @ g), "as if x[1] were conjugated"),
    "square of abs": (lambda r, g: (2 * g * r[0],), "conjugated"),
    "conjugate": (lambda r, g: (g,), "conjugated"),
    "fft": (lambda r, g: (jnp.conj(jnp.fft.fft(g)),), "conjugated"),
    "exp": (lambda r, g: (jnp.conj(g) * jnp.exp(r[0]),), "as if dy were conjugated"),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_a_forgotten_conjugate_is_named(name):
    f, *x = RIGHT[name]
    wrong, words = FORGOTTEN[name]
    found = fp.compare(rule(f.fun, wrong), *x)
    assert not found.ok
    assert any(words in row.words for row in found.wrong), found


def test_a_pair_of_complex_functions():
    pair = (lambda a, b: (a * b, (a, b))), (lambda r, g: (g * r[1], g * r[0]))
    assert fp.compare(pair, Z, Z + 1).ok
    wrong = pair[0], (lambda r, g: (g * jnp.conj(r[1]), g * r[0]))
    assert {row.path for row in fp.compare(wrong, Z, Z + 1).wrong} <= {"dx[0].real", "dx[0].imag"}


# --- domains --------------------------------------------------------------------------------------


@jax.custom_vjp
def trace_of_sorted(x):
    """Σ i xᵢ of a sorted x, in which the rule trusts."""
    return jnp.sort(x) @ jnp.arange(x.size, dtype=x.dtype)


trace_of_sorted.defvjp(
    lambda x: (trace_of_sorted(x), ()), lambda kept, dy: (dy * jnp.arange(4, dtype=dy.dtype),)
)


def test_an_argument_may_have_to_stay_in_a_domain():
    x = np.float32([-0.02, -0.01, 0.01, 1.0])
    assert not fp.compare(trace_of_sorted, x).ok  # jittered it is not sorted
    assert fp.compare(trace_of_sorted, x, changed=False).ok


def test_inputs_are_drawn_or_listed():
    def drawn(key):
        return (jnp.sort(jax.random.normal(key, (4,))),)

    assert fp.compare(trace_of_sorted, inputs=drawn).ok
    assert fp.compare(trace_of_sorted, X, inputs=[X + 1, 2 * X]).ok
    found = fp.compare(trace_of_sorted, X, inputs=[X[::-1]])
    assert not found.ok and {row.at for row in found.wrong} == {"inputs 1"}
    with pytest.raises(TypeError, match="wanted the same trees, shapes and dtypes"):
        fp.compare(trace_of_sorted, X, inputs=[X[:2]])


def test_where_the_forward_is_not_finite_nothing_is_judged_and_it_is_said():
    def root(x):
        return jnp.sqrt(x)

    found = fp.compare(root, X + 2)
    assert found.ok
    left_out = [note for note in found.notes if note.startswith("left out")]
    assert left_out == []
    found = fp.compare(lambda x: jnp.log(x), X + 2)
    assert any("not finite there: zeros" in note for note in found.notes), found.notes


def test_where_the_forward_raises_nothing_is_judged():
    eqx = pytest.importorskip("equinox")

    def checked(x):
        return jnp.log(eqx.error_if(x, x <= 0, "x must be positive"))

    found = fp.compare(checked, X + 2, probes=2)
    assert found.ok and any("zeros" in note for note in found.notes), found


# --- what cannot be taken apart -------------------------------------------------------------------


def test_a_rule_that_does_not_show_is_judged_by_finite_differences():
    def root(x):
        def solve(f, start):
            return jax.lax.fori_loop(0, 30, lambda _, y: y - f(y) / (3 * y**2), start)

        def tangent(g, y):
            return y / g(1.0)

        return jax.lax.custom_root(lambda y: jax.nn.silu(y) + y**3 - x, x + 1, solve, tangent)

    found = fp.compare(root, np.float32(2.0))
    assert found.ok, found


def test_what_takes_no_batch_goes_one_by_one():
    @jax.custom_vjp
    def counted(x):
        return jax.pure_callback(lambda a: np.sin(a), jax.ShapeDtypeStruct(x.shape, x.dtype), x)

    counted.defvjp(lambda x: (counted(x), x), lambda x, dy: (dy * jnp.cos(x),))
    found = fp.compare(counted, X)
    assert found.ok, found


def test_a_function_without_a_reverse_mode_is_told_in_a_line():
    def f(x):
        return jax.lax.while_loop(lambda c: jnp.sum(c) < 10, lambda c: c * 1.5, x)

    with pytest.raises(TypeError, match=r"f has no reverse mode: jax.vjp raises ValueError"):
        fp.compare(f, X + 2)
