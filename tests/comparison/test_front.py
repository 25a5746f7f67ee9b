"""`compare`: what it reports, what it names, and what it refuses."""

import json
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import funcprop as fp
from funcprop.catalogue.comparisons import CatalogueComparison as Table
from funcprop.catalogue.comparisons import chosen, compare_catalogue, compare_rows


class WrongSigmoid(fp.Sigmoid):
    """a instead of a(1 − a)."""

    def backward(self, params, a, da):
        return da * a, ()


class ForgetfulSkip(fp.Skip):
    """dy is not added: the children are right, the composite is wrong."""

    def backward(self, params, residuals, dy):
        (dx,), dparams = self.backward_each(params, residuals, (dy,))
        return dx, dparams


def made(layer, *shape):
    x = jax.random.normal(jax.random.key(1), shape)
    return layer.init(jax.random.key(0), x), x


@pytest.fixture(scope="module")
def right():
    layer = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(2))
    return fp.compare(layer, *made(layer, 3, 5))


@pytest.fixture(scope="module")
def wrong():
    layer = fp.Serial(fp.Dense(4), fp.Skip(fp.Serial(fp.Dense(4), WrongSigmoid())), fp.Dense(2))
    return fp.compare(layer, *made(layer, 3, 5))


def test_a_right_model_has_a_row_per_leaf_layer_and_dtype(right):
    assert right.ok and right.wrong == () and right.kept > 0
    (said,) = right.notes
    assert said.startswith("finite differences agree along 24 directions") and "jax.jvp" in said
    names = [row.name for row in right.rows if row.dtype == "float32"]
    assert names == [
        "Serial: dparams[0].w",
        "Serial: dparams[0].b",
        "Serial: dparams[2].w",
        "Serial: dparams[2].b",
        "Serial: dx",
    ]
    assert {row.name for row in right.rows if row.dtype == "float64"} >= {
        "Serial[0] Dense: dw",
        "Serial[0] Dense: db",
        "Serial[1] Tanh: dx",
        "Serial[2] Dense: dx",
        *names,
    }
    first = next(row for row in right.rows if row.name == "Serial[2] Dense: dw")
    assert first.shape == (4, 2) and first.relative <= 1e-10 and first.rule
    right.raise_if_wrong()


def test_every_row_says_which_rule_decided(right, wrong):
    assert all(row.rule for row in (*right.rows, *wrong.rows))
    rounded = [row for row in right.rows if row.dtype == "float32"]
    assert all("eps" in row.rule or "automatic's own" in row.rule for row in rounded)


def test_the_deepest_wrong_layer_and_leaf_are_named(wrong):
    assert not wrong.ok
    assert wrong.wrong[0].name == "Serial[1] Skip[0] Serial[1] WrongSigmoid: dx"
    inner = {row.name for row in wrong.wrong if "[0] Serial[1]" in row.name}
    assert inner == {wrong.wrong[0].name}  # no other layer is accused
    assert "wrong gradient in Serial[1] Skip[0] Serial[1] WrongSigmoid: dx" in wrong.headline


def test_the_worst_element_is_told_with_both_values():
    z = jnp.asarray([[0.1, 0.2], [3.0, 0.3]])
    found = fp.compare(WrongSigmoid(), (), z, probes=1)
    row = found.wrong[0]
    a = 1 / (1 + np.exp(-np.asarray(z, np.float64)[row.index]))
    assert row.by_hand / row.expected == pytest.approx(1 / (1 - a), rel=1e-5)
    assert row.error == pytest.approx(abs(row.by_hand - row.expected))


def test_raise_if_wrong_is_a_readable_assertion(wrong):
    with pytest.raises(fp.GradientError) as caught:
        wrong.raise_if_wrong()
    text = str(caught.value)
    assert isinstance(caught.value, AssertionError)
    assert "WrongSigmoid: dx" in text and "WRONG" in text and "relative norm <= 1e-10" in text
    assert " ok " not in text  # the wrong rows only


def test_the_report_as_text_table_and_json(right, wrong):
    assert "Serial[1] Tanh: dx" in str(right) and "float32" in str(right)
    rich = pytest.importorskip("rich.console")
    console = rich.Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    with console.file:
        console.print(wrong)
    assert "WrongSigmoid" in console.export_text()
    read = json.loads(wrong.to_json())
    assert read["ok"] is False and read == wrong.as_dict()
    assert read["rows"][0].keys() >= {"name", "path", "shape", "error", "relative", "index", "rule"}


