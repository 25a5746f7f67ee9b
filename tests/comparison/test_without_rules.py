"""`without_rules`: the same values, differentiated through what the function computes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from funcprop.comparison.subject.without_rules import count_rules, narrowest, without_rules


def plain(x):
    return jnp.sin(x) * x


@jax.custom_vjp
def reverse_rule(x):
    return plain(x)


reverse_rule.defvjp(lambda x: (plain(x), x), lambda x, dy: (7 * dy,))


@jax.custom_jvp
def forward_rule(x):
    return plain(x)


forward_rule.defjvp(lambda primals, tangents: (plain(*primals), 7 * tangents[0]))

CONSTANT = np.linspace(0.5, 1.5, 4, dtype=np.float32)
PLACES = {
    "alone": lambda f: f,
    "jit": jax.jit,
    "jit in jit": lambda f: jax.jit(lambda x: 2 * jax.jit(f)(x)),
    "jit with a static argument": lambda f: (
        lambda x: jax.jit(lambda x, twice: f(2 * x if twice else x), static_argnums=1)(x, True)
    ),
    "jit over a constant": lambda f: jax.jit(lambda x: f(x * CONSTANT.astype(x.dtype))),
    "checkpoint": jax.checkpoint,
    "checkpoint over jit over a constant": lambda f: jax.checkpoint(
        jax.jit(lambda x: f(x * CONSTANT.astype(x.dtype)))
    ),
    "checkpoint with a policy": lambda f: jax.checkpoint(
        lambda x: f(f(x)), policy=jax.checkpoint_policies.nothing_saveable
    ),
    "vmap": jax.vmap,
    "scan": lambda f: lambda x: lax.scan(lambda c, v: (f(c) + v, f(c * v)), x, 0.1 * x[:, None])[1],
    "scan in reverse": lambda f: (
        lambda x: lax.scan(
            lambda c, v: (c + f(v), c), jnp.zeros((), x.dtype), x, reverse=True, unroll=2
        )
    ),
    "scan with a weak carry": lambda f: lambda x: lax.scan(lambda c, v: (f(c) * 0.5, v), 1.0, x),
    "fori_loop": lambda f: lambda x: lax.fori_loop(0, 3, lambda i, c: f(c) + x, x),
    "cond": lambda f: lambda x: lax.cond(x[0] > 0, f, lambda x: 3 * f(x), x),
    "switch": lambda f: lambda x: lax.switch(2, [jnp.sin, jnp.cos, f], x),
    "cond in scan in jit": lambda f: jax.jit(
        lambda x: lax.scan(
            lambda c, v: (lax.cond(v > 0, f, jnp.cos, c), None), jnp.ones((), x.dtype), x
        )[0]
    ),
    "beside stop_gradient": lambda f: lambda x: f(x) * lax.stop_gradient(f(x)),
    "beside optimization_barrier": lambda f: lambda x: f(lax.optimization_barrier(x)),
    "over nothing": lambda f: lambda x: f(x[:0]),
    "in a tree": lambda f: lambda x: {"y": f(x), "none": None, "z": (x, f(2 * x))},
}
RULES = {"custom_vjp": reverse_rule, "custom_jvp": forward_rule}


def total(f):
    return lambda x: sum(map(jnp.sum, jax.tree.leaves(f(x))), jnp.zeros((), x.dtype))


def sample(dtype=jnp.float32):
    return jnp.asarray([0.3, -1.2, 0.7, 2.0], dtype)


def close(given, wanted, tolerance=1e-5):
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance), given, wanted
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("place", PLACES)
def test_the_rule_is_gone_wherever_it_stands(place, rule):
    f, wanted, x = PLACES[place](RULES[rule]), PLACES[place](plain), sample()
    g = without_rules(f)
    assert count_rules(f, x) > 0
    assert count_rules(g, x) == 0
    given = jax.jit(lambda x: (g(x), jax.grad(total(g))(x)))(x)
    expected = jax.jit(lambda x: (f(x), jax.grad(total(wanted))(x)))(x)
    assert jax.tree.structure(given) == jax.tree.structure(expected)
    close(given, expected)


@pytest.mark.parametrize("place", ["alone", "checkpoint", "scan", "cond", "in a tree"])
def test_outside_jit(place):
    f, wanted, x = PLACES[place](reverse_rule), PLACES[place](plain), sample()
    g = without_rules(f)
    assert jax.tree.structure(g(x)) == jax.tree.structure(f(x))
    close(g(x), f(x))
    close(jax.grad(total(g))(x), jax.grad(total(wanted))(x))


@pytest.mark.parametrize("place", ["jit", "checkpoint", "scan", "cond", "switch"])
def test_under_vmap_and_forward_mode(place):
    def every(f):
        def derivatives(xs):
            batched = jax.vmap(f)(xs), jax.vmap(jax.grad(total(f)))(xs)
            return batched, jax.jvp(f, (xs[0],), (xs[1],))

        return jax.jit(derivatives)(jnp.stack([sample(), -sample()]))

    close(every(without_rules(PLACES[place](reverse_rule))), every(PLACES[place](plain)))


@pytest.mark.parametrize("place", ["alone", "jit", "checkpoint", "scan", "cond"])
def test_every_call_traces_in_the_dtype_it_is_given(place):
    g, wanted = without_rules(PLACES[place](reverse_rule)), PLACES[place](plain)
    jax.eval_shape(g, sample())  # in float32 first
    with jax.enable_x64(True):
        x = sample(jnp.float64)
        given, expected = jax.jit(lambda x: [jax.grad(total(f))(x) for f in (g, wanted)])(x)
        assert given.dtype == jnp.float64
        close(given, expected, 1e-14)
    half = jax.eval_shape(jax.grad(total(g)), sample(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_a_loop_that_only_forward_mode_can_differentiate():
    def loop(f):
        return lambda x: lax.while_loop(lambda c: jnp.sum(c) < 9, lambda c: c + f(c) ** 2, x)

    x = sample()
    given = jax.jvp(without_rules(loop(forward_rule)), (x,), (jnp.ones_like(x),))
    close(given, jax.jvp(loop(plain), (x,), (jnp.ones_like(x),)))


def test_a_rule_inside_the_function_of_a_rule():
    @jax.custom_vjp
    def outer(x):
        return forward_rule(x) ** 2

    outer.defvjp(lambda x: (outer(x), x), lambda x, dy: (0 * dy,))
    x = sample()
    assert count_rules(outer, x) == 2
    close(jax.grad(total(without_rules(outer)))(x), jax.grad(total(lambda x: plain(x) ** 2))(x))


def test_a_hand_written_transpose():
    c = jnp.cos(sample())

    def f(x):
        return jax.custom_derivatives.linear_call(lambda c, x: c * x, lambda c, d: 7 * d, c, x)

    x = sample()
    assert count_rules(f, x) == 1
    close(jax.grad(total(f))(x), jnp.full(4, 7.0))
    close(jax.grad(total(without_rules(f)))(x), c)


def test_a_batching_rule_does_not_bring_the_rule_back():
    @jax.custom_batching.custom_vmap
    def f(x):
        return reverse_rule(x)

    f.def_vmap(lambda size, batched, x: (reverse_rule(x), True))
    xs = jnp.stack([sample(), -sample()])
    given = jax.grad(total(lambda xs: jax.vmap(without_rules(f))(xs)))(xs)
    close(given, jax.grad(total(plain))(xs))


def test_integers_go_in_and_come_out():
    def f(x, i):
        return reverse_rule(x)[i], i + 1, jnp.argmax(x), x > 0

    g, x, i = without_rules(f), sample(), jnp.asarray(2)
    close(g(x, i), f(x, i))
    assert [leaf.dtype for leaf in g(x, i)] == [leaf.dtype for leaf in f(x, i)]
    close(jax.grad(lambda x: g(x, i)[0])(x), jax.grad(lambda x: plain(x)[i])(x))


def test_leaves_that_are_no_arrays_reach_the_function_as_they_are():
    def f(x, option, size, scale):
        assert option == "sum" and scale == 2.0
        return scale * reverse_rule(x[:size])

    close(without_rules(f)(sample(), "sum", 3, 2.0), 2.0 * plain(sample()[:3]))


def test_a_closure_over_traced_values():
    @jax.jit
    def outer(w, x):
        return jax.grad(total(without_rules(lambda x: reverse_rule(w * x))))(x)

    close(outer(2.0, sample()), jax.grad(total(lambda x: plain(2.0 * x)))(sample()))

    def through(w):
        return total(without_rules(lambda x: reverse_rule(w * x)))(sample())

    wanted = jax.grad(lambda w: jnp.sum(plain(w * sample())))(2.0)
    close(jax.grad(through)(2.0), wanted)


def test_a_function_without_rules_is_left_as_it_is():
    x = sample()
    assert count_rules(plain, x) == 0
    assert str(jax.make_jaxpr(without_rules(jax.jit(plain)))(x)) == str(
        jax.make_jaxpr(jax.jit(plain))(x)
    )


def test_a_loop_without_rules_stays_one_equation_of_the_same_jaxpr():
    def f(x):
        return reverse_rule(lax.scan(lambda c, v: (c * v, c), x[0], x)[1])

    names = [eqn.primitive.name for eqn in jax.make_jaxpr(without_rules(f))(sample()).eqns]
    assert names.count("scan") == 1 and "custom_vjp_call" not in names


def test_rules_are_counted_as_they_are_called():
    def f(x):
        return lax.fori_loop(0, 9, lambda i, c: reverse_rule(c), forward_rule(forward_rule(x)))

    assert count_rules(f, sample()) == 3


def test_a_derivative_that_the_function_takes_itself_is_its_value():
    def f(x):
        return jax.grad(total(reverse_rule))(x) * x  # 7 x

    close(jax.grad(total(without_rules(f)))(sample()), jnp.full(4, 7.0))


def test_the_name_says_what_was_done():
    assert without_rules(jax.nn.relu).__name__ == "without_rules(relu)"


def test_where_a_rule_cannot_be_taken_out_there_is_an_error():
    def f(b):  # the matrix-vector product of an implicitly differentiated solver
        def product(v):
            return 2 * jax.nn.relu(v)

        return lax.custom_linear_solve(product, b, lambda _, b: b / 2, symmetric=True)

    with pytest.raises(NotImplementedError, match=r"stands inside .*solve.*against=plain"):
        without_rules(f)(sample())


def test_a_rule_that_the_jaxpr_does_not_show_is_refused():
    def f(x):  # a cube root, differentiated implicitly: by a custom_jvp until jax 0.11
        def newton(residual, y):
            return lax.fori_loop(0, 30, lambda i, y: y - residual(y) / (3 * y**2), y)

        def tangent(linear, y):
            return y / linear(jnp.ones_like(y))

        return lax.custom_root(lambda y: y**3 - x, jnp.ones_like(x), newton, tangent)

    x = jnp.abs(sample())
    try:
        close(without_rules(f)(x), jnp.cbrt(x))
    except NotImplementedError as error:
        assert "holds a derivative rule" in str(error) and "against=plain" in str(error)


def test_random_keys_and_shapes_of_any_kind():
    def f(key, x):
        return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), reverse_rule(x), 0)

    key, x = jax.random.key(3), jnp.ones((2, 0, 3))
    close(without_rules(f)(key, x), f(key, x))
    close(without_rules(f)(key, sample()), f(key, sample()))


def test_roundings_on_the_way_are_found():
    def upcast(x):
        return jnp.tanh(x.astype(jnp.float32)).astype(x.dtype)

    def inside(x):
        return lax.scan(lambda c, v: (c, jax.jit(upcast)(v)), 0, x)[1]

    x = np.ones(3, np.float64)
    with jax.enable_x64(True):
        assert narrowest(plain, x) is None
        assert narrowest(reverse_rule, x) is None
        assert narrowest(inside, x) == jnp.float32
        noise = jax.random.key(0)
        assert narrowest(lambda key, x: x + jax.random.normal(key, x.shape), noise, x) is None
        assert narrowest(lambda x: inside(x.astype(jnp.bfloat16)), x) == jnp.bfloat16
        assert narrowest(lambda x: x * CONSTANT[:3], x) is None  # widened, not rounded
    assert narrowest(upcast, jnp.ones(3, jnp.bfloat16)) == jnp.bfloat16
