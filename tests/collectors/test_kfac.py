"""Kronecker factors against their definitions, by loops and by JAX, in float64."""

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.collectors import (
    Ekfac,
    Kfac,
    Kronecker,
    collect,
    collect_all,
    gradient,
    inverses_of,
    kfac,
    precondition,
    precondition_by_kfac,
    records,
    squared_norms,
    values,
    with_factors,
)
from funcprop.collectors.inverses import inverse
from funcprop.layer import Context, LayerError

KEY = jax.random.key(7)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def normal(*shape, seed=0, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(0, scale, shape))


def drawn(layer, x):
    """Parameters by NumPy, none of them near zero or one."""
    params = jax.eval_shape(layer.init, KEY, x)
    return jax.tree.map(lambda p: normal(*p.shape, seed=p.size, scale=0.5), params)


def run(function, *arguments):
    """By one program: op by op there is much to compile."""
    return jax.jit(lambda *given: function(*given))(*arguments)


def one_pass(layer, params, x, rule: Any = kfac, context=Context()):
    """The records of one pass, and the cotangent it began with."""
    model = collect(layer, rule)
    y = jax.eval_shape(lambda *given: model.forward(*given)[0], params, x, context)
    dy = normal(*y.shape, seed=11)

    def passes(params, x, context, dy):
        return values(model.backward(params, model.forward(params, x, context)[1], dy)[1])

    return run(passes, params, x, context, dy), dy


def loops(a, d, sharing="expand", bias=True):
    """The definition, row by row: a [B, N, in], d [B, N, out]."""
    a, d = np.asarray(a), np.asarray(d)
    if sharing == "reduce":
        a, d = a.mean(1, keepdims=True), d.sum(1, keepdims=True)
    of_a, of_g, rows = 0, 0, 0
    for b, n in itertools.product(*map(range, a.shape[:2])):
        row = np.append(a[b, n], 1) if bias else a[b, n]
        of_a, of_g, rows = of_a + np.outer(row, row), of_g + np.outer(d[b, n], d[b, n]), rows + 1
    return Kronecker(of_a / rows, of_g)


def off(given, wanted):
    assert jax.tree.structure(given) == jax.tree.structure(wanted)
    given, wanted = (
        np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])
        for tree in (given, wanted)
    )
    assert given.shape == wanted.shape and given.dtype == np.float64
    return float(np.linalg.norm(given - wanted) / np.linalg.norm(wanted))


# --- a layer at a time ----------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("leading", [(4,), (4, 3), (4, 2, 3)])
def test_dense(leading, sharing, bias):
    layer, x = fp.Dense(2, bias=bias), normal(*leading, 5)
    found, dz = one_pass(layer, drawn(layer, x), x, Kfac(sharing))
    x, dz = np.asarray(x), np.asarray(dz)
    wanted = loops(x.reshape(4, -1, 5), dz.reshape(4, -1, 2), sharing, bias)
    assert found.b is None and off(found.w, wanted) < 1e-9


CONVOLUTIONS = {
    "SAME": fp.Conv(4, (3, 3)),
    "VALID, stride": fp.Conv(4, (2, 3), stride=(2, 1), padding="VALID"),
    "dilation": fp.Conv(3, (2, 2), dilation=2),
    "uneven padding": fp.Conv(3, (3, 2), stride=2, padding=((2, 1), (0, 3)), bias=False),
    "1-D, causal": fp.Conv(3, (3,), padding="CAUSAL"),
    "wrapped around": fp.Conv(3, (3, 2), padding_mode="wrap"),
    "3-D": fp.Conv(2, (2, 1, 2)),
    "1 x 1": fp.Conv(3, (1, 1)),
}


def patch_rows(layer, x, out):
    """What every output position sees, tap by tap: outside of the image zeros, or its other end."""
    geometry, axes = layer._geometry(x), len(layer.kernel_size)
    rows = np.zeros((len(x), int(np.prod(out)), int(np.prod(layer.kernel_size)), x.shape[-1]))
    for n, o in enumerate(itertools.product(*map(range, out))):
        for t, tap in enumerate(itertools.product(*map(range, layer.kernel_size))):
            at = [
                geometry.stride[i] * o[i] + geometry.dilation[i] * tap[i] - geometry.padding[i][0]
                for i in range(axes)
            ]
            if layer.padding_mode == "wrap":
                at = [p % size for p, size in zip(at, x.shape[1:-1], strict=True)]
            if all(0 <= p < size for p, size in zip(at, x.shape[1:-1], strict=True)):
                rows[:, n, t] = np.asarray(x)[(slice(None), *at)]
    return rows.reshape(len(x), rows.shape[1], -1)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name, sharing):
    layer = CONVOLUTIONS[name]
    x = normal(2, *(6, 5, 4)[: layer.axes], 2)
    params = drawn(layer, x)
    found, dz = one_pass(layer, params, x, Kfac(sharing))
    rows, d = patch_rows(layer, x, dz.shape[1:-1]), np.asarray(dz).reshape(2, -1, layer.features)
    # these are the rows: their product with w is the convolution
    z = rows @ np.asarray(params.w).reshape(-1, layer.features)
    z = z if params.b is None else z + params.b
    np.testing.assert_allclose(z.reshape(dz.shape), run(layer.forward, params, x)[0])
    assert found.b is None
    assert off(found.w, loops(rows, d, sharing, layer.bias)) < 1e-9


