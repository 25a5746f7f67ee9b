"""`watch`: rules that are found by themselves, what is kept of their calls, and what is said."""

import functools
import gc
import io
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.testing.leaves import Unseen, concrete, holds_tracer
from funcprop.testing.rules import CANNOT, LEFT_OUT, OK, WRONG, RuleRow, from_json, merged

X = jnp.asarray([0.5, -1.25, 2.0])


def right(x, w):
    return jnp.sin(x) * w


def right_rule():
    """A new rule each time: programs of one test are not those of another."""
    rule = jax.custom_vjp(right)
    rule.defvjp(
        lambda x, w: (right(x, w), (x, w)),
        lambda kept, dy: (jnp.cos(kept[0]) * kept[1] * dy, jnp.sin(kept[0]) * dy),
    )
    return rule


def wrong_rule(factor=2.0):
    @jax.custom_jvp
    def cube(x):
        return x**3

    cube.defjvps(lambda dx, y, x: factor * x**2 * dx)
    return cube


def example_of(watching):
    """The one call that was kept."""
    (seen,) = watching._seen.values()
    (example,) = seen.examples()
    return example


def only(found):
    (row,) = found.rows
    return row


def line_of(function):
    return function.__code__.co_firstlineno


# --- verdicts -------------------------------------------------------------------------------------


def test_that_float32_says_little_at_what_was_called_stands_in_the_table():
    @jax.custom_vjp
    def gap(a, b):
        return (a * a - b * b) ** 2

    def backward(kept, dy):
        a, b = kept
        slope = 4 * dy * (a * a - b * b)
        return slope * a, -slope * b

    gap.defvjp(lambda a, b: (gap(a, b), (a, b)), backward)
    a = np.linspace(1050, 1100, 6, dtype=np.float32)
    with fp.watch() as rules:
        gap(a, a + np.float32(1e-4))
    row = only(rules.compare())
    assert row.verdict == OK
    (note,) = row.notes
    assert (
        note.startswith("float32: automatic differentiation's own error is") and "% of da" in note
    )


def test_a_right_and_a_wrong_rule_of_one_program():
    rule, cube = right_rule(), wrong_rule()
    with fp.watch() as rules:
        rule(X, w=2 * X)
        cube(X)
        cube(X)
    found = rules.compare()
    first, second = found.rows
    assert not found.ok and found.wrong == (first,)
    assert (first.name, first.verdict, first.calls) == ("wrong_rule.<locals>.cube", WRONG, 2)
    assert (first.file, first.line) == (__file__, line_of(wrong_rule) + 1)
    assert first.worst == "dx 3e-01" and "a factor of 0.6667" in first.words
    assert (second.name, second.verdict, second.words) == ("right", OK, "")
    assert (second.module, second.line) == (__name__, line_of(right))
    assert not first.notes and not second.notes  # all values were seen
    assert found.headline == "2 derivative rules called: 1 WRONG, 1 ok"
    text = str(found)
    assert "test_watch.py:" in text and "cube: wrong gradient in dx" in text
    page = found.to_html()
    assert page.startswith("<!DOCTYPE html>") and "a factor of 0.6667" in page
    assert json.loads(found.to_json())[0]["verdict"] == WRONG
    assert from_json(found.to_json()) == found.rows


def test_arguments_have_the_names_of_the_function():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
    def scaled(power, weights, x, options):
        assert options == {"shift": None}
        return weights["gain"] * x**power + weights["bias"]

    def forward(power, weights, x, options):
        return scaled(power, weights, x, options), (weights["gain"], x)

    def backward(power, options, kept, dy):
        gain, x = kept
        dw = {"gain": dy * x, "bias": dy}
        return dw, gain * power * x ** (power - 1) * dy

    scaled.defvjp(forward, backward)
    with fp.watch() as rules:
        scaled(3, {"gain": X, "bias": X}, X, options={"shift": None})
    row = only(rules.compare())
    assert row.verdict == WRONG
    assert row.worst.startswith("dweights['gain'] ") and "dx" not in row.words
    where = [line.partition("[3]")[0] for line in row.report.splitlines() if "[3]" in line]
    assert len(where) >= 2 and len(set(map(len, where))) == 1  # columns are aligned


