"""Rules asked of lifted functions against their definitions, in float64: K-FAC, the diagonal of the
GGN, steps of optax in the pass, private gradients, halves and traces; and what records are called.
"""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

import funcprop as fp
from funcprop import collectors as c
from funcprop.lifting import lift, per_example

from .table import drawn, normal, whole

B = 4


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def off(given, wanted):
    given, wanted = (ravel_pytree(tree)[0] for tree in (given, wanted))
    assert given.shape == wanted.shape and given.dtype == wanted.dtype
    return float(jnp.linalg.norm(given - wanted) / jnp.linalg.norm(wanted))


# --- K-FAC ----------------------------------------------------------------------------------------
# Each takes taps, zeros that are added where a weight has met data, and tells what the weight met:
# (params, x, taps) -> loss, {weight: rows [N, in]}.


def mlp(p, x, taps):
    h = jnp.tanh(x @ p["a"] + p["b"] + taps["a"])
    return jnp.square(h @ p["c"] + taps["c"]).sum(), {"a": x, "c": h}


def heads(p, x, taps):  # two axes of the weight are contracted
    y = jnp.einsum("tgd,gdo->to", x, p["w"]) + taps["w"]
    return jnp.sin(y * p["g"]).sum(), {"w": x.reshape(5, 6)}


def convolution(p, x, taps):
    numbers = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(x[None], p["k"], (2, 1), "VALID", dimension_numbers=numbers)
    pairs = [(i, j) for i in (0, 2) for j in range(2)]
    rows = [x[i : i + 2, j : j + 3].reshape(-1) for i, j in pairs]
    return jnp.sin(y.reshape(4, 3) + taps["k"]).sum(), {"k": jnp.stack(rows)}


def recurrence(p, x, taps):
    def step(h, row):
        x, tap = row
        new = jnp.tanh(x @ p["x"] + tap["x"] + h @ p["h"] + tap["h"])
        return new, (h, new)

    _, (before, after) = lax.scan(step, jnp.full(3, 0.3), (x, taps))
    return jnp.square(after).sum(), {"x": x, "h": before}


def twice(p, x, taps):
    h = jnp.tanh(x @ p["w"] + taps["w"][:2])
    return jnp.sin(h @ p["w"] + taps["w"][2:]).sum(), {"w": jnp.concatenate([x, h])}


def table(p, ids, taps):
    rows = p["e"][ids] + taps["e"]
    return jnp.sin(jnp.cumsum(rows, 0)).sum(), {"e": jax.nn.one_hot(ids, 5, dtype=rows.dtype)}


FACTORS = {
    "mlp": (mlp, {"a": (3, 4), "b": (4,), "c": (4, 2)}, (3,), {"a": (4,), "c": (2,)}),
    "two axes": (heads, {"w": (2, 3, 4), "g": (4,)}, (5, 2, 3), {"w": (5, 4)}),
    "convolution": (convolution, {"k": (2, 3, 2, 3)}, (4, 4, 2), {"k": (4, 3)}),
    "recurrence": (recurrence, {"x": (2, 3), "h": (3, 3)}, (4, 2), {"x": (4, 3), "h": (4, 3)}),
    "twice": (twice, {"w": (3, 3)}, (2, 3), {"w": (4, 3)}),
    "table": (table, {"e": (5, 3)}, (), {"e": (6, 3)}),
}


@pytest.mark.parametrize("name", FACTORS)
def test_kronecker_factors_are_means_of_rows(name):
    tapped, shapes, features, taps = FACTORS[name]
    params = {key: normal(*shape) for key, shape in shapes.items()}
    x = normal(B, *features) if features else whole(5, B, 6)
    zeros = {key: jnp.zeros(shape) for key, shape in taps.items()}
    layer = lift(per_example(lambda p, x: tapped(p, x, zeros)[0], reduction="sum"), params, x)

    @jax.jit
    def run(params, x):
        model = fp.collect(layer, c.Kfac(others="skip"))
        found = fp.backprop(model)(params, x)[1]
        of_taps = jax.grad(tapped, argnums=2, has_aux=True)
        return c.values(found), *jax.vmap(of_taps, (None, 0, None))(params, x, zeros)

    found, deltas, rows = run(params, x)
    for key, block in found.items():
        if key not in rows:
            gradients = jax.vmap(jax.grad(lambda p, x: tapped(p, x, zeros)[0]), (None, 0))(
                params, x
            )
            assert off(block.f, jnp.square(gradients[key]).sum(0)) < 1e-9
            continue
        a, d = (t[key].reshape(-1, t[key].shape[-1]) for t in (rows, deltas))
        a = a[:, None] if a.ndim == 1 else a
        of_a = a.T @ a / len(a)
        assert off(block.a, jnp.diag(of_a) if name == "table" else of_a) < 1e-9
        assert off(block.g, d.T @ d) < 1e-9