def rnn(params, z, h, extra):
    after = jnp.tanh(z + h @ params.w_h + extra)
    return after, after


def lstm(params, z, state, extra):
    h, c = state
    i, f, g, o = jnp.split(z + h @ params.w_h + extra, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru(params, z, h, extra):
    (r, u, n), (hr, hu, hn) = jnp.split(z, 3, -1), jnp.split(h @ params.w_h + extra, 3, -1)
    r, u = jax.nn.sigmoid(r + hr), jax.nn.sigmoid(u + hu)
    h = (1 - u) * jnp.tanh(n + r * (hn + params.b_n)) + u * h
    return h, h


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
@pytest.mark.parametrize(("layer", "cell"), [(fp.RNN, rnn), (fp.LSTM, lstm), (fp.GRU, gru)])
def test_recurrent(layer, cell, sharing):
    """δ by JAX: what is added to x w_x + b, or to h w_h, of each step has it for its gradient."""
    layer, x = layer(3), normal(4, 5, 2)
    params = drawn(layer, x)
    found, dy = one_pass(layer, params, x, Kfac(sharing))

    def walk(more_x, more_h):
        zero = jnp.zeros((4, 3))
        state, ys = (zero, zero) if cell is lstm else zero, []
        for t in range(5):
            z = x[:, t] @ params.w_x + params.b + more_x[:, t]
            state, y = cell(params, z, state, more_h[:, t])
            ys.append(y)
        return jnp.stack(ys, 1)

    def passes(params, x, dy):
        zero = jnp.zeros((4, 5, layer.blocks * 3))
        ys, pullback = jax.vjp(walk, zero, zero)
        return ys, *pullback(dy), layer.forward(params, x)[0]

    ys, d_x, d_h, wanted = map(np.asarray, run(passes, params, x, dy))
    np.testing.assert_allclose(ys, wanted)
    before = np.concatenate([np.zeros((4, 1, 3)), ys[:, :-1]], 1)
    assert found.b is None
    assert off(found.w_x, loops(x, d_x, sharing)) < 1e-9
    assert off(found.w_h, loops(before, d_h, sharing, bias=False)) < 1e-9
    if cell is gru:
        wanted = np.square(d_h[..., 6:].sum(1)).sum(0)
        np.testing.assert_allclose(found.b_n.f, wanted)


def test_a_table_and_positions():
    ids, d = jnp.array([[1, 3, 1], [3, 0, 1]]), 4
    model = fp.Serial(fp.Embedding(5, d), fp.LearnedPositions(6))
    params = drawn(model, ids)
    (table, positions), dy = one_pass(model, params, ids, Kfac("reduce"))
    rows = np.asarray(dy).reshape(-1, d)
    np.testing.assert_allclose(table.w.a, np.array([1, 3, 0, 2, 0]) / 6)
    np.testing.assert_allclose(table.w.g, rows.T @ rows)
    np.testing.assert_allclose(positions.w.a, np.array([2, 2, 2, 0, 0, 0]) / 6)
    np.testing.assert_allclose(positions.w.g, rows.T @ rows)


def test_gains_and_biases_have_a_diagonal():
    model, x = fp.Serial(fp.LayerNorm(), fp.Scale(), fp.Bias()), normal(4, 3, 5)
    params = drawn(model, x)
    found, dy = one_pass(model, params, x)

    def of_one(x, dy):
        return jax.vjp(lambda p: model.forward(p, x[None])[0], params)[1](dy[None])[0]

    each = run(jax.vmap(of_one), x, dy)
    wanted = [np.square(g).sum(0) for g in jax.tree.leaves(each)]
    assert [leaf.shape for leaf in jax.tree.leaves(found)] == [(5,)] * 4
    assert all(off(f, w) < 1e-9 for f, w in zip(jax.tree.leaves(found), wanted, strict=True))


# --- whole models ---------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_attention_through_its_projections(sharing):
    block = fp.SelfAttention(6, 3, causal=True, rotary=True)
    layers, x = block.layers, normal(3, 4, 6)
    params = drawn(block, x)
    found, dy = one_pass(block, params, x, Kfac(sharing))

    def walk(value, part):
        for i in part:
            value = layers[i].forward(params[i], value)[0]
        return value

    first, last = 0, len(layers) - 1

    def passes(x, dy):
        z = walk(x, [first])
        (d_first,) = jax.vjp(lambda z: walk(z, range(1, last + 1)), z)[1](dy)
        return d_first, walk(z, range(1, last))

    d_first, a_last = run(passes, x, dy)
    assert off(found[first].w, loops(x, d_first, sharing)) < 1e-9
    assert off(found[last].w, loops(a_last, dy, sharing)) < 1e-9


def test_stacked_layers_have_stacked_factors():
    block, x = fp.Skip(fp.Serial(fp.Dense(4), fp.Tanh())), normal(3, 4)
    stacked, written = fp.Repeat(block, 2), fp.Serial(block, block)
    params = drawn(stacked, x)
    apart = tuple(jax.tree.map(lambda p, i=i: p[i], params[0]) for i in range(2))
    found, _ = one_pass(stacked, params, x)
    wanted, _ = one_pass(written, apart, x)
    wanted = (jax.tree.map(lambda *parts: np.stack(parts), *wanted),)
    assert off(found, wanted) < 1e-9


def test_a_layer_over_time_is_one_with_rows():
    x = normal(3, 5, 4)
    dense, over_time = fp.Dense(2), fp.OverTime(fp.Dense(2))
    params = drawn(dense, x)
    found, _ = one_pass(over_time, (params,), x)
    wanted, _ = one_pass(dense, params, x)
    assert off(found[0].w, wanted.w) < 1e-9


def test_a_tied_weight_has_the_rows_of_all_its_uses():
    pair = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(4))
    tied, x = fp.Tied(pair, (("[0]", "[2]"),)), normal(3, 4)
    params = drawn(tied, x)
    full = (params[0][0], (), params[0][0])
    found, _ = one_pass(tied, params, x)
    (first, _, second), _ = one_pass(pair, full, x)
    wanted = Kronecker((first.w.a + second.w.a) / 2, first.w.g + second.w.g)
    assert off(found[0][0].w, wanted) < 1e-9 and found[0][2] is None


