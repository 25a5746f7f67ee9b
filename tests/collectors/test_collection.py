"""collect: every composite passes records up, and both ends can be extended from outside."""

import inspect
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.catalogue.table import ROWS
from funcprop.collectors import (
    Form,
    Full,
    Outer,
    Rule,
    book_keeping,
    closed_form,
    collect,
    collect_all,
    gradient,
    gradients,
    records,
    second_moment,
    squared_norms,
    summed,
    total,
    trace,
    values,
    weighted_sum,
)
from funcprop.collectors.together import Together
from funcprop.layer import Array, Context, Layer, LayerError, is_float
from funcprop.pipelines import StageTimes, simulate_pipeline
from funcprop.training import init_update_state, update_step

KEY = jax.random.key(0)


def net():
    block = fp.Skip(fp.Serial(fp.LayerNorm(), fp.Dense(6), fp.Tanh()))
    return fp.Serial(
        fp.Dense(6), fp.Repeat(block, 3), fp.Branch(fp.Dense(2), fp.Remat(fp.Dense(2)),
        combine="sum"))  # fmt: skip


def data(batch=5, features=4):
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(batch, features)), jnp.float32)
    return x, jnp.asarray(random.normal(size=(batch, 2)), jnp.float32)


def drawn(layer, x, dtype=np.float32):
    """Parameters by NumPy: nothing is compiled."""
    random = np.random.default_rng(2)
    return jax.tree.map(
        lambda leaf: random.normal(0, 0.3, leaf.shape).astype(dtype),
        jax.eval_shape(layer.init, KEY, x),
    )


LOSS = fp.QuadraticCost(reduction="sum")


@pytest.mark.parametrize("name", [row.name for row in ROWS[::7]])
def test_the_gradient_is_a_rule_like_any_other(name):
    row = next(row for row in ROWS if row.name == name)
    x, context = row.inputs(KEY)
    params = drawn(row.layer, x)

    def whole(layer):
        y, residuals = layer.forward(params, x, context)
        dy = jax.tree.map(lambda leaf: jnp.ones_like(leaf) if is_float(leaf) else None, y)
        return layer.backward(params, residuals, dy)

    given, wanted = jax.jit(lambda: (whole(collect(row.layer, gradient)), whole(row.layer)))()
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    # the row of a lifted function sums single examples, which the rule does not ask for
    rounded = 1e-5 if isinstance(row.layer, fp.lifting.Lifted) else 0
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rounded, atol=rounded)


def test_records_carry_the_path_of_their_layer_and_the_axis_of_the_loop():
    model = net()
    params = model.init(KEY, data()[0])
    found = records(jax.jit(fp.backprop(collect(model, squared_norms), LOSS))(params, data())[1])
    assert [record.path for record in found if jax.tree.leaves(record.value)] == [
        "Serial[0] Dense",
        "Serial[1] Repeat[0] Skip[0] Serial[0] LayerNorm",
        "Serial[1] Repeat[0] Skip[0] Serial[1] Dense",
        "Serial[2] Branch[0] Dense",
        "Serial[2] Branch[1] Remat[0] Dense",
    ]
    of_dense = found[2]
    assert of_dense.value.shape == (3, 5) and of_dense.stacked == 1


def test_a_plain_function_is_a_rule():
    def sizes(layer, params, residuals, dy):
        dx, _ = layer.backward(params, residuals, dy)
        return dx, jnp.abs(dy).max()

    model = net()
    params = model.init(KEY, data()[0])
    found = jax.jit(fp.backprop(collect(model, sizes), LOSS))(params, data())[1]
    assert all(float(jnp.max(record.value)) > 0 for record in records(found))
    tied = fp.OverTime(fp.Dense(3))
    x = jnp.ones((2, 4, 3))
    layer = collect(tied, sizes)
    p = layer.init(KEY, x)
    y, residuals = layer.forward(p, x)
    with pytest.raises(LayerError, match="sizes is not defined for parameters that are used sev"):
        layer.backward(p, residuals, y)