@pytest.mark.parametrize("number", [2, 3])
def test_options_of_jax_custom_jvp_may_be_numbers_or_traced(number):
    @functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
    def power(x, n):
        return x**n

    power.defjvp(lambda n, x, dx: (x[0] ** n, n * x[0] ** (n - 1) * dx[0]))
    with fp.watch() as rules:
        power(X, number) if number == 2 else jax.jit(power)(X, number)
    row = only(rules.compare())
    assert row.verdict == OK, row
    assert row.notes == (() if number == 2 else ("values drawn",))


def test_keyword_arguments_and_defaults():
    @functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
    def shifted(x, w, by=1.0):
        return x * w + by

    shifted.defvjp(
        lambda x, w, by: (shifted(x, w, by), (x, w)), lambda by, kept, dy: (kept[1] * dy, by * dy)
    )
    with fp.watch() as rules:
        shifted(X, w=X, by=0.5)
    row = only(rules.compare())
    assert row.verdict == WRONG and row.worst.startswith("dw ")


def under_scan(rule):
    return jax.lax.scan(lambda carry, x: (rule(carry, x), x), X[0], X)


TRACED = {
    "jit": (lambda rule: jax.jit(rule)(X, X), ((3,), (3,))),
    "scan": (under_scan, ((), ())),
    "vmap of jit": (lambda rule: jax.vmap(jax.jit(rule))(X, X), ((), ())),
    "grad of jit": (lambda rule: jax.grad(jax.jit(lambda x: rule(x, x).sum()))(X), ((3,), (3,))),
    "checkpoint": (lambda rule: jax.checkpoint(rule)(X, X), ((3,), (3,))),
}


@pytest.mark.parametrize("how", TRACED)
def test_calls_in_traces_tell_shapes(how):
    run, shapes = TRACED[how]
    with fp.watch() as rules:
        run(right_rule())
    leaves = example_of(rules).leaves
    assert leaves == tuple(Unseen(shape, X.dtype) for shape in shapes)


def test_a_rule_that_was_only_traced_is_judged_at_drawn_values():
    @jax.custom_vjp
    def picked(x, index, mask):
        return jnp.where(mask, x[index], 0.0)

    def backward(kept, dy):
        x, index, mask = kept
        return jnp.zeros_like(x).at[index].add(jnp.where(mask, dy, 0.0)), None, None

    picked.defvjp(lambda x, index, mask: (picked(x, index, mask), (x, index, mask)), backward)
    with fp.watch() as rules:
        jax.jit(picked)(X, jnp.asarray([2, 1]), jnp.asarray([True, False]))
    found = rules.compare()
    assert only(found).verdict == OK and only(found).notes == ("values drawn",)
    assert "values drawn: seen in traces alone" in str(found)


@pytest.mark.parametrize("by", [[jnp.nan, 1.0], jnp.inf], ids=["an array", "an option"])
def test_values_that_are_not_finite_are_replaced(by):
    @jax.custom_jvp
    def scaled(x, by):
        return x * by

    scaled.defjvps(lambda dx, y, x, by: dx * by, lambda dby, y, x, by: x * dby)
    with fp.watch() as rules:
        scaled(X[:2], by if by == jnp.inf else jnp.asarray(by))
    row = only(rules.compare())
    assert row.verdict == OK and row.notes == ("values drawn",)


def test_values_are_drawn_where_the_function_is_finite():
    @jax.custom_jvp
    def logit(p):
        return jnp.log(p) - jnp.log1p(-p)

    logit.defjvps(lambda dp, y, p: dp / (p * (1 - p)))
    with fp.watch() as rules:
        jax.jit(logit)(jnp.full(4, 0.5))
    assert only(rules.compare()).verdict == OK