def joined(*blocks):
    """The product with the partial traces of the sum of A ⊗ G, from the sum itself."""
    a = [np.diag(np.asarray(b.a)) if b.a.ndim == 1 else np.asarray(b.a) for b in blocks]
    rows, out = len(a[0]), len(blocks[0].g)
    whole = sum(np.kron(left, np.asarray(b.g)) for left, b in zip(a, blocks, strict=True))
    whole = whole.reshape(rows, out, rows, out)
    of_rows, of_out = np.einsum("iaja->ij", whole), np.einsum("iaib->ab", whole)
    return np.kron(of_rows, of_out) / np.trace(of_rows)


def test_a_table_that_is_the_output_projection_has_the_factors_of_both_uses():
    """And as many diagonals of A: δ of every logit squared stands for δ δᵀ."""
    pair = fp.Serial(fp.Embedding(5, 4), fp.Tanh(), fp.Dense(5, bias=False))
    tied, ids = fp.Tied(pair, (("[0].w.T", "[2].w"),)), jnp.array([[1, 3, 1], [3, 0, 1]])
    params = drawn(tied, ids)
    w = params[0][0].w
    full = (params[0][0], (), fp.layers.Affine(w.T, None))
    found, _ = one_pass(tied, params, ids)
    (table, _, dense), _ = one_pass(pair, full, ids)
    turned = Kronecker(np.diag(np.diag(dense.w.g)), dense.w.a)
    block = found[0][0].w
    assert block.a.shape == (5,) and block.g.shape == (4, 4)
    given = np.kron(np.diag(block.a), block.g)
    np.testing.assert_allclose(given, joined(table.w, turned), rtol=1e-10, atol=1e-14)
    assert found[0][2].w is None


def test_a_weight_and_its_transpose_have_the_factors_of_both_uses():
    """Square, so that the rows of one could be taken for those of the other."""
    pair = fp.Serial(fp.Dense(4, bias=False), fp.Tanh(), fp.Dense(4, bias=False))
    tied, x = fp.Tied(pair, (("[0].w.T", "[2].w"),)), normal(3, 4)
    params = drawn(tied, x)
    full = (params[0][0], (), fp.layers.Affine(params[0][0].w.T, None))
    found, _ = one_pass(tied, params, x)
    (first, _, second), _ = one_pass(pair, full, x)
    block = found[0][0].w
    wanted = joined(first.w, Kronecker(second.w.g, second.w.a))
    np.testing.assert_allclose(np.kron(block.a, block.g), wanted, rtol=1e-10, atol=1e-14)