def test_rules_run_under_jit_vmap_and_on_a_mesh():
    model = net()
    x, target = data(8)
    params = model.init(KEY, x)

    def norms(params, batch):
        return total(fp.backprop(collect(model, squared_norms), LOSS)(params, batch)[1])

    wanted = norms(params, (x, target))
    np.testing.assert_allclose(jax.jit(norms)(params, (x, target)), wanted, rtol=1e-5)
    two = jax.tree.map(lambda leaf: leaf.reshape(2, 4, -1), (x, target))
    mapped = jax.vmap(norms, (None, 0))(params, two)
    np.testing.assert_allclose(mapped.reshape(-1), wanted, rtol=1e-5)
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    on_mesh = jax.jit(norms)(params, jax.device_put((x, target), spread))
    np.testing.assert_allclose(on_mesh, wanted, rtol=1e-5)


def test_tied_norms_have_their_cross_terms():
    with jax.enable_x64(True):
        model = summed(fp.models.gpt_objective(fp.gpt(11, 6, 8, 2, 2)))
        ids = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 4, 6)), jnp.int32)
        params = drawn(model, (ids[0], ids[1]), np.float64)
        rules = collect_all(norms=squared_norms, gradient=gradient)
        _, found = jax.jit(fp.backprop(collect(model, rules)))(params, (ids[0], ids[1]))

        def one(params, example):
            batch = tuple(part[None] for part in example)
            return jax.grad(fp.objective(model))(params, batch)

        each = jax.jit(jax.vmap(one, (None, 0)))(params, (ids[0], ids[1]))
        each = jax.tree.map(np.asarray, each)
        wanted = sum(np.square(g).sum(tuple(range(1, g.ndim))) for g in jax.tree.leaves(each))
        np.testing.assert_allclose(total(found, "norms"), wanted, rtol=1e-9)
        given = values(found, "gradient")
        assert jax.tree.structure(given) == jax.tree.structure(each)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(each), strict=True):
            np.testing.assert_allclose(a, b.sum(0), rtol=1e-9, atol=1e-12)


def test_a_mean_is_refused():
    model = net()
    with pytest.raises(LayerError, match="SquaredNorms speaks of each example's own gradient"):
        fp.backprop(collect(model, squared_norms), fp.QuadraticCost())
    with pytest.raises(LayerError, match="reduction='sum'"):
        collect(fp.models.gpt_objective(fp.gpt(11, 6, 8, 2, 2)), squared_norms)


def test_what_has_no_single_examples_raises_and_names_the_layer():
    model = fp.Serial(fp.Dense(3), fp.BatchNorm())
    layer = collect(model, squared_norms)
    x = jnp.ones((5, 4))
    params = model.init(KEY, x)
    with pytest.raises(LayerError, match=r"Serial\[1\] BatchNorm\(\): residuals.mean has no exam"):
        layer.forward(params, x)
    layer = collect(fp.Serial(fp.Dense(3)), squared_norms)
    with pytest.raises(LayerError, match=r"Serial\[0\] Dense\(3\): was given .*one example"):
        _, residuals = layer.forward(params[:1], x[0])
        layer.backward(params[:1], residuals, jnp.ones(3))


def test_a_batch_of_the_size_of_another_axis_is_no_trap():
    """A residual with time first, and as many examples as steps."""
    with jax.enable_x64(True):
        layer = fp.LSTM(3)
        x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4, 2)))
        params = layer.init(KEY, x)
        fallback = TimeFirst(3)

        def norms(layer):
            model = collect(layer, squared_norms)

            def passes(params, x):
                y, residuals = model.forward(params, x)
                return total(model.backward(params, residuals, jnp.sin(y))[1])

            return jax.jit(passes)(params, x)

        with pytest.raises(LayerError, match="has no example axis"):
            norms(fallback)  # its residuals have time first: no closed form, so no guess
        assert norms(layer).shape == (4,)


class TimeFirst(fp.LSTM):
    """A subclass: it inherits no closed form."""


