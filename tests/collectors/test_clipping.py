"""Clipping example by example, and the private gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.collectors import (
    clipped,
    collect,
    collect_all,
    epsilon,
    gradient,
    noise_scale,
    poisson_batches,
    private_gradient,
    second_moment,
    squared_norms,
    summed,
    total,
    values,
    variance,
)
from funcprop.layer import LayerError

KEY = jax.random.key(0)
LOSS = fp.SoftmaxCrossEntropy(reduction="sum")


def net():
    return fp.Serial(fp.Conv(3, (3, 3)), fp.Tanh(), fp.Flatten(), fp.Dense(4))


def data(batch=6):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(batch, 5, 5, 2)))
    return x, jnp.asarray(random.integers(0, 4, batch), jnp.int32)


def each_gradient(model, params, batch):
    def one(example):
        return jax.grad(fp.objective(model, LOSS))(params, jax.tree.map(lambda a: a[None], example))

    return jax.lax.map(one, batch)


def norms_of(each):
    return jnp.sqrt(sum(jnp.square(g).sum(range(1, g.ndim)) for g in jax.tree.leaves(each)))


def test_clipped_gradients_equal_their_definition():
    with jax.enable_x64(True):
        model, batch = net(), data()
        params = model.init(KEY, batch[0])
        each = each_gradient(model, params, batch)
        norms = norms_of(each)
        bound = float(jnp.median(norms))
        value, given = jax.jit(clipped(model, LOSS, bound))(params, batch)
        factors = jnp.minimum(1, bound / norms)
        assert 0 < int((factors < 1).sum()) < 6
        wanted = jax.tree.map(lambda g: jnp.tensordot(factors, g, 1), each)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(value, fp.objective(model, LOSS)(params, batch))


def test_clipping_a_language_model_with_tied_scanned_layers():
    with jax.enable_x64(True):
        model = summed(fp.models.gpt_objective(fp.gpt(11, 6, 8, 2, 2)))
        ids = jnp.asarray(np.random.default_rng(0).integers(0, 11, (2, 4, 6)), jnp.int32)
        params = model.init(KEY, (ids[0], ids[1]))
        params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)

        def one(example):
            batch = tuple(part[None] for part in example)
            return jax.grad(fp.objective(model))(params, batch)

        each = jax.jit(lambda ids: jax.lax.map(one, (ids[0], ids[1])))(ids)
        norms = norms_of(each)
        factors = jnp.minimum(1, 2.0 / norms)
        _, given = jax.jit(clipped(model, None, 2.0))(params, (ids[0], ids[1]))
        wanted = jax.tree.map(lambda g: jnp.tensordot(factors, g, 1), each)
        assert jax.tree.structure(given) == jax.tree.structure(wanted)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_a_padded_example_counts_for_nothing():
    model, (x, target) = net(), data()
    x = x.astype(jnp.float32)
    params = model.init(KEY, x)
    mask = jnp.array([True] * 4 + [False] * 2)
    _, given = clipped(model, LOSS, 0.5)(params, (x, target, mask))
    _, wanted = clipped(model, LOSS, 0.5)(params, (x[:4], target[:4]))
    for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_the_noise_is_what_it_is_said_to_be():
    model, (x, target) = net(), data()
    x = x.astype(jnp.float32)
    params = model.init(KEY, x)
    quiet = private_gradient(model, LOSS, 0.5, 0.0, batch_size=6)
    noisy = jax.jit(private_gradient(model, LOSS, 0.5, 2.0, batch_size=6))
    _, base = quiet(params, (x, target), fp.Context(KEY))
    _, summed_up = clipped(model, LOSS, 0.5)(params, (x, target))
    np.testing.assert_allclose(base[0].w, summed_up[0].w / 6, rtol=1e-5)
    draws = []
    for seed in range(200):
        _, given = noisy(params, (x, target), fp.Context(jax.random.key(seed)))
        flat = [jnp.ravel(a - b) for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(base),
                                                 strict=True)]  # fmt: skip
        draws.append(jnp.concatenate(flat))
    draws = np.stack(draws)
    np.testing.assert_allclose(draws.std(), 2.0 * 0.5 / 6, rtol=0.02)
    assert abs(draws.mean()) < 0.002
    again = noisy(params, (x, target), fp.Context(jax.random.key(7)))[1]
    other = noisy(params, (x, target), fp.Context(jax.random.key(7)))[1]
    np.testing.assert_array_equal(again[0].w, other[0].w)


def test_a_batch_in_parts_is_private_to_the_same_number():
    model = fp.Serial(fp.Dense(6), fp.Tanh(), fp.Dense(3))
    x, target = jax.random.normal(KEY, (12, 4)), jnp.arange(12) % 3
    params, context = model.init(KEY, x), fp.Context(key=jax.random.key(5))
    mask = jnp.array([True, True, False] * 3 + [False] * 3)  # a Poisson sample; one part is empty

    def close(first, second):
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)

    whole = jax.jit(private_gradient(model, LOSS, 0.1, 1.5, batch_size=7.5))
    parted = jax.jit(private_gradient(model, LOSS, 0.1, 1.5, batch_size=7.5, parts=4))
    close(parted(params, (x, target), context), whole(params, (x, target), context))
    found = parted(params, (x, target, mask), context)
    close(found, whole(params, (x, target, mask), context))
    close(parted(params, (x, target), fp.Context(context.key, mask)), found)
    five = private_gradient(model, LOSS, 0.1, 0.0, batch_size=1, parts=5)
    with pytest.raises(ValueError, match="5 equal parts: make it of 15 examples"):
        five(params, (x, target, mask), context)
    with pytest.raises(ValueError, match="parts is 0"):
        private_gradient(model, LOSS, 0.1, 0.0, 6, parts=0)


def test_parts_take_the_memory_of_one():
    model = fp.Serial(fp.Dense(64), fp.Tanh(), fp.Dense(64), fp.Tanh(), fp.Dense(3))
    x, target = jax.ShapeDtypeStruct((1024, 4), "float32"), jax.ShapeDtypeStruct((1024,), "int32")
    params = jax.eval_shape(model.init, KEY, x)

    def memory(parts):
        gradient = jax.jit(private_gradient(model, LOSS, 1.0, 1.0, 1024, parts=parts))
        lowered = gradient.lower(params, (x, target), fp.Context(KEY))
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert memory(16) < memory(1) / 5


def test_private_gradients_are_not_averaged_and_hide_their_value():
    model, x = fp.Dense(3), jax.random.normal(KEY, (6, 4))
    batch = x, jnp.arange(6) % 3
    private = private_gradient(model, LOSS, 0.5, 1.0, batch_size=6)
    for form in (private, jax.jit(private), fp.clip_by_norm(private, 1.0)):
        with pytest.raises(ValueError, match=r"private_gradient\(.*parts=n\)"):
            fp.accumulate(form, 2)

    def hidden(params, batch, context):
        return private(params, batch, context)

    state = fp.init_state(model, optax.sgd(0.1), KEY, x)
    with pytest.raises(ValueError, match=r"private_gradient\(.*parts=n\)"):
        fp.accumulate(hidden, 2)(state.params, batch, fp.Context(KEY))
    plateau = optax.contrib.reduce_on_plateau()
    state = fp.init_state(model, plateau, KEY, x)
    with pytest.raises(ValueError, match=r"no noise hides the examples.*optax.adam"):
        fp.train_step(fp.clip_by_norm(private, 1.0), plateau)(state, batch)


def test_wrong_arguments():
    with pytest.raises(LayerError, match="takes a mean"):
        clipped(net(), fp.SoftmaxCrossEntropy(), 1.0)
    with pytest.raises(ValueError, match="max_norm is 0"):
        clipped(net(), LOSS, 0)
    with pytest.raises(ValueError, match="noise_multiplier is -1"):
        private_gradient(net(), LOSS, 1.0, -1, 6)
    with pytest.raises(ValueError, match="no key"):
        model, (x, target) = net(), data()
        x = x.astype(jnp.float32)
        private_gradient(model, LOSS, 1.0, 1.0, 6)(model.init(KEY, x), (x, target))
    with pytest.raises(ValueError, match="a batch has room for 3"):
        next(poisson_batches(0, 100, 0.5, 3, 1))


def test_poisson_batches():
    sizes = []
    for chosen, counts in poisson_batches(1, 1000, 0.05, 100, 200):
        assert chosen.shape == counts.shape == (100,)
        sizes.append(counts.sum())
        assert len(set(chosen[counts])) == counts.sum()
    assert abs(np.mean(sizes) - 50) < 2 and 5 < np.std(sizes) < 9


def test_the_accountant():
    pytest.importorskip("dp_accounting")
    # Abadi et al. (2016), section 3.2: q = 0.01, σ = 4, T = 10000, δ = 1e-5 cost ε = 1.26 under the
    # moments accountant; privacy loss distributions are tighter
    assert 0.9 < epsilon(4.0, 0.01, 10000, 1e-5) < 1.26


def test_moments():
    with jax.enable_x64(True):
        model, batch = net(), data(40)
        params = model.init(KEY, batch[0])
        rules = collect_all(gradient=gradient, moment=second_moment, norms=squared_norms)
        _, found = jax.jit(fp.backprop(collect(model, rules), LOSS))(params, batch)
        each = each_gradient(model, params, batch)
        given = variance(values(found, "gradient"), values(found, "moment"), 40)
        for a, b in zip(jax.tree.leaves(given), jax.tree.leaves(each), strict=True):
            np.testing.assert_allclose(a, b.var(0), rtol=1e-9, atol=1e-12)
        scale = noise_scale(values(found, "gradient"), total(found, "norms"))
        flat = jnp.concatenate([g.reshape(40, -1) for g in jax.tree.leaves(each)], 1)
        spread = flat.var(0, ddof=1).sum()
        signal = jnp.square(flat.mean(0)).sum() - spread / 40
        np.testing.assert_allclose(scale, spread / signal, rtol=1e-9)
    with pytest.raises(ValueError, match="two examples or more"):
        noise_scale((), jnp.ones(1))


def test_rewired_and_frozen_layers_are_clipped_and_trained_privately():
    model = fp.Serial(
        fp.rewire(fp.Serial(fp.Dense(4), fp.Tanh()), {fp.Dense: fp.rewiring.frozen()}),
        fp.rewire(
            fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dense(4)),
            {fp.Dense: fp.rewiring.feedback_alignment()},
        ),
    )
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(6, 3)), jnp.float32)
    batch = x, jnp.arange(6) % 4
    params = model.init(KEY, x)

    def one(example):
        return fp.backprop(model, LOSS)(params, jax.tree.map(lambda a: a[None], example))[1]

    each = jax.vmap(one)(batch)
    factors = jnp.minimum(1, 0.5 / norms_of(each))
    _, given = clipped(model, LOSS, 0.5)(params, batch)
    wanted = jnp.tensordot(factors, each[1][0].params.w, 1)
    np.testing.assert_allclose(given[1][0].params.w, wanted, rtol=1e-4, atol=1e-6)
    optimizer = optax.sgd(0.1)
    gradient = private_gradient(model, LOSS, 0.5, 0.0, 6)
    state = fp.init_state(model, optimizer, KEY, x, params)
    new, _ = fp.train_step(gradient, optimizer)(state, batch)
    np.testing.assert_array_equal(new.params[0][0].params.w, params[0][0].params.w)
    assert not np.array_equal(new.params[1][0].params.w, params[1][0].params.w)


def test_records_of_direct_feedback():
    model = fp.rewire(
        fp.Serial(fp.Dense(5), fp.Tanh(), fp.Dense(4)),
        {fp.Serial: fp.rewiring.direct_feedback_alignment()},
    )
    x = jnp.ones((6, 3))
    params = model.init(KEY, x)
    found = fp.backprop(collect(model, squared_norms), LOSS)(params, (x, jnp.arange(6) % 4))[1]
    assert total(found).shape == (6,)


def test_norms_that_cancel_do_not_spoil_the_sum():
    model = fp.Tied(
        fp.Serial(
            fp.Branch(
                fp.Dense(6, bias=False),
                fp.Serial(fp.Dense(6, bias=False), fp.Lambda(negative)),
                combine="sum",
            )
        ),
        (("[0][0].w", "[0][1][0].w"),),
    )
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 4)), jnp.float32)
    params = model.init(KEY, x)
    loss = fp.QuadraticCost(reduction="sum")
    _, given = clipped(model, loss, 1.0)(params, (x, jnp.ones((5, 6))))
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(given))


negative = fp.Elementwise(lambda z: -z, lambda z: -jnp.ones_like(z))


def test_feedback_that_learns_has_no_single_examples():
    model = fp.rewire(fp.Serial(fp.Dense(4)), {fp.Dense: fp.rewiring.kolen_pollack()})
    with pytest.raises(LayerError, match="has feedback that learns"):
        clipped(model, LOSS, 1.0)


@pytest.mark.parametrize(
    "mixing", [fp.rewiring.noisy_cotangent(0.1), fp.rewiring.clip_cotangent(max_norm=1.0)]
)
def test_a_backward_that_mixes_the_examples_is_refused(mixing):
    """Clipped gradients would add up to more than their bound allows."""
    for rewired in (mixing(fp.Dense(4)), fp.rewiring.frozen()(mixing(fp.Serial(fp.Dense(4))))):
        model = fp.Serial(fp.Dense(4), fp.Skip(rewired), fp.Dense(4))
        words = r"Serial\[1\] Skip\[0\].*depends on the others"
        with pytest.raises(LayerError, match=words):
            clipped(model, LOSS, 1.0)
        with pytest.raises(LayerError, match=words):
            collect(model, squared_norms)
    collect(fp.rewiring.clip_cotangent(max_abs=1.0)(fp.Dense(4)), squared_norms)


def test_poisson_batches_go_on_where_they_were_left():
    every = list(fp.collectors.poisson_batches(3, 50, rate=0.2, size=30, steps=5))
    rest = list(fp.collectors.poisson_batches(3, 50, rate=0.2, size=30, steps=5, start=2))
    assert len(rest) == 3
    for (a, m), (b, n) in zip(every[2:], rest, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(m, n)
    with pytest.raises(ValueError, match="start is 6"):
        next(fp.collectors.poisson_batches(3, 50, rate=0.2, size=30, steps=5, start=6))


def test_phases_of_a_run_compose():
    pytest.importorskip("dp_accounting")
    whole = fp.collectors.epsilon(2.0, 0.1, 20, 1e-5)
    assert fp.collectors.epsilon([2.0, 2.0], 0.1, [5, 15], 1e-5) == pytest.approx(whole, rel=1e-3)
    less = fp.collectors.epsilon([2.0, 4.0], [0.1, 0.05], 10, 1e-5)
    assert fp.collectors.epsilon(2.0, 0.1, 10, 1e-5) < less < whole
    for wrong in (
        dict(noise_multiplier=[1.0, 2.0], steps=[1, 2, 3]),
        dict(noise_multiplier=-1.0),
        dict(rate=1.5),
        dict(steps=0),
        dict(delta=0.0),
    ):
        given = dict(noise_multiplier=1.0, rate=0.1, steps=10, delta=1e-5) | wrong
        with pytest.raises(ValueError, match="wanted"):
            fp.collectors.epsilon(**given)


def test_hidden_examples_add_nothing_whatever_they_hold():
    model, loss = fp.Serial(fp.Dense(3), fp.Tanh(), fp.Dense(2)), fp.QuadraticCost(reduction="sum")
    x, y = np.ones((4, 3), np.float32), np.zeros((4, 2), np.float32)
    params = model.init(jax.random.key(0), x)
    gradient = jax.jit(fp.private_gradient(model, loss, 1.0, 0.0, batch_size=4))
    mask = jnp.array([True, False, True, True])
    context = fp.Context(jax.random.key(0), mask)
    wanted = gradient(params, (x, y), context)
    for hidden in (np.nan, np.inf, 1e30):
        x[1] = hidden
        for a, b in zip(
            jax.tree.leaves(gradient(params, (x, y), context)), jax.tree.leaves(wanted), strict=True
        ):
            np.testing.assert_array_equal(a, b)