def test_a_tied_decoder_trains_by_it():
    model = fp.gpt(vocabulary=7, length=6, width=8, heads=2, depth=1)
    ids = jnp.asarray(np.random.default_rng(0).integers(7, size=(2, 6)), jnp.int32)
    params = jax.eval_shape(model.init, KEY, ids)
    gradient = with_factors(model, fp.SoftmaxCrossEntropy(), fisher="empirical")
    _, grads, factors = jax.eval_shape(gradient, params, (ids, ids))
    natural = jax.eval_shape(lambda g, f: precondition(g, inverses_of(f, 0.1)), grads, factors)
    assert jax.tree.map(jnp.shape, natural) == jax.tree.map(jnp.shape, grads)


def test_what_has_no_factors_is_named_or_skipped():
    x = normal(2, 4, 4, 2)
    for layer, words in [
        (fp.Conv(4, (2, 2), groups=2), "has groups"),
        (fp.ConvTranspose(4, (2, 2)), r"\.w \[2, 2, 2, 4\] has no Kronecker form"),
        (fp.BatchNorm(), "its examples are mixed"),
    ]:
        params = layer.init(KEY, x)
        with pytest.raises(LayerError, match=words):
            one_pass(layer, params, x)
    model = fp.Serial(
        fp.ConvTranspose(4, (2, 2)),
        fp.BatchNorm(),
        fp.Conv(4, (2, 2), groups=2),
        fp.Flatten(),
        fp.Dense(3),
    )
    rule = collect_all(gradient=gradient, factors=Kfac(others="skip"))
    params = drawn(model, x)
    collected = collect(model, rule)

    def passes(params, x):
        y, kept = collected.forward(params, x)
        found = collected.backward(params, kept, jnp.ones_like(y))[1]
        return found, model.backward(params, model.forward(params, x)[1], jnp.ones_like(y))[1]

    found, wanted = run(passes, params, x)
    factors = values(found, "factors")
    assert factors[0].w is None and factors[4].w is not None
    assert factors[1] == fp.layers.Gain(None, None) and not jax.tree.leaves(factors[2])
    assert off(values(found, "gradient"), wanted) < 1e-9
    with pytest.raises(ValueError, match="sharing is 'expand' or 'reduce'"):
        Kfac("both")  # type: ignore[arg-type]


def test_a_loss_inside_the_model():
    loss = fp.LinearCrossEntropy(5, reduction="sum")
    model = fp.Serial(fp.Parallel(fp.Dense(4), fp.Identity()), loss)
    batch = (normal(3, 2), jnp.array([0, 4, 2]))
    params = drawn(model, batch)
    with pytest.raises(LayerError, match=r"\.w \[4, 5\] has no Kronecker form"):
        fp.backprop(collect(model, kfac))(params, batch)
    rule = collect_all(gradient=gradient, factors=Kfac(others="skip"))
    _, found = run(fp.backprop(collect(model, rule)), params, batch)
    assert off(values(found, "gradient"), run(fp.backprop(model), params, batch)[1]) < 1e-9
    assert values(found, "factors")[0][0].w.a.shape == (3, 3)


# --- which Fisher ---------------------------------------------------------------------------------


def classifier(*, reduction: Any = "mean"):
    model = fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dense(3))
    x, y = normal(6, 4), jnp.array([0, 1, 2, 0, 1, 2])
    return model, fp.SoftmaxCrossEntropy(reduction=reduction), drawn(model, x), (x, y)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("fisher", ["sampled", "empirical", "exact"])
def test_the_gradient_is_that_of_backprop(fisher, reduction):
    model, loss, params, batch = classifier(reduction=reduction)
    value, grads, factors = run(with_factors(model, loss, fisher), params, batch, Context(KEY))
    wanted = run(fp.backprop(model, loss), params, batch)
    assert off((value, grads), wanted) < 1e-9
    assert records(factors)[0].path == "Serial[0] Dense"


@pytest.mark.parametrize("fisher", ["sampled", "empirical", "exact"])
def test_a_mean_has_the_mean_of_the_matrices(fisher):
    found = [
        values(run(with_factors(*problem[:2], fisher), *problem[2:], Context(KEY))[2])
        for problem in (classifier(reduction="mean"), classifier(reduction="sum"))
    ]
    for mean, total in zip(found[0][::2], found[1][::2], strict=True):
        assert off(mean.w, Kronecker(total.w.a, total.w.g / 6)) < 1e-9


