"""What optimizers of optax are given beside the gradient, and the average of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import funcprop as fp
from funcprop.collectors import precondition_by_kfac, with_factors

KEY = jax.random.key(0)
MODEL, LOSS = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(3)), fp.SoftmaxCrossEntropy()
X = jax.random.normal(KEY, (12, 4))
DATA = X, jnp.argmax(X[:, :3], -1)


def close(first, second, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=1e-6)


def by_optax(gradient, optimizer, steps, **others):
    """The parameters as one would train them without `train_step`."""
    params = fp.init_state(MODEL, optax.identity(), KEY, X).params
    state, goal = optimizer.init(params), fp.objective(MODEL, LOSS)

    @jax.jit
    def step(params, state):
        value, grads, *more = gradient(params, DATA)
        names = dict(zip(("factors",), more, strict=False))
        updates, state = optimizer.update(
            grads, state, params, value=value, grad=grads,
            value_fn=lambda p, **_: goal(p, DATA), **names,
        )  # fmt: skip
        return optax.apply_updates(params, updates), state

    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            params, state = step(params, state)
    return params


PLATEAU = optax.chain(
    optax.sgd(0.5), optax.contrib.reduce_on_plateau(rtol=0.2, patience=1, accumulation_size=1)
)
SEARCH = optax.scale_by_backtracking_linesearch(4, store_grad=True)
LBFGS = optax.lbfgs(memory_size=1, linesearch=SEARCH)


@pytest.mark.parametrize("optimizer", [PLATEAU, LBFGS], ids=["plateau", "lbfgs"])
def test_a_step_gives_optax_the_value_and_the_function(optimizer):
    state = fp.init_state(MODEL, optimizer, KEY, X)
    step = fp.train_step(fp.backprop(MODEL, LOSS, has_aux=True), optimizer)
    state, _ = jax.jit(lambda state: jax.lax.scan(step, state, repeated(DATA, 3)))(state)
    gradient = jax.value_and_grad(fp.objective(MODEL, LOSS))
    close(state.params, by_optax(gradient, optimizer, 3))


def repeated(batch, times):
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * times), batch)


def test_the_value_function_has_the_derivatives_of_the_gradient():
    goal, found = fp.objective(MODEL, LOSS), {}

    def update(grads, state, params, *, value_fn, obj_fn, grad_fn, value, grad):
        found["value"], slope = jax.linearize(value_fn, params)
        found["slope"] = slope(grad)
        found["grads"] = jax.grad(value_fn)(params), grad_fn(params, 0), grad
        found["curved"] = jax.jvp(jax.grad(obj_fn), (params,), (grad,))[1]
        return grads, found | {"given": value}

    asking = optax.GradientTransformationExtraArgs(lambda params: (), update)
    state = fp.init_state(MODEL, optax.identity(), KEY, X)
    step = jax.jit(fp.train_step(fp.backprop(MODEL, LOSS), asking))
    found = step(state, DATA)[0].opt_state
    value, grads = jax.value_and_grad(goal)(state.params, DATA)
    close((found["value"], found["given"]), (value, value))
    for each in found["grads"]:
        close(each, grads)
    close(found["slope"], optax.tree.norm(grads) ** 2)
    close(found["curved"], fp.hessian_vector(MODEL, LOSS, state.params, DATA, grads), 1e-4)


def test_frozen_parameters_are_there_for_the_value_function():
    model = fp.Serial(fp.rewire(fp.Dense(4), {fp.Dense: fp.rewiring.frozen()}), fp.Dense(3))
    optimizer = optax.chain(optax.sgd(1.0), SEARCH)
    state = fp.init_state(model, optimizer, KEY, X)
    new, metrics = jax.jit(fp.train_step(fp.backprop(model, LOSS), optimizer))(state, DATA)
    close(new.params[0], state.params[0], 0)
    assert fp.objective(model, LOSS)(new.params, DATA) < metrics.loss


def test_kfac_trains_by_a_step_through_an_epoch_and_a_checkpoint(tmp_path):
    gradient = with_factors(MODEL, LOSS, "empirical")
    params = fp.init_state(MODEL, optax.identity(), KEY, X).params
    factors = jax.eval_shape(gradient, params, DATA)[2]
    optimizer = optax.chain(precondition_by_kfac(factors, damping=0.1, every=2), optax.sgd(0.5))
    start = fp.init_state(MODEL, optimizer, KEY, X)
    run = fp.epoch(fp.train_step(gradient, optimizer), 12, shuffle=False)
    once, _ = run(start, DATA)

    def plain(state):
        return state._replace(key=jax.random.key_data(state.key))

    fp.save_checkpoint(tmp_path / "state", plain(once))
    again, _ = fp.load_checkpoint(tmp_path / "state", plain(start))
    twice, _ = run(again._replace(key=once.key), DATA)
    close(twice.params, by_optax(gradient, optimizer, 2))


def test_results_without_a_name_are_refused():
    def gradient(params, batch, context):
        return *fp.backprop(MODEL, LOSS)(params, batch, context), jnp.zeros(3)

    state = fp.init_state(MODEL, optax.sgd(0.1), KEY, X)
    with pytest.raises(ValueError, match=r"3 results.*gradient.extra = \('factors',\)"):
        fp.train_step(gradient, optax.sgd(0.1))(state, DATA)
    gradient.extra = ("found",)
    fp.train_step(gradient, optax.sgd(0.1))(state, DATA)
    with pytest.raises(ValueError, match=r"returned .*wanted value, grads"):
        fp.train_step(fp.objective(MODEL, LOSS), optax.sgd(0.1))(state, DATA)
    with pytest.raises(ValueError, match=r"train_step\(with_factors"):
        factors = jax.eval_shape(with_factors(MODEL, LOSS, "empirical"), state.params, DATA)[2]
        kfac = precondition_by_kfac(factors)
        state = fp.init_state(MODEL, kfac, KEY, X)
        fp.train_step(fp.backprop(MODEL, LOSS), kfac)(state, DATA)


def test_an_update_in_the_pass_refuses_what_it_cannot_give():
    for optimizer in (PLATEAU, LBFGS, optax.contrib.sophia(0.1)):
        with pytest.raises(ValueError, match="wants more than gradients"):
            fp.update_step(MODEL, LOSS, optimizer)
    with pytest.raises(ValueError, match=r"train_step\(backprop.*with_ema"):
        fp.update_step(MODEL, LOSS, optax.chain(fp.with_ema(optax.sgd(0.1), 0.9)))


def test_the_average_is_the_weighted_mean_of_the_steps():
    optimizer = optax.chain(fp.with_ema(optax.adam(0.1), 0.7))
    step = jax.jit(fp.train_step(fp.backprop(MODEL, LOSS), optimizer), donate_argnums=0)
    alone = jax.jit(fp.train_step(fp.backprop(MODEL, LOSS), optax.adam(0.1)))
    other = fp.init_state(MODEL, optax.adam(0.1), KEY, X)
    state, seen = fp.init_state(MODEL, optimizer, KEY, X), []
    close(fp.ema_params(state), state.params, 0)
    for _ in range(3):
        state, other = step(state, DATA)[0], alone(other, DATA)[0]
        seen.append(other.params)
        weights = np.array([0.7**i for i in range(len(seen))][::-1])
        mean = jax.tree.map(lambda *p: np.average(p, 0, weights).astype("f"), *seen)  # noqa: B023
        close(fp.ema_params(state), mean)
    close(state.params, other.params)
    found = fp.evaluate(*fp.inference(MODEL, fp.ema_params(state), ()), DATA, LOSS)
    assert found.loss == pytest.approx(float(fp.objective(MODEL, LOSS)(mean, DATA)), rel=1e-5)
    latest = fp.with_ema(optax.sgd(0.5), 0.0)
    new, _ = fp.train_step(fp.backprop(MODEL, LOSS), latest)(
        fp.init_state(MODEL, latest, KEY, X), DATA
    )
    close(fp.ema_params(new), new.params, 0)


def test_an_average_of_16_bits_is_kept_in_32():
    optimizer = fp.with_ema(optax.sgd(1.0), 0.999)
    params = {"w": jnp.ones(2, jnp.bfloat16)}
    state = optimizer.init(params)
    for _ in range(3):
        updates, state = optimizer.update({"w": jnp.full(2, -0.5, jnp.bfloat16)}, state, params)
        params = optax.apply_updates(params, updates)
    # of 1.5, 2 and 2.5: a share of 0.001 would be rounded away
    wanted = (1.5 * 0.999**2 + 2 * 0.999 + 2.5) / (0.999**2 + 0.999 + 1)
    np.testing.assert_allclose(state.average["w"], wanted, rtol=1e-6)


def test_an_average_that_is_not_there():
    with pytest.raises(ValueError, match=r"holds no averages.*with_ema"):
        fp.ema_params(fp.init_state(MODEL, optax.sgd(0.1), KEY, X))
    with pytest.raises(ValueError, match="decay"):
        fp.with_ema(optax.sgd(0.1), 1.0)
    with pytest.raises(ValueError, match=r"update\(grads, state, params\)"):
        optimizer = fp.with_ema(optax.sgd(0.1), 0.5)
        optimizer.update({}, optimizer.init({}))