def test_errors_of_what_is_zero_are_not_told_relative_to_it():
    @jax.custom_jvp
    def constant(x):
        return 0.0 * x

    constant.defjvps(lambda dx, y, x: 0.0 * dx)
    with fp.watch() as rules:
        constant(X)
    row = only(rules.compare())
    assert row.verdict == OK
    assert row.worst in ("dx", "dx 0e+00")


def test_a_function_that_is_nowhere_finite_is_not_accused():
    @jax.custom_jvp
    def never(x):
        return x * jnp.nan

    never.defjvps(lambda dx, y, x: dx)
    with fp.watch() as rules:
        jax.jit(never)(X)
        never(X)
    row = only(rules.compare())
    assert row.verdict == CANNOT and "not finite as called" in row.words


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_rule_that_raises_cannot_be_judged(where):
    rule = right_rule()

    def raising(*given):
        raise RuntimeError("only on\nTPUs")

    halves = {"forward": rule.fwd, "backward": rule.bwd} | {where: raising}
    rule.defvjp(halves["forward"], halves["backward"])
    with fp.watch() as rules:
        rule(X, X)
    found = rules.compare()
    row = only(found)
    assert found.ok and row.verdict == CANNOT
    assert row.words == "backward raised RuntimeError: only on"


def test_what_has_no_gradient_cannot_be_judged():
    with fp.watch() as rules:
        wrong_rule()(jnp.arange(3))
    assert "without an array of floats" in only(rules.compare()).words


def test_complex_arguments_are_judged():
    with fp.watch() as rules:
        wrong_rule()(X.astype(complex))
    assert only(rules.compare()).verdict == "WRONG"


def test_collectives_cannot_be_judged_outside_of_their_axis():
    @jax.custom_jvp
    def total(x):
        return jax.lax.psum(x, "batch")

    total.defjvps(lambda dx, y, x: jax.lax.psum(dx, "batch"))
    with fp.watch() as rules:
        jax.vmap(total, axis_name="batch")(X)
    row = only(rules.compare())
    assert row.verdict == CANNOT and "batch" in row.words


def test_an_argument_that_cannot_be_differentiated_does_not_hide_the_others():
    @jax.custom_jvp
    def scaled(x, table):
        return x * table

    @scaled.defjvp
    def rule(primals, tangents):
        (x, table), (dx, dtable) = primals, tangents
        if not isinstance(dtable, jax.custom_derivatives.SymbolicZero):
            raise NotImplementedError("a table is constant")
        return x * table, 2 * dx * table

    scaled.defjvp(rule, symbolic_zeros=True)
    with fp.watch() as rules:
        scaled(X, X)
    row = only(rules.compare())
    assert row.verdict == WRONG and row.worst.startswith("dx ")
    assert any("a table is constant for dtable" in note for note in row.notes)


def test_rules_that_are_skipped_are_listed():
    with fp.watch() as rules:
        jax.nn.relu(X)
        wrong_rule()(X)
    found = rules.compare(skip=["jax.*", "*.cube"])
    assert {row.verdict for row in found.rows} == {LEFT_OUT} and found.ok
    assert {row.module for row in found.rows} == {jax.nn.relu.__module__, __name__}
    with pytest.raises(ValueError, match="seconds is 0, wanted more than 0"):
        rules.compare(seconds=0)


def test_the_budget_is_looked_at_between_examples():
    rule = right_rule()
    with fp.watch() as rules:
        rule(X, X)
        rule(X[0], X[0])
        rule(X[:2], X[:2])
    row = only(rules.compare(seconds=1e-9))
    assert row.verdict == OK and row.notes == ("2 of 3 examples left out after 1e-09 s",)