@pytest.mark.parametrize(("width", "all_columns"), [(80, False), (200, True)])
def test_a_narrow_terminal_shows_the_columns_that_say_what_to_correct(wrong, width, all_columns):
    rich = pytest.importorskip("rich.console")
    with open("/dev/null", "w") as nowhere:
        console = rich.Console(record=True, width=width, file=nowhere)
        console.print(wrong)
    lines = console.export_text().splitlines()
    headings, *_ = [line for line in lines if "by hand" in line]
    assert "automatic" in headings and "rule" in headings and max(map(len, lines)) <= width
    assert ("cosine" in headings) is all_columns and ("worst at" in headings) is all_columns


def test_a_wrong_composite_around_right_children_is_named():
    layer = fp.Serial(fp.Dense(4), ForgetfulSkip(fp.Tanh()))
    found = fp.compare(layer, *made(layer, 3, 5))
    assert found.wrong[0].place == "Serial[1] ForgetfulSkip"


def test_inside_repeat_remat_branch_over_time_and_tied():
    block = fp.Repeat(fp.Remat(fp.Skip(fp.Serial(fp.Dense(4), WrongSigmoid()))), 3)
    layer = fp.Branch(block, fp.OverTime(fp.Serial(fp.Dense(4), fp.Tanh())))
    found = fp.compare(layer, *made(layer, 2, 3, 4))
    assert {row.name for row in found.wrong if row.place.endswith("WrongSigmoid")} == {
        "Branch[0] Repeat[0] Remat[0] Skip[0] Serial[1] WrongSigmoid: dx"
    }
    leaves = [row for row in found.rows if row.place.endswith((" Dense", " Tanh"))]
    assert len(leaves) == 3 + 3 + 1 and all(row.ok for row in leaves)
    tied = fp.Tied(fp.Serial(fp.Dense(4), WrongSigmoid(), fp.Dense(4)), (("[0].w", "[2].w"),))
    found = fp.compare(tied, *made(tied, 2, 4))
    assert found.wrong[0].name == "Tied[0] Serial[1] WrongSigmoid: dx"


def test_broken_contracts_are_rows_that_name_the_leaf():
    class Unsummed(fp.Dense):
        def backward(self, params, x, dz):
            dx, dparams = super().backward(params, x, dz)
            return dx, dparams._replace(b=dz)

    class Narrow(fp.Tanh):
        def backward(self, params, a, da):
            return super().backward(params, a, da)[0].astype(jnp.float16), ()

    class Raising(fp.Tanh):
        def backward(self, params, a, da):
            raise RuntimeError("not today")

    layer = fp.Serial(fp.Dense(3), Unsummed(2))
    (row,) = fp.compare(layer, *made(layer, 3, 5)).rows
    assert row.name == "Serial[1] Unsummed: db" and not row.ok
    assert "float32[3, 2], wanted float32[2]" in row.rule
    (row,) = fp.compare(Narrow(), *made(Narrow(), 3)).rows
    assert row.name == "Narrow: dx" and "float16[3]" in row.rule
    (row,) = fp.compare(Raising(), *made(Raising(), 3)).rows
    assert row.path == "backward" and "RuntimeError: not today" in row.rule


def test_no_result_is_cached_when_a_backward_is_edited(monkeypatch):
    layer = fp.Sigmoid()
    assert fp.compare(layer, *made(layer, 4)).ok
    monkeypatch.setattr(fp.Sigmoid, "backward", WrongSigmoid.backward)
    assert not fp.compare(layer, *made(layer, 4)).ok


def test_a_forward_that_only_finite_differences_can_follow():
    @dataclass(frozen=True)
    class Halving(fp.Layer):
        factor: float = 0.125

        def forward(self, params, x, context=fp.Context()):
            def body(carry):
                step, y = carry
                return step + 1, y / 2

            return jax.lax.while_loop(lambda carry: carry[0] < 3, body, (0, jnp.sin(x)))[1], x

        def backward(self, params, x, dy):
            return self.factor * dy * jnp.cos(x), ()

    found = fp.compare(Halving(), *made(Halving(), 3, 2))
    assert found.ok and "finite differences" in found.notes[0]
    assert not fp.compare(Halving(0.12501), *made(Halving(), 3, 2)).ok


