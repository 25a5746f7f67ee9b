"""Steps, epochs and combinators: pure functions over an immutable state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp

KEY = jax.random.key(0)
MODEL = fp.Serial(fp.Dense(8), fp.Sigmoid(), fp.Dense(3))
LOSS = fp.SoftmaxCrossEntropy()
X = jax.random.normal(KEY, (30, 4))
Y = jnp.argmax(X[:, :3], -1)
DATA = (X, Y)
SGD = optax.sgd(0.5)


def start(optimizer=SGD):
    return fp.init_state(MODEL, optimizer, KEY, X[:1])


def close(first, second, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-6)


@pytest.mark.parametrize("optimizer", [SGD, optax.adam(1e-2), optax.adamw(1e-2)])
def test_a_step_takes_a_manual_or_an_automatic_gradient(optimizer):
    manual = fp.train_step(fp.backprop(MODEL, LOSS), optimizer)
    automatic = fp.train_step(jax.value_and_grad(fp.objective(MODEL, LOSS)), optimizer)
    state = start(optimizer)
    close(jax.jit(manual)(state, DATA), jax.jit(automatic)(state, DATA))


def test_the_state_is_never_changed():
    state = start()
    before = jax.tree.map(lambda leaf: leaf.copy(), state.params)
    fp.epoch(fp.train_step(fp.backprop(MODEL, LOSS), SGD), 10)(state, DATA)
    close(before, state.params, 0)


def test_an_epoch_is_its_steps():
    step = fp.train_step(fp.backprop(MODEL, LOSS), SGD)
    state, metrics = fp.epoch(step, 8, shuffle=False)(start(), DATA)
    by_hand, losses = start(), []
    for begin in (0, 8, 16, 24):
        by_hand, m = step(by_hand, (X[begin : begin + 8], Y[begin : begin + 8]))
        losses.append(m.loss)
    close((state, metrics.loss), (by_hand, jnp.stack(losses)))
    assert state.step == 4
    dropped, metrics = fp.epoch(step, 8, shuffle=False, drop_last=True)(start(), DATA)
    assert dropped.step == 3 and metrics.loss.shape == (3,)


def test_every_epoch_sees_every_example_once_in_a_new_order():
    def step(state, batch):
        return state._replace(step=state.step + 1), batch

    run = fp.epoch(step, 7)
    state, first = run(start(), jnp.arange(28))
    _, second = run(state, jnp.arange(28))
    assert sorted(first.ravel().tolist()) == list(range(28))
    assert first.ravel().tolist() != second.ravel().tolist()


def test_runs_repeat_to_the_bit():
    for gradient in (fp.backprop(MODEL, LOSS), jax.value_and_grad(fp.objective(MODEL, LOSS))):
        run = fp.epoch(fp.train_step(gradient, SGD), 10)
        assert np.array_equal(run(start(), DATA)[1].loss, run(start(), DATA)[1].loss)


def test_one_compilation_serves_all_epochs():
    traces = []

    def gradient(params, batch, context):
        traces.append(1)
        return fp.backprop(MODEL, LOSS)(params, batch, context)

    run = fp.epoch(fp.train_step(gradient, SGD), 10)
    state = start()
    for _ in range(3):
        state, _ = run(state, DATA)
    assert len(traces) == 1


@pytest.mark.parametrize("parts", [1, 3, 10])
def test_accumulation_is_the_gradient_of_the_whole_batch(parts):
    gradient = fp.backprop(MODEL, LOSS)
    params = start().params
    close(fp.accumulate(gradient, parts)(params, DATA), gradient(params, DATA))
    with_aux = fp.accumulate(fp.backprop(MODEL, LOSS, has_aux=True), parts)(params, DATA)
    close(with_aux[1], gradient(params, DATA)[1])


def test_accumulation_refuses_what_it_cannot_average():
    gradient = fp.accumulate(fp.backprop(MODEL, LOSS), 4)
    with pytest.raises(ValueError, match="does not divide into 4"):
        gradient(start().params, DATA)
    with pytest.raises(ValueError, match="masked"):
        gradient(start().params, (*DATA, jnp.ones(30, bool)))
    with pytest.raises(ValueError, match="parts"):
        fp.accumulate(gradient, 0)


def test_clipping_bounds_the_norm():
    gradient = fp.backprop(MODEL, LOSS)
    params = start().params
    _, grads = gradient(params, DATA)
    norm = optax.tree.norm(grads)
    _, clipped = fp.clip_by_norm(gradient, float(norm) / 2)(params, DATA)
    close(clipped, jax.tree.map(lambda g: g / 2, grads))
    close(fp.clip_by_norm(gradient, float(norm) * 2)(params, DATA)[1], grads)
    with pytest.raises(ValueError, match="positive"):
        fp.clip_by_norm(gradient, 0.0)


def test_an_ensemble_trains_its_members_at_once():
    run = fp.epoch(fp.train_step(fp.backprop(MODEL, LOSS), SGD), 10)
    keys = jax.random.split(KEY, 3)
    states = jax.vmap(lambda key: fp.init_state(MODEL, SGD, key, X[:1]))(keys)
    together, _ = fp.ensemble(run)(states, DATA)
    alone, _ = run(fp.init_state(MODEL, SGD, keys[1], X[:1]), DATA)
    close(jax.tree.map(lambda leaf: leaf[1], together.params), alone.params, 1e-4)


def test_masked_batches():
    mask = jnp.arange(30) < 10
    step = fp.train_step(fp.backprop(MODEL, LOSS), SGD)
    part, _ = step(start(), jax.tree.map(lambda v: v[:10], DATA))
    close(step(start(), (*DATA, mask))[0].params, part.params)


def test_evaluation_counts_every_example():
    params = start().params
    prediction, _ = MODEL.forward(params, X)
    right = float((prediction.argmax(-1) == Y).mean())
    whole = fp.evaluate(MODEL, params, DATA, LOSS)
    parts = fp.evaluate(MODEL, params, DATA, LOSS, batch_size=7)
    assert whole.accuracy == parts.accuracy == pytest.approx(right)
    assert whole.loss == pytest.approx(parts.loss, rel=1e-5)
    assert fp.evaluate(MODEL, params, (X, jax.nn.one_hot(Y, 3))).accuracy == whole.accuracy
    assert fp.evaluate(MODEL, params, (X, X[:, 0])).accuracy is None
    regression = jnp.zeros((len(X), 3)).at[:, 1].set(0.5)
    assert fp.evaluate(MODEL, params, (X, regression), batch_size=7).accuracy is None
    summed = fp.evaluate(MODEL, params, DATA, fp.SoftmaxCrossEntropy(reduction="sum"), 7)
    assert summed.loss == pytest.approx(whole.loss, rel=1e-5)
    ignoring = fp.SoftmaxCrossEntropy(ignore_index=0)
    mean, _ = ignoring.forward((), (prediction, Y))
    assert fp.evaluate(MODEL, params, DATA, ignoring, 7).loss == pytest.approx(
        float(mean), rel=1e-5
    )


def test_parameters_without_gradients_stay():
    def gradient(params, batch, context):
        value, grads = fp.backprop(MODEL, LOSS)(params, batch, context)
        return value, (None, *grads[1:])

    state = start()
    optimizer = optax.adam(0.1)
    state = state._replace(opt_state=optimizer.init((None, *state.params[1:])))
    new, _ = fp.train_step(gradient, optimizer)(state, DATA)
    close(new.params[0], state.params[0], 0)
    assert not np.allclose(new.params[2].w, state.params[2].w)


def test_bad_input():
    step = fp.train_step(fp.backprop(MODEL, LOSS), SGD)
    with pytest.raises(ValueError, match="30 examples only"):
        fp.epoch(step, 31)(start(), DATA)
    with pytest.raises(ValueError, match="of one length"):
        fp.epoch(step, 5)(start(), (X, Y[:5]))
    with pytest.raises(ValueError, match="not empty"):
        fp.evaluate(MODEL, start().params, (X[:0], Y[:0]))
    with pytest.raises(ValueError, match="batch_size"):
        fp.epoch(step, 0)
    with pytest.raises(ValueError, match="momentum"):
        fp.train_step(fp.backprop(MODEL, LOSS), SGD, statistics_momentum=1.5)
    with pytest.raises(TypeError, match="wanted a gradient function"):
        fp.train_step(SGD, SGD)  # type: ignore[arg-type]
    wrong = fp.train_step(lambda p, b, c: (jnp.float32(0), jax.tree.map(jnp.sum, p)), SGD)
    with pytest.raises(ValueError, match=r"gradient of params\[0\].w"):
        wrong(start(), DATA)
    with pytest.raises(ValueError, match="returns gradients"):
        fp.train_step(lambda p, b, c: (jnp.float32(0), (1, 2)), SGD)(start(), DATA)


def test_clipping_holds_where_squares_overflow():
    clip = fp.clip_by_norm(lambda params, grads, context: (jnp.float32(0), grads), 1.0)
    for dtype, large in (("float16", 300.0), ("float32", 1e20)):
        _, clipped = clip({}, {"w": jnp.array([large, 1.0], dtype)})
        np.testing.assert_allclose(clipped["w"], [1.0, 1 / large], rtol=2e-3)
    _, clipped = clip({}, {"w": jnp.array([jnp.inf, 1.0])})
    assert jnp.isnan(clipped["w"]).all()


def test_micro_batches_add_in_float32():
    model = fp.Dense(3)
    params, x = jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16), (model.init(KEY, X[:10]), X[:10])
    )
    batch = (jnp.tile(x, (50, 1)), jnp.tile(Y[:10], 50))
    whole = fp.backprop(model, LOSS)(params, batch)[1].b
    parts = fp.accumulate(fp.backprop(model, LOSS), 250)(params, batch)[1].b
    np.testing.assert_allclose(parts.astype(jnp.float32), whole.astype(jnp.float32), atol=2e-3)


def test_predictions_that_are_not_numbers_are_not_right():
    lost = fp.evaluate(fp.Identity(), (), (jnp.full((6, 3), jnp.nan), jnp.zeros(6, jnp.int32)))
    assert lost.accuracy == 0


def test_a_loss_over_batches_is_the_loss_of_all_with_weights_of_classes():
    loss = fp.SoftmaxCrossEntropy(weight=(0.5, 2.0, 1.0), ignore_index=2)
    target = jnp.array([0, 1, 2, 1, 0, 1, 0, 0, 1, 2], jnp.int32)
    prediction = jax.random.normal(jax.random.key(5), (10, 3))
    found = fp.evaluate(fp.Identity(), (), (prediction, target), loss, batch_size=3)
    assert abs(found.loss - float(loss.forward((), (prediction, target))[0])) < 1e-6
    weighted = fp.backprop(MODEL, fp.SoftmaxCrossEntropy(weight=(0.5, 2.0, 1.0)))
    with pytest.raises(ValueError, match=r"classes: give the loss reduction='sum'"):
        fp.accumulate(weighted, 2)


def test_accumulation_refuses_what_is_neither_mean_nor_sum():
    ignoring = fp.SoftmaxCrossEntropy(ignore_index=0)
    for gradient in (
        fp.backprop(MODEL, ignoring),
        jax.jit(jax.value_and_grad(fp.objective(MODEL, ignoring))),
        fp.backprop(fp.Serial(fp.Parallel(MODEL, fp.Identity()), ignoring)),
    ):
        with pytest.raises(ValueError, match=r"not ignored: give the loss reduction='sum'"):
            fp.accumulate(gradient, 2)
    clipped = jax.jit(fp.clip_by_norm(fp.backprop(MODEL, LOSS), 0.1))
    with pytest.raises(ValueError, match=r"clip_by_norm\(accumulate\(gradient, parts\), max_norm"):
        fp.accumulate(clipped, 2)
    factors = fp.collectors.with_factors(MODEL, fp.SoftmaxCrossEntropy(reduction="sum"))
    with pytest.raises(ValueError, match=r"factors do not add up: .* reduction='mean'"):
        fp.accumulate(factors, 2)
    with pytest.raises(ValueError, match="this is a mean beside Ekfac"):
        fp.accumulate(fp.collectors.with_factors(MODEL, LOSS, rule=fp.collectors.ekfac), 2)


def test_sums_are_added_masks_and_ignored_targets_too():
    params, mask = start().params, jnp.arange(30) % 3 > 0
    for loss in (
        fp.SoftmaxCrossEntropy(reduction="sum"),
        fp.SoftmaxCrossEntropy(reduction="sum", ignore_index=0),
    ):
        gradient = fp.backprop(MODEL, loss, has_aux=True)
        (value, _), grads = jax.jit(fp.accumulate(gradient, 3))(params, (*DATA, mask))
        (wanted, _), whole = jax.jit(gradient)(params, (*DATA, mask))
        close((value, grads), (wanted, whole))
    context = fp.Context(mask=mask)
    clipped = jax.jit(fp.collectors.clipped(MODEL, fp.SoftmaxCrossEntropy(reduction="sum"), 0.1))
    close(fp.accumulate(clipped, 3)(params, DATA, context), clipped(params, DATA, context))


def test_factors_are_averaged_over_the_parts():
    gradient = fp.collectors.with_factors(MODEL, LOSS, "empirical")
    both = jax.jit(fp.clip_by_norm(fp.accumulate(gradient, 3), 1e3))
    params = start().params
    found = both(params, DATA)
    close(found, jax.jit(gradient)(params, DATA), 1e-4)
    optimizer = fp.collectors.precondition_by_kfac(found[2], damping=0.1)
    state = jax.eval_shape(fp.train_step(both, optimizer), start(optimizer), DATA)[0]
    assert jax.tree.map(jnp.shape, state.params) == jax.tree.map(jnp.shape, params)


def test_a_state_of_update_step_is_told_apart():
    model, optimizer, x = fp.Dense(1), optax.adam(0.1), jnp.ones((2, 3))
    state = fp.init_update_state(model, optimizer, KEY, x)
    step = fp.train_step(fp.backprop(model, fp.MeanSquaredError()), optimizer)
    with pytest.raises(ValueError, match=r"\(update_step holds one.*start from init_state"):
        step(state, (x, jnp.ones((2, 1))))