# --- a predictor and a loss of ours ---------------------------------------------------------------


def predict(p, x):
    """Images [B, 4, 4, 2] -> [B, 3]: a kernel used twice, a gain, tied products."""
    numbers = ("NHWC", "HWIO", "NHWC")
    for _ in range(2):
        y = lax.conv_general_dilated(x, p["k"], (1, 1), "SAME", dimension_numbers=numbers)
        x = jnp.tanh(y + p["b"]) * p["g"]
    h = x.mean((1, 2)) @ p["w"]
    return jnp.tanh(h) @ p["w"].T @ p["v"]


SHAPES = {"k": (2, 2, 2, 2), "b": (2,), "g": (2,), "w": (2, 4), "v": (2, 3)}


def problem():
    params = {key: normal(*shape) for key, shape in SHAPES.items()}
    x = normal(B, 4, 4, 2)
    return lift(predict, params, x), params, (x, jnp.array([0, 2, 1, 1]))


def test_the_diagonal_of_the_ggn_is_that_of_its_definition():
    layer, params, (x, target) = problem()
    loss = fp.SoftmaxCrossEntropy()

    @jax.jit
    def both(params, x):
        found = c.diag_ggn(layer, loss, params, (x, target))
        flat, unravel = ravel_pytree(params)
        z, jacobian = predict(params, x), jax.jacrev(lambda flat: predict(unravel(flat), x))(flat)
        hessian = jax.vmap(jax.hessian(lambda z, t: -jax.nn.log_softmax(z)[t]))(z, target)
        return found, jnp.einsum("bip,bij,bjp->p", jacobian, hessian, jacobian) / B

    found, wanted = both(params, x)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    assert off(found, wanted) < 1e-9


@pytest.mark.parametrize("mapped", [False, True], ids=["of a batch", "of one example"])
def test_a_step_in_the_pass_is_the_step_of_optax(mapped):
    layer, params, (x, target) = problem()
    loss = fp.SoftmaxCrossEntropy(reduction="sum")

    def of_one(p, example):
        x, target = example
        return -jax.nn.log_softmax(predict(p, x[None])[0])[target]

    if mapped:
        layer = lift(per_example(of_one, reduction="sum"), params, (x, target))
    optimizer = optax.adamw(1e-2)
    model = fp.collect(layer, c.update(optimizer))

    @jax.jit
    def both(params, batch):
        gradient = fp.backprop(model) if mapped else fp.backprop(model, loss)
        value, held = gradient(model.hold(params), batch)
        wanted, grads = jax.value_and_grad(lambda p: jax.vmap(of_one, (None, 0))(p, batch).sum())(
            params
        )
        with jax.numpy_dtype_promotion("standard"):
            changes, _ = optimizer.update(grads, optimizer.init(params), params)
        return (value, held), (wanted, optax.apply_updates(params, changes))

    (value, held), (wanted, new) = both(params, (x, target))
    given = jax.tree.map(lambda h: h.params, held, is_leaf=lambda h: hasattr(h, "params"))
    assert abs(value - wanted) < 1e-12 * wanted
    assert jax.tree.structure(given) == jax.tree.structure(params) and off(given, new) < 1e-9


def test_a_private_gradient_without_noise_is_the_clipped_mean():
    layer, params, batch = problem()
    loss = fp.SoftmaxCrossEntropy(reduction="sum")
    mask = jnp.array([True, True, False, True])

    @jax.jit
    def both(params, batch):
        private = fp.private_gradient(layer, loss, 0.5, noise_multiplier=0.0, batch_size=3)
        found = private(params, batch, fp.Context(jax.random.key(0), mask))

        def one(p, x, t):
            return -jax.nn.log_softmax(predict(p, x[None])[0])[t]

        values, single = jax.vmap(jax.value_and_grad(one), (None, 0, 0))(params, *batch)
        norms = jax.vmap(optax.tree.norm)(single)
        factors = jnp.where(mask, jnp.minimum(1, 0.5 / norms), 0)
        clipped = jax.tree.map(lambda g: jnp.tensordot(factors, g, 1) / 3, single)
        return found, (values.sum(where=mask) / 3, clipped), norms

    (value, grads), (wanted, clipped), norms = both(params, batch)
    assert float(norms.max()) > 0.5
    assert abs(value - wanted) < 1e-12 * wanted and off(grads, clipped) < 1e-9