@pytest.mark.parametrize(
    "loss", [fp.QuadraticCost(), fp.SoftmaxCrossEntropy(), fp.BinaryCrossEntropy(), fp.Hinge()]
)
def test_gradient_functions_and_no_false_alarm_with_any_loss(loss):
    model = fp.Serial(fp.Dense(6), fp.Sigmoid(), fp.Dropout(0.3), fp.Dense(3))
    params, x = made(model, 5, 4)
    classes = jax.random.randint(jax.random.key(3), (5,), 0, 3)
    integer = isinstance(loss, (fp.SoftmaxCrossEntropy, fp.Hinge))
    target = classes if integer else jax.nn.one_hot(classes, 3)
    context = fp.Context(key=jax.random.key(5))
    found = fp.compare(fp.backprop(model, loss), params, (x, target), context)
    found.raise_if_wrong()
    names = {row.name for row in found.rows}
    assert {"value", "dparams[0].w", "Serial[0] Dense: dw"} <= names
    assert f"loss {type(loss).__name__}: dx[0]" in names


def test_a_gradient_function_names_the_wrong_layer_and_leaf():
    model = fp.Serial(fp.Dense(6), WrongSigmoid(), fp.Dense(3))
    params, x = made(model, 5, 4)
    gradient = fp.backprop(model, fp.QuadraticCost(), has_aux=True)
    found = fp.compare(gradient, params, (x, jnp.ones((5, 3))), probes=2)
    assert found.wrong[0].name == "Serial[1] WrongSigmoid: dx"
    assert {row.name for row in found.wrong} >= {"dparams[0].w", "dparams[0].b"}
    assert "dparams[2].w" not in {row.name for row in found.wrong}


def test_a_gradient_function_is_told_what_is_wrong_with_it():
    def double(params, batch, context=fp.Context()):
        value, grads = jax.value_and_grad(loss)(params, batch)
        return value, {"w": 2 * grads["w"], "b": grads["b"]}

    def loss(params, batch, context=fp.Context()):
        return jnp.sum((batch @ params["w"] + params["b"]) ** 2)

    params = {"w": jnp.ones((3, 2)), "b": jnp.ones(2)}
    found = fp.compare(
        double, params, jnp.arange(6.0).reshape(2, 3), against=jax.value_and_grad(loss)
    )
    assert found.headline == "double: wrong gradient in dparams['w'] (a factor of 2)"


def test_two_gradient_functions_against_each_other():
    def half(params, batch, context=fp.Context()):
        return jnp.sum(params["w"] ** 2), {"w": params["w"]}

    def loss(params, batch, context=fp.Context()):
        return jnp.sum(params["w"] ** 2)

    params = {"w": jnp.asarray([1.0, 2.0])}
    found = fp.compare(half, params, jnp.zeros(1), against=jax.value_and_grad(loss))
    assert [row.name for row in found.wrong] == ["dparams['w']"] * 2
    assert fp.compare(
        jax.value_and_grad(loss), params, jnp.zeros(1), against=jax.value_and_grad(loss)
    ).ok


def test_random_layers_get_the_same_key_on_both_sides():
    context = fp.Context(key=jax.random.key(4))
    layer = fp.Serial(fp.Dropout(0.5), fp.Dense(2))
    params, x = made(layer, 6, 5)
    assert fp.compare(layer, params, x, context).ok
    with pytest.raises(fp.LayerError, match="pass one"):
        fp.compare(layer, params, x)


def test_float64_and_bfloat16_are_working_dtypes_too():
    with jax.enable_x64(True):
        layer = fp.Dense(2)
        x = jnp.ones((3, 4), jnp.float64)
        found = fp.compare(layer, layer.init(jax.random.key(0), x), x)
        assert found.ok and {row.dtype for row in found.rows} == {"float64"}
    x = jax.random.normal(jax.random.key(1), (3, 4)).astype(jnp.bfloat16)
    found = fp.compare(layer, layer.init(jax.random.key(0), x), x)
    assert found.ok and {row.dtype for row in found.rows} == {"float64", "bfloat16"}