# --- what is kept ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how, wanted",
    [
        (lambda rule: jax.grad(lambda x: rule(x, 2 * x).sum())(X), X),
        (lambda rule: jax.vmap(lambda x: rule(x, 2 * x), in_axes=1)(jnp.stack([X, -X], 1)), X),
        (lambda rule: jax.vmap(jax.vmap(lambda x: rule(x, 2 * x)))(X.reshape(1, 3, 1)), X[:1]),
        (lambda rule: jax.vmap(jax.grad(lambda x: rule(x, 2 * x)))(X), X[0]),
    ],
    ids=["grad", "vmap", "vmap of vmap", "vmap of grad"],
)
def test_values_under_transformations_that_run_at_once(how, wanted):
    with fp.watch() as rules:
        how(right_rule())
    x, w = example_of(rules).leaves
    np.testing.assert_array_equal(x, wanted)
    np.testing.assert_array_equal(w, 2 * wanted)
    assert type(x) is np.ndarray


def test_values_under_jvp():
    with fp.watch() as rules:
        jax.jvp(wrong_rule(), (X,), (X,))
    np.testing.assert_array_equal(example_of(rules).leaves[0], X)


def test_values_from_outside_of_a_jit_are_seen_in_it():
    rule, w = right_rule(), 2 * X
    with fp.watch() as rules:
        jax.jit(lambda x: rule(x, w))(X)
    first, second = example_of(rules).leaves
    assert first == Unseen((3,), X.dtype)
    np.testing.assert_array_equal(second, w)


def test_a_call_with_values_takes_the_place_of_one_without():
    rule = right_rule()
    with fp.watch() as rules:
        jax.jit(rule)(X, X)
        rule(jnp.full(3, jnp.inf), X)
        assert example_of(rules).unseen == 1
        rule(X, X)
        rule(2 * X, X)  # nothing new
    np.testing.assert_array_equal(example_of(rules).leaves[0], X)


def test_at_most_three_signatures_are_kept_those_with_values_first():
    rule = right_rule()
    with fp.watch() as rules:
        for n in range(1, 6):
            jax.jit(rule)(jnp.ones(n), jnp.ones(n))
        rule(jnp.ones(7), jnp.ones(7))
        rule(jnp.ones((2, 2)), jnp.ones((2, 2)))
    (seen,) = rules._seen.values()
    kept = [example.leaves[0].shape for example in seen.examples()]
    assert seen.calls == 7
    assert len(kept) == 3 and kept[:2] == [(2, 2), (7,)]


def test_closures_of_one_function_are_told_apart():
    good, bad = wrong_rule(3.0), wrong_rule(2.0)
    with fp.watch() as rules:
        for cube in [good] * 4 + [bad]:
            cube(X)
    row = only(rules.compare())
    assert row.calls == 5 and row.verdict == OK  # the factor is in the rule, not in the function

    def made(factor):
        @jax.custom_jvp
        def scaled(x):
            return factor * x

        scaled.defjvps(lambda dx, y, x: 3.0 * dx)
        return scaled

    with fp.watch() as rules:
        for factor in (3.0, 2.0):
            made(factor)(X)
    assert only(rules.compare()).verdict == WRONG


def test_the_dtypes_of_a_call_are_those_of_its_time():
    rule = right_rule()
    with fp.watch() as rules:
        with jax.enable_x64(True):
            rule(jnp.ones(2), np.ones(2))
        rule(np.ones(2), np.ones(2))
    (seen,) = rules._seen.values()
    assert {(each.x64, each.leaves[1].dtype) for each in seen.examples()} == {
        (True, np.dtype("float64")),
        (False, np.dtype("float32")),
    }


def test_settings_that_a_program_leaves_behind_do_not_matter():
    with fp.watch() as rules:
        wrong_rule(3.0)(X)
    with jax.disable_jit(), jax.debug_nans(True), jax.numpy_rank_promotion("raise"):
        assert only(rules.compare()).verdict == OK