def test_the_trace_of_a_layer():
    model = fp.Serial(fp.Dense(6), fp.ReLU(), fp.Dense(2))
    x, target = data()
    params = model.init(KEY, x)
    dead = params[0]._replace(b=jnp.array([-50.0, 0, 0, 0, 0, 0]))
    params = (dead, *params[1:])
    _, found = jax.jit(fp.backprop(collect(model, trace), LOSS))(params, (x, target))
    of_dense, of_relu, of_last = records(found)
    np.testing.assert_allclose(of_dense.value.y, x @ dead.w + dead.b, rtol=1e-5)
    np.testing.assert_array_equal(of_relu.value.x, of_dense.value.y)
    np.testing.assert_array_equal(of_relu.value.dx, of_dense.value.dy)
    wanted = jax.jit(fp.backprop(model, LOSS))(params, (x, target))[1]
    np.testing.assert_array_equal(of_last.value.dparams.w, wanted[2].w)
    assert of_relu.value.dead >= 1 / 6 and of_dense.value.dead == 0
    size = np.sqrt(sum(np.square(leaf).sum() for leaf in map(np.asarray, wanted[2])))
    np.testing.assert_allclose(of_last.value.norms["dparams"], size, rtol=1e-6)


def test_the_trace_of_shared_parameters_has_every_use():
    model = fp.Serial(fp.OverTime(fp.Dense(3)), fp.Tied(
        fp.Serial(fp.Dense(3), fp.Dense(3)), (("[0].w", "[1].w"),)))  # fmt: skip
    layer = collect(model, trace)
    x = jnp.ones((2, 4, 3))
    params = layer.init(KEY, x)
    y, residuals = layer.forward(params, x)
    found = records(layer.backward(params, residuals, y)[1])
    assert found[0].path == "Serial[0] OverTime[0] Dense"
    assert found[0].value.x.shape == (4, 2, 3) and found[0].stacked == 1
    assert len(found) == 3


# --- from outside -------------------------------------------------------------------------------


class Ramp(NamedTuple):
    slope: Array  # [features]


@dataclass(frozen=True)
class Slope(Layer):
    """y = x · slope: a layer that the package does not know."""

    def init(self, key: Array, x: Any) -> Ramp:
        return Ramp(jax.random.normal(key, x.shape[-1:], x.dtype))

    def forward(self, params: Ramp, x: Array, context: Context = Context()) -> tuple[Array, Array]:
        return x * params.slope, x

    def backward(self, params: Ramp, x: Array, dy: Array) -> tuple[Array, Ramp]:
        return dy * params.slope, Ramp((dy * x).sum(range(x.ndim - 1)))


@dataclass(frozen=True)
class Largest(Rule):
    """The largest entry of each layer's gradient: a rule that the package does not know."""

    def use(self, layer, params, residuals, dy):
        return layer.backward(params, residuals, dy)

    def finish(self, layer, params, use):
        return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(use)] or [jnp.zeros(())])


def test_a_layer_and_a_rule_from_outside():
    """The new layer under every old rule; the new rule on old layers; and a closed form added."""
    model = fp.Serial(fp.Dense(3), Slope())
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    params = model.init(KEY, x)
    target = jnp.zeros((5, 3))
    largest = records(jax.jit(fp.backprop(collect(model, Largest()), LOSS))(params, (x, target))[1])
    wanted = jax.jit(fp.backprop(model, LOSS))(params, (x, target))[1]
    np.testing.assert_allclose(largest[1].value, jnp.abs(wanted[1].slope).max()[None])

    def norms():
        found = jax.jit(fp.backprop(collect(model, squared_norms), LOSS))(params, (x, target))[1]
        return total(found)

    each = jax.jit(fp.backprop(collect(model, gradients), LOSS))(params, (x, target))[1]
    each = map(np.asarray, jax.tree.leaves(each))
    brute = sum(np.square(g).sum(tuple(range(1, g.ndim))) for g in each)
    np.testing.assert_allclose(norms(), brute, rtol=1e-5)
    asked = []

    @closed_form(Slope)
    def of_slope(layer, params, residuals, dy):
        asked.append(layer)
        return dy * params.slope, Ramp(Full(dy * residuals))  # type: ignore[arg-type]

    np.testing.assert_allclose(norms(), brute, rtol=1e-5)
    assert asked == [Slope()]
    assert issubclass(Outer, Form)