@dataclass(frozen=True)
class HalfFrozen(fp.Dense):
    """A Dense layer that gives w no gradient; forward shows it to `jax.vjp`, or does not."""

    hidden: bool = True

    def forward(self, params, x, context=fp.Context()):
        stopped = params._replace(w=jax.lax.stop_gradient(params.w))
        return super().forward(stopped if self.hidden else params, x, context)

    def backward(self, params, x, dz):
        dx, dparams = super().backward(params, x, dz)
        return dx, dparams._replace(w=None)


def test_a_gradient_of_none_is_right_where_forward_hides_the_parameter():
    x = jax.random.normal(jax.random.key(1), (5, 4))
    for model in (lambda layer: layer, lambda layer: fp.Serial(layer, fp.Tanh())):
        right, wrong = model(HalfFrozen(3)), model(HalfFrozen(3, hidden=False))
        params = right.init(jax.random.key(0), x)
        found = fp.compare(right, params, x)
        assert found.ok and any(row.path == "dw" for row in found.rows)
        found = fp.compare(wrong, params, x)
        assert {row.path.rsplit(".")[-1].removeprefix("d") for row in found.wrong} == {"w"}
        assert "backward returned None" in found.wrong[0].words
        gradient = fp.backprop(right, fp.QuadraticCost())
        assert fp.compare(gradient, params, (x, jnp.ones((5, 3)))).ok
        by_jax = jax.grad(lambda p, f=fp.as_function(right): f(p, x).sum())(params)
        assert not jax.tree.leaves(by_jax)[0].any() and jax.tree.leaves(by_jax)[1].any()
    assert not fp.compare(fp.backprop(wrong, fp.QuadraticCost()), params, (x, jnp.ones((5, 3)))).ok


def test_a_layer_against_the_one_whose_derivative_its_backward_is():
    x = jax.random.normal(jax.random.key(1), (5, 4))
    assert not fp.compare(fp.Binarize(), (), x).ok
    found = fp.compare(fp.Binarize(), (), x, against=fp.HardTanh())
    assert found.ok and found.target == "Binarize()"
    assert not fp.compare(fp.Binarize(), (), x, against=fp.Identity()).ok
    models = [fp.Serial(fp.Dense(3), middle) for middle in (fp.Binarize(), fp.HardTanh())]
    params = models[0].init(jax.random.key(0), x)
    assert fp.compare(models[0], params, x, against=models[1]).wrong == ()
    assert fp.compare(models[0], params, x).wrong[0].place == "Serial[1] Binarize"
    with pytest.raises(TypeError, match=r"Flatten.*\(20,\)|Flatten.*must agree"):
        fp.compare(fp.Binarize(), (), x, against=fp.Flatten(axes=2))


def test_where_nothing_is_differentiable_the_note_says_so():
    found = fp.compare(fp.Identity(), (), jnp.ones(2, int))
    assert found.ok and found.rows == () and "only the gradients' trees" in found.notes[0]