def test_a_rule_that_closes_over_a_trace_is_not_kept():
    def program(x):
        @jax.custom_vjp
        def inner(y):
            return x * y

        inner.defvjp(lambda y: (x * y, None), lambda kept, dy: (x * dy,))
        return inner(X)

    with fp.watch() as rules:
        jax.jit(program)(X)
    row = only(rules.compare())
    assert row.verdict == CANNOT and "closes over values of a trace" in row.words


def test_no_tracer_and_no_array_is_kept():
    tracers = []

    def program(x, rule):
        tracers.append(weakref.ref(x))
        return rule(x, options={"of": lambda y: y})

    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def rule(x, options):
        return options["of"](x)

    rule.defvjp(lambda x, options: (x, None), lambda options, kept, dy: (dy,))
    with fp.watch() as rules, jax.checking_leaks():
        jax.jit(program, static_argnums=1)(X, rule)
        array = jnp.ones((2, 2))
        rule(array, {"of": jnp.sin})
        tracers.append(weakref.ref(array))
        del array
    gc.collect()
    assert len(rules.rules) == 1 and [each() for each in tracers] == [None, None]


def test_tracers_are_found_wherever_they_hide():
    class Holder:
        pass

    def look(x):
        holder = Holder()
        holder.deep = {"a": [(functools.partial(jnp.add, x),)]}
        bound = holder.__init__

        def closure():
            return x

        assert concrete(x) is None
        hidden = [x, holder, bound, closure, jax.jit(closure), lambda y=x: y, [{"x": closure}]]
        assert all(map(holds_tracer, hidden))
        assert not holds_tracer(look, X, jnp.sin, jax.nn.relu, "x", 1, [Holder(), np.ones(3)])
        return x

    jax.jit(look)(X)


# --- the program ----------------------------------------------------------------------------------


def program(x, rule, cube):
    def body(carry, x):
        return rule(carry, cube(x)), jax.nn.relu(x)

    y, ys = jax.lax.scan(body, x, jnp.stack([x, 2 * x]))
    return jax.grad(lambda y: jax.checkpoint(cube)(y).sum())(y) + ys.sum(0)


def test_what_jax_traces_is_the_same():
    rule, cube = right_rule(), wrong_rule()

    def texts():
        jax.clear_caches()
        function = functools.partial(program, rule=rule, cube=cube)
        jaxpr = jax.make_jaxpr(function)(X)
        lowered = jax.jit(function).lower(X)
        with_lines = jaxpr.pretty_print(source_info=True, use_color=False)
        return without_addresses(with_lines), lowered.as_text(debug_info=True)

    before = texts()
    with fp.watch() as rules:
        during = texts()
    assert len(rules.rules) >= 3
    assert before == during
    assert "test_watch.py" in before[0] and "watching.py" not in before[0]


def without_addresses(text):
    import re

    return re.sub(r"0x[0-9a-f]+", "0x", text)


def test_the_classes_are_as_they_were_when_the_last_watch_is_closed():
    originals = jax.custom_vjp.__call__, jax.custom_jvp.__call__
    with fp.watch() as outer:
        with fp.watch() as inner:
            right_rule()(X, X)
            assert jax.custom_vjp.__call__ is not originals[0]
        with pytest.raises(ZeroDivisionError), fp.watch():
            wrong_rule()(X)
            raise ZeroDivisionError
    assert (jax.custom_vjp.__call__, jax.custom_jvp.__call__) == originals
    right_rule()(X, X)
    assert [rule.name for rule in inner.rules] == ["right"]
    assert [rule.name for rule in outer.rules] == ["right", "wrong_rule.<locals>.cube"]
    assert outer._seen[outer.rules[0]].calls == 1