def test_the_three_fishers():
    """At the last layer δ is p − y for the training target, or what its model would have drawn."""
    model, loss, params, (x, y) = classifier(reduction="sum")
    first, _, last = jax.tree.map(np.asarray, params)
    a = np.tanh(np.asarray(x) @ first.w + first.b)
    p = np.exp(a @ last.w + last.b)
    p = p / p.sum(-1, keepdims=True)
    a = np.concatenate([a, np.ones((6, 1))], 1)
    found = {
        fisher: values(run(with_factors(model, loss, fisher), params, (x, y), Context(KEY))[2])[2].w
        for fisher in ("empirical", "exact")
    }
    d = p - np.eye(3)[np.asarray(y)]
    assert off(found["empirical"], Kronecker(a.T @ a / 6, d.T @ d)) < 1e-9
    exact = np.diag(p.sum(0)) - p.T @ p
    assert off(found["exact"], Kronecker(a.T @ a / 6, exact)) < 1e-9
    sampled = with_factors(model, loss)
    draws = jax.vmap(lambda key: values(sampled(params, (x, y), Context(key))[2])[2].w)
    many = run(lambda key: draws(jax.random.split(key, 20_000)), KEY)
    mean = jax.tree.map(lambda f: np.asarray(f).mean(0), many)
    assert off(mean, found["exact"]) < 0.02


def test_deep_linear_networks_are_exact():
    """Where δ is a linear map of the output, the same for all rows, nothing is approximated: the
    blocks of the generalized Gauss-Newton matrix are A ⊗ G (Eschenhagen et al., 2023)."""
    model = fp.Serial(*(fp.Dense(n, bias=False) for n in (3, 4, 2)))
    x, loss = normal(2, 3, 4), fp.QuadraticCost(reduction="sum")
    params = drawn(model, x)
    batch = (x, normal(2, 3, 2))
    found = values(run(with_factors(model, loss, "exact"), params, batch)[2])
    for i, wanted in enumerate(params):

        def predict(w, i=i):
            return model.forward((*params[:i], fp.layers.Affine(w, None), *params[i + 1 :]), x)[0]

        jacobian = np.asarray(run(jax.jacrev(predict), wanted.w)).reshape(-1, wanted.w.size)
        block = np.kron(found[i].w.a, found[i].w.g)
        assert off(block, jacobian.T @ jacobian) < 1e-9


def test_what_with_factors_refuses():
    model, _, params, batch = classifier()
    with pytest.raises(ValueError, match="wanted 'sampled', 'empirical' or 'exact'"):
        with_factors(model, fp.SoftmaxCrossEntropy(), "mc")  # type: ignore[arg-type]
    with pytest.raises(LayerError, match="was given no key"):
        with_factors(model, fp.SoftmaxCrossEntropy())(params, batch)
    with pytest.raises(LayerError, match="no known square root"):
        with_factors(model, fp.Hinge())(params, batch, Context(KEY))


# --- the preconditioner ---------------------------------------------------------------------------


def one_update(optimizer, grads, params, factors) -> Any:
    update = jax.jit(optimizer.update)
    return update(grads, optimizer.init(params), params, factors=factors)[0]


def explicit(block, grad, damping):
    """(A + π√λ I)⁻¹ g (G + √λ/π I)⁻¹ through the Kronecker product itself."""
    block, grad = jax.tree.map(np.asarray, (block, grad))
    a = np.diag(block.a) if block.a.ndim == 1 else block.a
    pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(block.g) / len(block.g)))
    a = a + pi * damping**0.5 * np.eye(len(a))
    g = block.g + damping**0.5 / pi * np.eye(len(block.g))
    return np.linalg.solve(np.kron(a, g), grad.reshape(-1)).reshape(grad.shape)