def test_the_halves_are_the_whole():
    layer, params, (x, _) = problem()

    @jax.jit
    def run(params, x):
        y, residuals = layer.forward(params, x)
        input_half, weight_half = fp.split_backward(layer)
        dx, kept = input_half(params, residuals, jnp.cos(y))
        return (dx, weight_half(params, kept)), layer.backward(params, residuals, jnp.cos(y))

    halves, whole = run(params, x)
    assert jax.tree.structure(halves) == jax.tree.structure(whole) and off(halves, whole) < 1e-12


def test_a_trace_holds_what_every_use_saw_and_sent():
    layer, params, batch = problem()
    gradient = fp.backprop(fp.collect(layer, c.trace), fp.SoftmaxCrossEntropy())
    found = jax.eval_shape(gradient, params, batch)[1]
    traces = {key: record.value for key, record in found.items()}
    image, small, wide = (B, 4, 4, 2), (B, 2), (B, 4)
    seen = {"k": [image] * 2, "b": [image] * 2, "g": [image] * 2, "v": [(B, 3)]}
    seen["w"] = [wide, small]
    assert traces.keys() == params.keys()
    for key, trace in traces.items():
        assert [dy.shape for dy in trace.dy] == [y.shape for y in trace.y] == seen[key]
        assert trace.dparams.shape == params[key].shape
    assert [x[0].shape for x in traces["w"].x.operands] == [small, wide]


# --- names ----------------------------------------------------------------------------------------


def test_records_are_called_by_the_path_of_the_parameter():
    layer, params, batch = problem()
    gradient = fp.backprop(
        fp.collect(layer, c.squared_norms), fp.SoftmaxCrossEntropy(reduction="sum")
    )
    found = c.records(jax.eval_shape(gradient, params, batch)[1])
    assert [record.path for record in found] == [f"params['{key}'] Weight" for key in "bgkvw"]
    by_path = {weight.path: weight for weight in layer.layers}
    (place,) = by_path["['k']"].places  # one line, twice
    assert place.primitive == "conv_general_dilated"
    assert place.source.startswith("test_rules.py:") and "(predict)" in place.source
    assert [place.primitive for place in by_path["['w']"].places] == ["dot_general"] * 2
    lines = {place.source for place in by_path["['w']"].places}
    assert len(lines) == 2


def test_a_module_of_flax_is_named_by_its_path():
    nn = pytest.importorskip("flax.linen")

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x):
            return x + nn.Dense(3, name="out")(nn.tanh(nn.Dense(4, name="first")(x)))

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(2)(Block(name="block")(x))

    with jax.numpy_dtype_promotion("standard"):
        model, x = Model(), normal(B, 3)
        params = drawn(jax.eval_shape(model.init, jax.random.key(0), x))
        layer = lift(model.apply, params, x)
    names = {weight.path: weight.places for weight in layer.layers}
    (place,) = names["['params']['block']['first']['kernel']"]
    assert place.primitive == "dot_general" and place.module == "Model/block/first"
    assert "linear.py" in place.source and "Dense.__call__" in place.source
    (place,) = names["['params']['Dense_0']['bias']"]
    assert (place.primitive, place.module) == ("add", "Model/Dense_0")


def test_a_parameter_that_comes_out_of_a_loop_unread_is_no_use():
    """As modules of NNX have it; a use without a form would make each example's gradient."""

    def loss(w, x):
        def step(h, w):
            return jax.checkpoint(lambda w, h: (jnp.tanh(h @ w), w))(w, h)

        h, _ = lax.scan(step, x, w)
        return jax.checkpoint(lambda w, h: (w, jnp.sin(h @ w[0])))(w, h)[1].sum()

    (weight,) = lift(per_example(loss), normal(2, 3, 3), normal(B, 3)).layers
    assert [place.primitive for place in weight.places] == ["dot_general"] * 2