def test_a_rule_that_is_not_defined_yet_raises_as_ever():
    with fp.watch() as rules:
        with pytest.raises(AttributeError, match="No VJP defined"):
            jax.custom_vjp(right)(X, X)
        with pytest.raises(AttributeError, match="No JVP defined"):
            jax.custom_jvp(right)(X, X)
        with pytest.raises(TypeError, match="could not be resolved"):
            right_rule()(X, nothing=X)
    assert [rule.name for rule in rules.rules] == ["right"]


def test_arguments_that_are_none_of_jax_raise_as_ever():
    with fp.watch() as rules, pytest.raises(TypeError, match="not a valid JAX type"):
        right_rule()("a word", X)
    assert "str" in only(rules.compare()).words


# --- where a rule stands --------------------------------------------------------------------------


class Gain:
    def __init__(self, by):
        self.by = by

    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def apply(self, x):
        return self.by * x

    apply.defvjp(lambda self, x: (self.by * x, None), lambda self, kept, dy: (dy,))

    def method(self, x):
        return self.by * x * x


def test_methods():
    gain = Gain(2.0)
    bound = jax.custom_jvp(gain.method)
    bound.defjvps(lambda dx, y, x: 4.0 * x * dx)
    with fp.watch() as rules:
        Gain.apply(gain, X)
        bound(X)
    found = {row.name: row for row in rules.compare().rows}
    assert found.keys() == {"Gain.apply", "Gain.method"}
    assert found["Gain.apply"].verdict == WRONG and "a factor of 1/2" in found["Gain.apply"].words
    assert found["Gain.method"].verdict == OK
    assert found["Gain.method"].line == line_of(Gain.method)


def test_names_below_wrappers():
    @jax.jit
    def compiled(x):
        return x

    @functools.wraps(right)
    def wrapped(*args):
        return right(*args)

    class Caller:
        def __call__(self, x):
            return x

    given = (compiled, wrapped, functools.partial(right, w=X), Caller(), lambda x: x)
    with fp.watch() as rules:
        for function in given:
            rule = jax.custom_jvp(function)
            rule.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
            rule(X, X) if function is wrapped else rule(X)
    here = "test_names_below_wrappers.<locals>."
    names = [rule.name for rule in rules.rules]
    assert names == [f"{here}compiled", "right", f"{here}Caller", f"{here}<lambda>"]
    assert all(rule.file == __file__ and rule.line > 0 for rule in rules.rules)


def test_a_function_that_answers_to_nothing_is_called_as_ever():
    class Odd:
        def __call__(self, x):
            return x

        def __getattr__(self, name):
            raise RuntimeError(name)

    rule = object.__new__(jax.custom_jvp)
    rule.fun, rule.nondiff_argnums = Odd(), ()
    rule.defjvp(lambda primals, tangents: (primals[0], tangents[0]))
    call = jax.custom_jvp.__call__
    with fp.watch() as rules, pytest.raises(RuntimeError) as caught:
        rule(X)
    with pytest.raises(RuntimeError) as alone:
        call(rule, X)
    assert str(caught.value) == str(alone.value)  # JAX asks it, too
    assert len(rules.rules) == 1


def test_jax_custom_gradient_is_named_by_its_function():
    @jax.custom_gradient
    def square(x):
        return x**2, lambda dy: (3 * x * dy,)

    with fp.watch() as rules:
        square(X)
    row = only(rules.compare())
    assert row.name.endswith("square") and row.file == __file__
    assert row.verdict == WRONG and row.worst.startswith("dx ")