def test_the_update_is_the_explicit_solution():
    model = fp.Serial(
        fp.Conv(3, (2, 2)),
        fp.Tanh(),
        fp.Flatten(),
        fp.Repeat(fp.Dense(12), 2),
        fp.LayerNorm(),
        fp.Dense(3, bias=False),
    )
    x, y = normal(5, 2, 2, 2), jnp.array([0, 1, 2, 0, 1])
    params = drawn(model, x)
    _, grads, factors = run(
        with_factors(model, fp.SoftmaxCrossEntropy(), "empirical"), params, (x, y)
    )
    optimizer = precondition_by_kfac(factors, damping=0.03)
    found = one_update(optimizer, grads, params, factors)
    found, grads, blocks = jax.tree.map(np.asarray, (found, grads, values(factors)))

    def with_bias(block, grad):
        grad = jax.tree.map(np.asarray, grad)
        rows = np.concatenate([grad.w.reshape(-1, grad.w.shape[-1]), grad.b[None]])
        rows = explicit(block, rows, 0.03)
        return type(grad)(rows[:-1].reshape(grad.w.shape), rows[-1])

    def take(tree, i):
        return jax.tree.map(lambda leaf: leaf[i], tree)

    assert off(found[0], with_bias(blocks[0].w, grads[0])) < 1e-9
    for i in range(2):
        wanted = with_bias(take(blocks[3][0].w, i), take(grads[3][0], i))
        assert off(take(found[3][0], i), wanted) < 1e-9
    assert off(found[4].scale, grads[4].scale / (blocks[4].scale.f + 0.03)) < 1e-9
    assert off(found[5].w, explicit(blocks[5].w, grads[5].w, 0.03)) < 1e-9


def test_recurrent_and_table_updates():
    model = fp.Serial(fp.Embedding(5, 4), fp.GRU(3), fp.LastStep(), fp.Dense(2))
    ids, y = jnp.array([[1, 3, 1], [3, 0, 1]]), jnp.array([0, 1])
    params = drawn(model, ids)
    _, grads, factors = run(
        with_factors(model, fp.SoftmaxCrossEntropy(), "empirical"), params, (ids, y)
    )
    optimizer = precondition_by_kfac(factors, damping=0.03)
    found = one_update(optimizer, grads, params, factors)
    found, grads, blocks = jax.tree.map(np.asarray, (found, grads, values(factors)))
    assert off(found[0].w, explicit(blocks[0].w, grads[0].w, 0.03)) < 1e-9
    rows = explicit(blocks[1].w_x, np.concatenate([grads[1].w_x, grads[1].b[None]]), 0.03)
    assert off(found[1].w_x, rows[:-1]) < 1e-9 and off(found[1].b, rows[-1]) < 1e-9
    assert off(found[1].w_h, explicit(blocks[1].w_h, grads[1].w_h, 0.03)) < 1e-9
    assert off(found[1].b_n, grads[1].b_n / (blocks[1].b_n.f + 0.03)) < 1e-9


def test_a_schedule_of_damping():
    model, loss, params, batch = classifier()
    gradient = jax.jit(with_factors(model, loss, "empirical"))
    _, grads, factors = gradient(params, batch)
    optimizer = precondition_by_kfac(factors, damping=lambda n: jnp.where(n == 0, 0.5, 0.05))
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for damping in (0.5, 0.05):
        found, state = update(grads, state, params, factors=factors)
        wanted = precondition(grads, inverses_of(factors, damping))
        errors = jax.tree.map(off, *jax.tree.map(np.asarray, (found, wanted)))
        assert max(jax.tree.leaves(errors)) < 1e-6


def test_running_averages_and_how_often_they_are_inverted():
    model, loss, params, (x, y) = classifier()
    gradient = jax.jit(with_factors(model, loss, "empirical"))
    steps = [gradient(params, (x + i, y)) for i in range(3)]
    optimizer = precondition_by_kfac(steps[0][2], decay=0.6, every=2)
    state: Any = optimizer.init(params)
    update, found = jax.jit(optimizer.update), []
    for _, grads, factors in steps:
        updates, state = update(grads, state, params, factors=factors)
        found.append((updates, state))
    a, b, c = (jax.tree.map(np.asarray, values(factors)) for _, _, factors in steps)
    wanted = jax.tree.map(lambda a, b, c: 0.6 * (a + b) / 2 + 0.4 * c, a, b, c)
    assert off(values(state.factors), wanted) < 1e-9
    first, second, third = (state.inverses for _, state in found)
    assert off(second, first) == 0 and off(third, first) > 1e-3
    once = jax.tree.map(lambda b: inverse(b, 1e-3), wanted, is_leaf=lambda v: hasattr(v, "a"))
    assert off(values(third), once) < 1e-9


def test_factors_and_gradients_of_another_model_are_told():
    x, y = normal(3, 4), jnp.array([0, 1, 0])
    found = {}
    for name, layer in (
        ("one", fp.Dense(2)),
        ("other", fp.Dense(5)),
        ("two", fp.Serial(fp.Dense(2))),
    ):
        gradient = with_factors(layer, fp.SoftmaxCrossEntropy(), "empirical")
        found[name] = jax.eval_shape(gradient, jax.eval_shape(layer.init, KEY, x), (x, y))[1:]
    (grads, factors), (_, other), (apart, _) = (found[name] for name in ("one", "other", "two"))
    optimizer = precondition_by_kfac(factors)
    state = jax.eval_shape(optimizer.init, grads)
    with pytest.raises(ValueError, match="wanted those that it was made for"):
        optimizer.update(grads, state, None, factors=other)
    with pytest.raises(ValueError, match="of another model"):
        precondition(apart, factors)


