"""`compare(order=2)`: second derivatives of rules that are right in the first, and forward mode."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax

import funcprop as fp
from funcprop.catalogue.comparisons import compare_row
from funcprop.catalogue.table import ROWS


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


X = normal(5)


def vjp_rule(plain, fwd, bwd):
    """A `jax.custom_vjp` function."""
    f = jax.custom_vjp(plain)
    f.defvjp(fwd, bwd)
    return f


def jvp_rule(plain, jvp):
    """A `jax.custom_jvp` function."""
    f = jax.custom_jvp(plain)
    f.defjvp(jvp)
    return f


def names(found):
    return {row.name for row in found.wrong}


# --- right in first order, wrong in second --------------------------------------------------------


def residual_stopped():
    """x³, whose forward keeps what no gradient flows through."""
    return vjp_rule(
        lambda x: x**3, lambda x: (x**3, lax.stop_gradient(3 * x * x)), lambda k, dy: (k * dy,)
    )


def backward_stopped():
    return vjp_rule(
        lambda x: x**3, lambda x: (x**3, x), lambda x, dy: (lax.stop_gradient(3 * x * x) * dy,)
    )


def cotangent_stopped():
    """Linear in dy, and says that it is not."""
    return vjp_rule(
        lambda x: x**3, lambda x: (x**3, x), lambda x, dy: (3 * x * x * lax.stop_gradient(dy),)
    )


def backward_with_a_wrong_rule():
    """The backward calls a function with a wrong rule of its own."""
    square = jvp_rule(lambda x: x * x, lambda p, t: (p[0] * p[0], 3 * p[0] * t[0]))
    return vjp_rule(lambda x: x**3, lambda x: (x**3, x), lambda x, dy: (3 * square(x) * dy,))


def forward_with_a_wrong_residual_rule():
    cosine = vjp_rule(jnp.cos, lambda x: (jnp.cos(x), x), lambda x, dy: (jnp.sin(x) * dy,))
    return vjp_rule(jnp.sin, lambda x: (jnp.sin(x), cosine(x)), lambda c, dy: (c * dy,))


def tangent_stopped():
    return jvp_rule(jnp.sin, lambda p, t: (jnp.sin(p[0]), lax.stop_gradient(jnp.cos(p[0])) * t[0]))


PLANTED = {
    "residual stopped": (residual_stopped, "d²x[0]", "forward-over-reverse"),
    "backward stopped": (backward_stopped, "d²x[0]", "reverse-over-reverse"),
    "cotangent stopped": (cotangent_stopped, "ddy", "reverse-over-reverse: zero"),
    "a wrong rule in backward": (backward_with_a_wrong_rule, "d²x[0]", "forward-over-reverse"),
    "a wrong rule in forward": (
        forward_with_a_wrong_residual_rule, "d²x[0]", "forward-over-reverse",
    ),
    "tangent stopped": (tangent_stopped, "d²x[0]", "forward-over-forward"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_wrong_in_second_order_only(name):
    make, path, words = PLANTED[name]
    assert fp.compare(make(), X).ok
    found = fp.compare(make(), X, order=2)
    assert path in names(found)
    told = " and ".join(row.words for row in found.wrong)
    assert words in told
    assert path in found.headline and not any(row.name == "dx[0]" for row in found.wrong)


def test_a_pair_that_is_wrong_in_second_order_only():
    def forward(w, x):
        return jnp.tanh(w * x), (w, x, lax.stop_gradient(1 - jnp.tanh(w * x) ** 2))

    def backward(kept, dy):
        w, x, slope = kept
        return slope * x * dy, slope * w * dy

    given = normal(4), normal(4, seed=1)
    assert fp.compare((forward, backward), *given).ok
    found = fp.compare((forward, backward), *given, order=2)
    assert {"d²x[0]", "d²x[1]"} <= names(found)


class StoppedTanh(fp.Tanh):
    def backward(self, params, a, da):
        return da * lax.stop_gradient(1 - a * a), ()


def test_a_layer_that_is_wrong_in_second_order_only():
    assert fp.compare(StoppedTanh(), (), normal(3, 2)).ok
    found = fp.compare(StoppedTanh(), (), normal(3, 2), order=2)
    assert names(found) == {"StoppedTanh: d²x"}
    assert found.wrong[0].words == "forward-over-reverse and reverse-over-reverse: zero"
    with pytest.raises(fp.GradientError, match="StoppedTanh: d²x"):
        fp.assert_gradients(StoppedTanh(), (), normal(3, 2), order=2)


def test_one_element_of_a_second_derivative():
    keep = jnp.arange(5) != 2

    def backward(x, dy):
        slope = 3 * x * x
        return (jnp.where(keep, slope, lax.stop_gradient(slope)) * dy,)

    f = vjp_rule(lambda x: x**3, lambda x: (x**3, x), backward)
    found = fp.compare(f, X, order=2)
    row = next(row for row in found.wrong if row.path == "d²x[0]")
    assert row.index == (2,) and row.by_hand == 0 and row.expected != 0


def test_where_the_first_order_is_wrong_nothing_more_is_said():
    f = vjp_rule(lambda x: x**3, lambda x: (x**3, x), lambda x, dy: (2 * x * x * dy,))
    one, two = fp.compare(f, X), fp.compare(f, X, order=2)
    assert not one.ok and [row.name for row in one.rows] == [row.name for row in two.rows]
    assert one.notes == two.notes


# --- that cannot be differentiated twice ----------------------------------------------------------


@jax.custom_jvp
def once(x):
    return x


@once.defjvp
def _(primals, tangents):
    raise ValueError("this gradient is not to be differentiated again\nand here is why")


def test_what_is_not_to_be_differentiated_twice_is_told_in_one_line():
    f = vjp_rule(lambda x: x**3, lambda x: (x**3, x), lambda x, dy: (once(3 * x * x * dy),))
    found = fp.compare(f, X, order=2)
    row = found.wrong[0]
    assert [each.name for each in found.wrong] == ["d²"]
    assert row.words == "not twice differentiable"
    told = "raised ValueError: this gradient is not to be differentiated again"
    assert row.rule == f"contract: forward-over-reverse {told}"
    assert "not twice differentiable" in found.headline


def test_a_mode_that_only_the_rule_cannot_do():
    """A loop of unknown length in backward has no reverse mode."""

    def backward(x, dy):
        start = 0, jnp.zeros_like(x)
        total = lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, c[1] + x * x), start)[1]
        return (total * dy,)

    f = vjp_rule(lambda x: x**3, lambda x: (x**3, x), backward)
    found = fp.compare(f, X, order=2)
    assert [row.words for row in found.wrong] == ["no reverse-over-reverse"]
    row = next(row for row in found.rows if row.path == "d²x[0]")
    assert row.ok and "forward-over-reverse" in row.rule


# --- forward mode ---------------------------------------------------------------------------------


def forward_wrong(factor):
    """sin, right in reverse mode: the transpose is written apart from what it transposes.

    Two ways to solve t / c = b for t.
    """

    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        c = jnp.cos(x)
        push = lax.custom_linear_solve(
            lambda t: t / c, t, lambda _, t: factor * c * t, lambda _, dy: c * dy
        )
        return jnp.sin(x), push

    return jvp_rule(jnp.sin, rule)


def test_what_is_wrong_in_forward_mode_only():
    assert fp.compare(forward_wrong(2), X).ok
    found = fp.compare(forward_wrong(2), X, order=2)
    row = next(row for row in found.wrong if row.path == "tangent")
    assert row.words == "jax.jvp" and row.by_hand == pytest.approx(2 * row.expected)


def test_a_value_that_changes_in_forward_mode():
    f = jvp_rule(jnp.sin, lambda p, t: (jnp.sin(p[0]) + 1, jnp.cos(p[0]) * t[0]))
    assert not fp.compare(f, X, order=2).ok


def test_a_tangent_that_is_wrong_where_the_other_is_missing():
    f = jax.custom_jvp(lambda x, y: x * y)

    def rule(primals, tangents):
        (x, y), (tx, ty) = primals, tangents
        zero = jax.custom_derivatives.SymbolicZero
        if isinstance(tx, zero) and isinstance(ty, zero):
            return x * y, jnp.zeros_like(x)
        if isinstance(tx, zero):
            return x * y, 2 * x * ty  # should be x
        if isinstance(ty, zero):
            return x * y, y * tx
        return x * y, y * tx + x * ty

    f.defjvp(rule, symbolic_zeros=True)
    assert fp.compare(f, X, normal(5, seed=1)).ok
    found = fp.compare(f, X, normal(5, seed=1), order=2)
    places = {row.place for row in found.wrong}
    assert places == {"with only argument 1 differentiated", "under jax.jvp of argument 1 alone"}


def test_functions_without_forward_mode_are_told_so_and_pass():
    f = vjp_rule(jnp.sin, lambda x: (jnp.sin(x), x), lambda x, dy: (jnp.cos(x) * dy,))
    found = fp.compare(f, X, order=2)
    assert found.ok and any(note.startswith("no forward mode") for note in found.notes)
    assert not any(note == "jax.jvp agrees" for note in found.notes)


# --- right ones -----------------------------------------------------------------------------------


def tfp_like():
    """log(1 + x²) as tfp writes such functions: value and derivative together."""

    def rule(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), t * 2 * x / (1 + x * x)

    f = jvp_rule(lambda x: jnp.log1p(x * x), rule)
    return f


def matmul():
    return vjp_rule(
        jnp.matmul, lambda a, b: (a @ b, (a, b)), lambda k, dy: (dy @ k[1].T, k[0].T @ dy)
    )


def relu_at_its_kink():
    return jnp.asarray([0.0, -1.0, 2.0, 0.0])


RIGHT = {
    "relu": (jax.nn.relu, X),
    "relu at 0": (jax.nn.relu, relu_at_its_kink()),
    "relu6": (jax.nn.relu6, 4 * X),
    "gelu": (jax.nn.gelu, X),
    "logsumexp": (jax.nn.logsumexp, normal(2, 3)),
    "softplus": (jax.nn.softplus, X),
    "softplus at 0": (jax.nn.softplus, relu_at_its_kink()),
    "silu": (jax.nn.silu, X),
    "huber": (optax.huber_loss, 2 * X, normal(5, seed=1)),
    "norm at 0": (lambda x: optax.safe_norm(x, 1e-3), jnp.zeros(4)),
    "xlogy": (jax.scipy.special.xlogy, X, jnp.abs(normal(5, seed=1)) + 0.1),
    "tfp": (tfp_like(), X),
    "matmul": (matmul(), normal(3, 2), normal(2, 4, seed=1)),
    "solve": (jnp.linalg.solve, normal(3, 3) + 3 * jnp.eye(3), normal(3, 2, seed=1)),
    "relu squared": (lambda x: jax.nn.relu(x) ** 2, X),
    "linear": (lambda x: 3 * jnp.cumsum(x), X),
    "two outputs": (lambda x, i: (jnp.sin(x)[i], jnp.sum(x * x), i), X, jnp.asarray([1, 3])),
    "rounds inside": (
        vjp_rule(
            lambda x: jnp.sin(x.astype(jnp.bfloat16)).astype(x.dtype),
            lambda x: (jnp.sin(x.astype(jnp.bfloat16)).astype(x.dtype), x),
            lambda x, dy: (jnp.cos(x.astype(jnp.bfloat16)).astype(x.dtype) * dy,),
        ),
        X,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_functions_are_accused_of_nothing(name):
    found = fp.compare(*RIGHT[name], order=2)
    assert found.ok, str(found)
    assert any(row.path.startswith("d²") for row in found.rows)


LAYERS = {
    "Dense": (fp.Dense(2), (4, 3)),
    "Tanh": (fp.Tanh(), (4, 3)),
    "LayerNorm": (fp.LayerNorm(), (4, 3)),
    "SelfAttention": (fp.SelfAttention(4, 2), (2, 3, 4)),
    "model": (fp.Serial(fp.Dense(4), fp.ReLU(), fp.Dense(2)), (3, 5)),
    "Dropout": (fp.Dropout(0.5), (4, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_right_layers_are_accused_of_nothing(name):
    layer, shape = LAYERS[name]
    x = normal(*shape)
    context = fp.Context(key=jax.random.key(3))
    found = fp.compare(layer, layer.init(jax.random.key(0), x), x, context=context, order=2)
    assert found.ok, str(found)
    assert any(row.path.startswith("d²") for row in found.rows)
    assert any("forward-over-reverse, reverse-over-reverse" in note for note in found.notes)


def test_a_loss_and_a_gradient_function():
    x, labels = normal(4, 3), jnp.asarray([0, 2, 1, 1])
    found = fp.compare(fp.SoftmaxCrossEntropy(), (), (x, labels), order=2)
    assert found.ok and any(row.name == "SoftmaxCrossEntropy: d²x[0]" for row in found.rows)
    model = fp.Dense(3)
    params = model.init(jax.random.key(0), x)
    found = fp.compare(fp.backprop(model, fp.SoftmaxCrossEntropy()), params, (x, labels), order=2)
    assert found.ok and {"d²w", "d²b"} <= {row.path for row in found.rows}


def test_a_surrogate_of_second_order():
    found = fp.compare(fp.Binarize(), (), normal(4, 3), against=fp.HardTanh(), order=2)
    assert found.ok, str(found)


def test_the_order_is_checked():
    for order in (0, 3, True, "2", 1.5):
        with pytest.raises(ValueError, match=r"order is .*, wanted 1, or 2"):
            fp.compare(jnp.sin, X, order=order)
    plain = [row.path for row in fp.compare(jnp.sin, X).rows]
    assert plain == ["dx[0]", "dx[0]"]
    assert fp.assert_gradients(jnp.sin, X, order=2).ok


def test_second_derivatives_are_those_of_a_hessian():
    """Along the directions that were drawn."""
    from funcprop.comparison.evidence import observe
    from funcprop.comparison.programs import Programs
    from funcprop.comparison.subject.door import subject_of
    from funcprop.comparison.witnesses.points import cotangents
    from funcprop.comparison.witnesses.second_order import second_order

    f = lambda x: jnp.stack([jnp.prod(x), jnp.sum(x**3)])  # noqa: E731
    subject = subject_of(f, (X,))
    evidence = observe(subject, cotangents(subject, 1))
    with jax.enable_x64(True):
        wide = subject.in_float64()
        second = second_order(wide, evidence.dys, frozenset(), Programs())
        x = wide.x[0]
        dy = jax.tree.leaves(evidence.dys)[0][0]
        hessian = jax.hessian(lambda x: dy @ f(x))(x)
        v = second.moves["dx"][0][0]
        for mode in ("forward-over-reverse", "reverse-over-reverse", "reverse-over-forward"):
            np.testing.assert_allclose(second.modes[mode]["dx"][0][0], v @ hessian, rtol=1e-12)
        np.testing.assert_allclose(second.steps.far["dx"][0][0], v @ hessian, rtol=1e-8, atol=1e-8)


# --- what is a convention, and what JAX does ------------------------------------------------------


def test_a_kink_of_the_derivative_is_no_wrong_gradient():
    x = np.float32([[0.0, 1.0, -2.0], [0.5, 0.0, -0.0]])
    for f in (lambda x: jax.nn.relu(x) ** 2, lambda x: jnp.sum(jax.nn.relu(x) ** 2)):
        found = fp.compare(f, x, order=2, probes=2)
        assert found.ok, found
        assert any("kink" in note for note in found.notes)
    wrong = by_rule(lambda x: jnp.maximum(x, 0) ** 2, lambda x, dy: 2.001 * jnp.maximum(x, 0) * dy)
    assert fp.compare(wrong, x, probes=2).wrong


def by_rule(value, backward):
    @jax.custom_vjp
    def f(x):
        return value(x)

    f.defvjp(lambda x: (value(x), x), lambda x, dy: (backward(x, dy),))
    return f


@pytest.mark.parametrize("name", ["Frozen", "Branch"])
def test_rows_of_the_catalogue(name):
    """A frozen leaf has no second derivative of its own; and JAX sums what is not batched twice
    over in any rule that has one batched output beside one that is not."""
    (row,) = (row for row in ROWS if row.name == name)
    found = compare_row(row, order=2, probes=2)
    assert found.ok, found