def test_equinox():
    equinox = pytest.importorskip("equinox")

    @equinox.filter_custom_vjp
    def scaled(weights, x, *, activation):
        return activation(weights["w"]) * x

    @scaled.def_fwd
    def forward(perturbed, weights, x, *, activation):
        return scaled(weights, x, activation=activation), None

    @scaled.def_bwd
    def backward(kept, dy, perturbed, weights, x, *, activation):
        return {"w": 2 * jnp.cos(weights["w"]) * x * dy, "none": None}

    @equinox.filter_custom_jvp
    def square(x, *, by):
        return by * x**2

    @square.def_jvp
    def rule(primals, tangents, *, by):
        return by * primals[0] ** 2, 2 * by * primals[0] * tangents[0]

    with fp.watch() as rules:
        scaled({"w": X, "none": None}, X, activation=jnp.sin)
        square(X, by=3)
    found = {row.name.rpartition(".")[2]: row for row in rules.compare(skip=["equinox.*"]).rows}
    assert found["scaled"].verdict == WRONG and found["scaled"].file == __file__
    assert found["scaled"].worst.startswith("dweights['w'] ")
    assert "a factor of 2" in found["scaled"].words and not found["scaled"].notes
    assert found["square"].verdict == OK and found["square"].file == __file__


@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_flax_nnx(factor):
    try:
        nnx = pytest.importorskip("flax.nnx")
    except AttributeError as error:  # flax 0.12.8 has no NNX on jax 0.12
        pytest.skip(str(error))

    class Product(nnx.Module):
        def __init__(self):
            self.x, self.y = nnx.Param(X), nnx.Param(2 * X)

    @nnx.custom_vjp
    def of_module(product):
        return jnp.sin(product.x[...]) * product.y[...]

    def forward(product):
        x = product.x[...]
        return of_module(product), (jnp.cos(x), jnp.sin(x), product)

    def backward(kept, g):
        (dproduct,), dy = g
        cosine, sine, product = kept
        dproduct["x"] = cosine * dy * product.y[...]
        dproduct["y"] = factor * sine * dy
        return (dproduct,)

    of_module.defvjp(forward, backward)
    product = Product()
    with fp.watch() as rules:
        jax.tree.leaves(nnx.grad(lambda product: of_module(product).sum())(product))
    row = only(rules.compare())
    assert row.name.endswith("of_module") and row.file == __file__
    assert row.verdict == (OK if factor == 1 else WRONG), row
    assert "'states.0.y.value'" in row.worst or factor == 1


# --- rows -----------------------------------------------------------------------------------------


def test_rows_of_two_processes_are_one():
    slow = RuleRow("m", "f", "m.py", 3, 2, OK, "dx 1e-16", 1.0)
    wrong = RuleRow("m", "f", "m.py", 3, 5, WRONG, "dx 1e+00", 2.0, "sign flipped")
    unknown = RuleRow("m", "g", "m.py", 9, 1, CANNOT, words="why")
    found = merged([slow, unknown, wrong, unknown])
    assert [(row.name, row.verdict, row.calls, row.seconds) for row in found.rows] == [
        ("f", WRONG, 7, 3.0),
        ("g", CANNOT, 2, 0.0),
    ]
    assert found.rows[0].words == "sign flipped"
    assert merged([]).headline == str(merged([])) == "no derivative rule was called"
    assert merged([]).ok


def test_files_are_told_from_where_one_works(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    own = RuleRow("m", "f", str(tmp_path / "a" / "m.py"), 3, 1, OK)
    other = RuleRow("m", "f", "/usr/lib/site-packages/jax/m.py", 3, 1, OK)
    assert (own.where, other.where) == ("a/m.py:3", "jax/m.py:3")
    assert RuleRow("m", "f", "", 0, 1, OK).where == "?:0"


def test_a_table_in_a_terminal_and_in_a_notebook():
    console = pytest.importorskip("rich.console").Console(
        width=160, record=True, file=io.StringIO()
    )
    wrong = RuleRow("m", "f", "m.py", 3, 5, WRONG, "dx 1e+00", 2.0, "sign flipped", report="dx <-")
    found = merged([wrong])
    console.print(found)
    assert "sign flipped" in (text := console.export_text()) and "dx <-" in text
    assert "sign flipped" in found._repr_html_() and "dx &lt;-" in found.to_html()