def test_what_is_skipped_passes_unchanged():
    model = fp.Serial(fp.ConvTranspose(2, (2, 2)), fp.Flatten(), fp.Dense(3))
    x, y = normal(3, 2, 2, 1), jnp.array([0, 1, 2])
    params = drawn(model, x)
    gradient = with_factors(model, fp.SoftmaxCrossEntropy(), "empirical", Kfac(others="skip"))
    _, grads, factors = run(gradient, params, (x, y))
    optimizer = precondition_by_kfac(factors)
    found = one_update(optimizer, grads, params, factors)
    assert off(found[0].w, grads[0].w) == 0 and off(found[2].w, grads[2].w) > 0.1
    for wrong in (
        (),
        jax.eval_shape(
            with_factors(model, fp.SoftmaxCrossEntropy(), "empirical", Ekfac(others="skip")),
            params,
            (x, y),
        )[2],
    ):
        with pytest.raises(ValueError, match="wants the factors"):
            precondition_by_kfac(wrong)


def test_in_a_chain_under_scan_in_float32():
    """It is jitted, carried by a loop, and learns: an ill-conditioned regression in few steps."""
    with jax.enable_x64(False):
        x = jax.random.normal(KEY, (64, 6)) * jnp.logspace(0, -2, 6)
        y = x @ jax.random.normal(jax.random.key(1), (6, 2)) * 10
        model, loss = fp.Serial(fp.Dense(2)), fp.QuadraticCost()
        params = model.init(KEY, x)
        gradient = with_factors(model, loss)
        factors = jax.eval_shape(gradient, params, (x, y), Context(KEY))[2]
        optimizer = optax.chain(precondition_by_kfac(factors, damping=1e-6), optax.sgd(0.5))

        def step(carry, key):
            params, state = carry
            value, grads, factors = gradient(params, (x, y), Context(key))
            updates, state = optimizer.update(grads, state, params, factors=factors)
            return (optax.apply_updates(params, updates), state), value

        keys = jax.random.split(KEY, 30)
        _, losses = jax.jit(lambda: jax.lax.scan(step, (params, optimizer.init(params)), keys))()
        assert losses[-1] < 1e-4 * losses[0]


def test_beside_other_rules():
    model, _, params, (x, _) = classifier()
    rule = collect_all(gradient=gradient, norms=squared_norms, factors=kfac)
    found, _ = one_pass(model, params, x, rule)
    alone, _ = one_pass(model, params, x)
    assert off(found[0]["factors"], alone[0]) < 1e-9
    assert off(found[0]["norms"], one_pass(model, params, x, squared_norms)[0][0]) < 1e-9


# --- EKFAC ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_ekfac_is_the_diagonal_in_the_eigenbasis(sharing):
    """Of the explicit Fisher, to which it is nearer than K-FAC is."""
    layer, x = fp.Dense(3), normal(4, 5, 2)
    params = drawn(layer, x)
    block, dz = one_pass(layer, params, x, Kfac(sharing))
    found, _ = one_pass(layer, params, x, Ekfac(sharing))
    x, dz, found, block = jax.tree.map(np.asarray, (x, dz, found, block))
    a = np.concatenate([x, np.ones((4, 5, 1))], -1)
    g = np.einsum("bni,bno->bio", a, dz).reshape(4, -1)
    fisher = g.T @ g
    basis = np.kron(found.w.u_a, found.w.u_g)
    assert off(found.w.s.reshape(-1), np.diag(basis.T @ fisher @ basis)) < 1e-9
    corrected = basis @ np.diag(found.w.s.reshape(-1)) @ basis.T
    assert off(corrected, fisher) < off(np.kron(block.w.a, block.w.g), fisher)


def test_ekfac_preconditions():
    model, loss, params, batch = classifier()
    _, grads, factors = run(with_factors(model, loss, "empirical", Ekfac()), params, batch)
    found = run(lambda g, f: precondition(g, inverses_of(f, 0.01)), grads, factors)
    given = jax.tree.map(np.asarray, (values(factors), grads, found))
    for layer, grad, wanted in zip(*given, strict=True):
        if grad:
            basis = np.kron(layer.w.u_a, layer.w.u_g)
            fisher = basis @ np.diag(layer.w.s.reshape(-1)) @ basis.T
            rows = np.concatenate([grad.w, grad.b[None]]).reshape(-1)
            rows = np.linalg.solve(fisher + 0.01 * np.eye(len(rows)), rows)
            assert off(rows, np.concatenate([wanted.w, wanted.b[None]]).reshape(-1)) < 1e-9
    with pytest.raises(ValueError, match="fisher='exact' adds up"):
        with_factors(model, loss, "exact", Ekfac())