def test_what_does_not_fit_is_told_in_words():
    model, x = net(), jnp.ones((5, 4))
    params = model.init(KEY, x)

    def found(rule):
        collecting = collect(model, rule)

        def passes(params, x):
            y, residuals = collecting.forward(params, x)
            return collecting.backward(params, residuals, y)[1]

        return jax.jit(passes)(params, x)

    kept = found(book_keeping)
    calls = [
        (lambda: total(found(collect_all(a=squared_norms)), "b"), ValueError, "this is one of a"),
        (
            lambda: total(found(collect_all(a=gradient, b=squared_norms))),
            ValueError,
            r"the names a, b: write total\(found, 'b'\)",
        ),
        (lambda: total(found(squared_norms), "a"), ValueError, "this is one of one rule"),
        (lambda: weighted_sum(found(squared_norms), x[:, 0]), TypeError, "book_keeping"),
        (lambda: weighted_sum(kept, x[:4, 0]), ValueError, "each of the 5 examples"),
        (lambda: collect(collect(model, gradient), gradient), TypeError, "collects already"),
        (lambda: fp.split_backward(params), TypeError, "wanted a layer"),
        (lambda: fp.rewire(model, {fp.Dense: fp.rewiring.frozen}), TypeError, "with its brackets"),
        (lambda: fp.rewire(model, fp.rewiring.frozen()), TypeError, "a dict of layer types"),
        (lambda: simulate_pipeline("1F1B", StageTimes(1, 1, 1), 4), TypeError, "one a stage"),
    ]  # fmt: skip
    for call, error, words in calls:
        with pytest.raises(error, match=words):
            call()


def test_what_is_no_rule_is_refused():
    with pytest.raises(TypeError, match="is no rule"):
        collect(net(), "gradient")
    with pytest.raises(TypeError, match=r"with \(layer, params, residuals, dy\): too many"):
        fp.collect(fp.Dense(2), lambda layer, params, residuals: None)
    with pytest.raises(TypeError, match="wanted a layer"):
        collect(gradient, net())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="was given no rule"):
        collect_all()
    wrong = collect(fp.Dense(3), lambda layer, params, residuals, dy: dy)
    x = jnp.ones((2, 3))
    params = wrong.init(KEY, x)
    y, residuals = wrong.forward(params, x)
    with pytest.raises(LayerError, match=r"returned .* wanted \(dx, record\)"):
        wrong.backward(params, residuals, y)


def test_rules_see_through_rewired_layers():
    """Feedback changes the cotangents that arrive, not what a layer makes of its own."""
    model = fp.rewire(fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dense(3)), {
        fp.Dense: fp.rewiring.feedback_alignment()})  # fmt: skip
    x = jnp.asarray(np.random.default_rng(0).normal(size=(6, 4)), jnp.float32)
    params, target = model.init(KEY, x), jnp.zeros((6, 3))
    rules = collect_all(norms=squared_norms, each=gradients)
    found = jax.jit(fp.backprop(collect(model, rules), LOSS))(params, (x, target))[1]

    def one(x, target):
        return jax.jit(fp.backprop(model, LOSS))(params, (x[None], target[None]))[1]

    each = jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(x, target))
    each = [each[i].params for i in (0, 2)]
    wanted = sum(np.square(g).sum(tuple(range(1, g.ndim))) for g in jax.tree.leaves(each))
    np.testing.assert_allclose(total(found, "norms"), wanted, rtol=1e-5)
    assert records(found)[0].path == "Serial[0] FeedbackAligned"
    given = values(found, "each")
    np.testing.assert_allclose(given[0].w, each[0].w, rtol=1e-5, atol=1e-6)
    frozen = fp.rewire(fp.Serial(fp.Dense(5), fp.Tanh()), {fp.Dense: fp.rewiring.frozen()})
    layer = collect(fp.Serial(frozen, fp.Dense(3)), squared_norms)
    params = layer.init(KEY, x)
    found = jax.jit(fp.backprop(layer, LOSS))(params, (x, target))[1]
    assert [bool(jax.tree.leaves(record.value)) for record in records(found)] == [
        False, False, True]  # fmt: skip
    step = jax.jit(update_step(layer.model, LOSS, optax.adamw(0.1)))
    state = init_update_state(layer.model, optax.adamw(0.1), KEY, x)
    new = step(state, (x, target))[0]
    np.testing.assert_array_equal(new.params[0][0].params.w, state.params[0][0].params.w)
    assert not np.array_equal(new.params[1].w, state.params[1].w)