def test_truth_that_is_nowhere_finite_is_not_called_right():
    found = fp.compare(fp.Tanh(), (), jnp.full((3,), jnp.nan))
    assert not found.ok and "nothing can be judged" in found.rows[0].rule


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fp.compare(3, (), jnp.ones(2)), TypeError, "a function or a pair"),
        (lambda: fp.compare(fp.Tanh, (), jnp.ones(2)), TypeError, r"write Tanh\(\)"),
        (lambda: fp.compare(fp.Tanh(), ()), TypeError, r"compare\(layer, params, x, context\)"),
        (lambda: fp.compare(jnp.sin, jnp.ones(2), context=fp.Context()), TypeError, "leave it out"),
        (lambda: fp.compare(fp.Tanh(), (), jnp.ones(2), probes=0), ValueError, "probes is 0"),
        (lambda: fp.compare(fp.Tanh(), (), jnp.ones(2), jax.random.key(0)), TypeError, "Context"),
        (lambda: fp.compare(fp.Tanh(), (), jnp.ones(2, int)), fp.LayerError, "floats"),
        (lambda: fp.compare(fp.Tanh(), (), jnp.ones(2), against=abs), TypeError, "give a Layer"),
    ],
)
def test_targets_that_cannot_be_compared(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_the_catalogue_as_a_table():
    seen = []
    entries = compare_catalogue(["Sigmoid"], lambda row, found: seen.append(row.name))
    assert seen == [row.name for row, _ in entries] and "Sigmoid, saturated" in seen
    table = Table(tuple(entries))
    assert table.ok and "Sigmoid, saturated" in str(table)
    assert json.loads(table.to_json())[0]["name"] == "Sigmoid"
    row = replace(chosen(["Sigmoid"])[0], layer=WrongSigmoid())
    broken = Table(tuple(compare_rows([row])))
    assert not broken.ok and "WRONG: WrongSigmoid: dx" in str(broken)
    with pytest.raises(ValueError, match="did you mean 'Sigmoid'"):
        compare_catalogue(["Sigmod"])


def test_fresh_zeros_and_ones_hide_nothing():
    @dataclass(frozen=True)
    class Halved(fp.Tanh):
        def backward(self, params, a, da):
            return super().backward(params, a, da)[0] / 2, ()

    @dataclass(frozen=True)
    class GainForgotten(fp.LayerNorm):
        def backward(self, params, residuals, dy):
            ones = jax.tree.map(jnp.ones_like, params)
            return super().backward(ones, residuals, dy)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    zeros = fp.Dense(3, w_init=fp.initializers.Zeros())
    for wrong in (Halved(), GainForgotten()):
        model = fp.Serial(fp.Dense(4), wrong, zeros)
        params = model.init(jax.random.key(0), x)
        for target, given in (
            (model, x),
            (fp.backprop(model, fp.QuadraticCost()), (x, jnp.ones((6, 3)))),
        ):
            report = fp.compare(target, params, given)
            assert report.wrong[0].name == f"Serial[1] {type(wrong).__name__}: dx"


def test_a_pair_is_wanted_of_forward_and_backward():
    @dataclass(frozen=True)
    class Lonely(fp.Tanh):
        def forward(self, params, z, context=fp.Context()):
            return jnp.tanh(z)

    x = jnp.ones((6, 4))
    model = fp.Serial(fp.Dense(4), Lonely())
    with pytest.raises(fp.LayerError, match="wanted the pair"):
        fp.compare(model, (model.layers[0].init(jax.random.key(0), x), ()), x)


# --- cost -----------------------------------------------------------------------------------------


def relu_squared(x):
    return jnp.sum(jax.nn.relu(x) ** 2)


@pytest.mark.parametrize("kind", ["layer", "function", "gradient"])
def test_the_cost_is_measured_on_request(kind):
    x = jax.random.normal(jax.random.key(0), (5, 4))
    model = fp.Serial(fp.Dense(3))
    given = {
        "layer": (model, model.init(jax.random.key(1), x), x),
        "function": (relu_squared, x),
        "gradient": (
            fp.backprop(model, fp.QuadraticCost()),
            model.init(jax.random.key(1), x),
            (x, jnp.ones((5, 3))),
        ),
    }[kind]
    costs = fp.measure(*given, seconds=0.01)
    (profile,) = costs.profiles
    assert profile.name == fp.compare(*given).target
    for cost in (profile.by_hand, profile.automatic):
        assert cost.seconds > 0 and cost.compiling > 0 and cost.bytes > 0 and cost.accessed > 0
    written = costs.as_dict()[profile.name]
    assert written["cost"]["by_hand"]["compiling"] == profile.by_hand.compiling
    assert written["machine"] in str(costs) and "compiling s" in str(costs)


def test_the_cost_of_a_wrong_gradient_is_not_measured():
    @dataclass(frozen=True)
    class Wrong(fp.Tanh):
        def backward(self, params, a, da):
            return da, ()

    with pytest.raises(ValueError, match=r"differs by .* they must be one function"):
        fp.measure(Wrong(), (), jnp.ones((2, 3)))


def test_a_second_comparison_compiles_nothing():
    """What is compared is traced anew; the same program is compiled once."""
    compiled = []

    def listener(name, seconds, **options):
        if name.endswith("backend_compile_duration"):
            compiled.append(name)

    def f(x):
        return jnp.tanh(x) ** 3

    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        fp.compare(f, jnp.linspace(-1.0, 1.0, 7))
        first = len(compiled)
        fp.compare(lambda x: jnp.tanh(x) ** 3, jnp.linspace(-1.0, 1.0, 7))
        again = len(compiled) - first
        fp.compare(lambda x: jnp.tanh(x) ** 5, jnp.linspace(-1.0, 1.0, 7))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert first >= 4 and again == 0 and len(compiled) >= first + 4