# --- kfac-jax -------------------------------------------------------------------------------------

MODES = {"empirical": "fisher_empirical", "exact": "fisher_exact"}


def waves(*shape):
    return jnp.asarray(np.sin(1 + 1.7 * np.arange(np.prod(shape))).reshape(shape))


def mlp_problem():
    model = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(3))
    params = (fp.layers.Affine(waves(3, 4), waves(4)), (), fp.layers.Affine(waves(4, 3), waves(3)))
    return model, params, waves(3, 3)


def conv_problem():
    model = fp.Serial(fp.Conv(2, (2, 2), stride=(2, 1)), fp.Tanh(), fp.Flatten(), fp.Dense(3))
    params = (
        fp.layers.Kernel(waves(2, 2, 2, 2), waves(2)),
        (),
        (),
        fp.layers.Affine(jnp.asarray(np.asarray(waves(12, 3)) / 3), waves(3)),
    )
    return model, params, waves(3, 4, 3, 2)


PROBLEMS = {"mlp": mlp_problem, "conv": conv_problem}


def of_kfac_jax(name, mode):
    """The factors of kfac-jax itself."""
    kfac_jax = pytest.importorskip("kfac_jax", reason="kfac-jax is not installed")
    tag_graph_matcher: Any = importlib.import_module("kfac_jax._src.tag_graph_matcher")

    def eval_jaxpr_eqn(eqn, values):
        # kfac-jax 0.0.8 unpacks two values here, and jax >= 0.10 returns one
        found = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
        return found if isinstance(found, list) else [found]

    tag_graph_matcher.eval_jaxpr_eqn = eval_jaxpr_eqn
    _, params, x = PROBLEMS[name]()
    y = jnp.array([0, 2, 1])

    def cost(params, batch):
        (w1, b1), *_, (w2, b2) = params
        if name == "conv":
            layout = ("NHWC", "HWIO", "NHWC")
            z = jax.lax.conv_general_dilated(batch[0], w1, (2, 1), "SAME", dimension_numbers=layout)
        else:
            z = batch[0] @ w1
        z = jnp.tanh(z + b1).reshape(3, -1) @ w2 + b2
        kfac_jax.register_softmax_cross_entropy_loss(z, batch[1])
        return -jnp.mean(jax.nn.log_softmax(z)[jnp.arange(3), batch[1]])

    curvature = kfac_jax.BlockDiagonalCurvature(cost, default_estimation_mode=mode)
    given = {"rng": jax.random.PRNGKey(0), "func_args": (params, (x, y))}
    state = curvature.init(
        exact_powers_to_cache=-1, approx_powers_to_cache=None, cache_eigenvalues=False, **given
    )
    state = curvature.update_curvature_matrix_estimate(
        state, ema_old=0.0, ema_new=1.0, identity_weight=0.0, batch_size=3, **given
    )
    return [[factor.value for factor in block.factors] for block in state.blocks_states]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # kfac-jax's own
@pytest.mark.parametrize("source", ["recorded", "installed"])
@pytest.mark.parametrize("fisher", MODES)
@pytest.mark.parametrize("name", PROBLEMS)
def test_factors_are_those_of_kfac_jax(name, fisher, source):
    """With its conventions: G is a mean over the rows as well (a convolution's block is scaled by
    the number of its positions afterwards), and of the empirical Fisher divided by the size of the
    batch once more. The recorded factors are those of kfac-jax 0.0.8."""
    if source == "recorded":
        recorded = json.loads((Path(__file__).parent / "kfac_jax.json").read_text("utf-8"))
        wanted = recorded[f"{name} {MODES[fisher]}"]
    else:
        wanted = of_kfac_jax(name, MODES[fisher])
    model, params, x = PROBLEMS[name]()
    loss = fp.SoftmaxCrossEntropy(reduction="sum")
    _, _, factors = run(with_factors(model, loss, fisher), params, (x, jnp.array([0, 2, 1])))
    found = [record.value.w for record in records(factors) if record.value]
    again = 3 if fisher == "empirical" else 1
    found = jax.tree.map(np.asarray, found)
    for block, (a, g), rows in zip(found, wanted, (18 if name == "conv" else 3, 3), strict=True):
        rows = rows * again
        assert off(block.a, np.asarray(a)) < 1e-7
        assert off(block.g / rows, np.asarray(g)) < 1e-7