def test_a_rule_is_small():
    """At most 60 lines each, beside what it says of itself and the closed forms that they share."""
    kinds, found = [Rule], []
    while kinds:
        kinds += (subs := kinds.pop().__subclasses__())
        found += [kind for kind in subs if kind.__module__.startswith("funcprop.collectors")]
    rules = {kind for kind in found if kind is not Together}  # several rules in one: no rule itself
    assert len(rules) >= 8
    for rule in rules:
        said = len([line for line in (rule.__doc__ or "").splitlines() if line.strip()])
        lines = inspect.getsource(rule).splitlines()
        assert sum(bool(line.strip()) for line in lines) - said <= 60, rule


def test_examples_that_leave_axis_0_are_found():
    turned = fp.Serial(fp.Transpose((1, 0, 2)), fp.Dense(3), fp.Transpose((1, 0, 2)))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3, 4)), jnp.float32)
    params = turned.init(KEY, x)
    with pytest.raises(LayerError, match=r"Serial\[0\] Transpose.* no common axis 0"):
        jax.jit(fp.backprop(collect(turned, squared_norms), LOSS))(
            params, (x, jnp.zeros((5, 3, 3)))
        )
    mixed = fp.Serial(fp.Dense(3), fp.BatchNorm(scale=False, bias=False), fp.Dense(2))
    params = mixed.init(KEY, x[:, 0])
    with pytest.raises(LayerError, match="its examples are mixed"):
        jax.jit(fp.backprop(collect(mixed, squared_norms), LOSS))(
            params, (x[:, 0], jnp.zeros((5, 2)))
        )


def test_a_mean_is_refused_wherever_the_collected_model_stands():
    model = fp.Serial(collect(fp.Serial(fp.Dense(3)), squared_norms), fp.Tanh())
    with pytest.raises(LayerError, match="takes a mean"):
        fp.backprop(model, fp.QuadraticCost())


def test_records_are_arrays():
    model = fp.Serial(fp.Dense(3))
    params = model.init(KEY, jnp.ones((2, 3)))
    batch = jnp.ones((2, 3)), jnp.zeros((2, 3))

    def giving(value):
        def rule(layer, params, residuals, dy):
            return layer.backward(params, residuals, dy)[0], value

        return records(fp.backprop(collect(model, rule), LOSS)(params, batch)[1])

    assert giving(1.5)[0].value == 1.5
    with pytest.raises(LayerError, match=r"Serial\[0\] Dense\(3\): the rule's record holds a str"):
        giving("Dense")


def test_per_example_gradients_of_low_rank_layers():
    model, x = fp.Serial(fp.LoRA(3, 2)), jnp.asarray(data()[0])
    params = model.init(KEY, x)
    params = (params[0]._replace(c=jnp.ones_like(params[0].c)),)
    rules = collect_all(moment=second_moment, norms=squared_norms)
    batch = x, jnp.zeros((5, 3))
    found = jax.jit(fp.backprop(collect(model, rules), LOSS))(params, batch)[1]
    moment = values(found, "moment")[0]
    assert moment.w is None and moment.b is None
    both = jnp.sum(moment.a) + jnp.sum(moment.c)
    np.testing.assert_allclose(both, total(found, "norms").sum(), rtol=1e-5)
