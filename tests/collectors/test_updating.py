"""The optimizer inside the backward pass: the same numbers, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcprop as fp
from funcprop.collectors import collect, update
from funcprop.training import init_update_state, update_step

KEY = jax.random.key(0)
OPTIMIZERS = {
    # at ten times these rates an error of 1e-15 grows, in a hundred steps, to 1e-2 and 1e-11
    "sgd": optax.sgd(1e-2),
    "momentum": optax.sgd(1e-2, momentum=0.9),
    "adam": optax.adam(1e-3),
    "adamw": optax.adamw(1e-3),
    "lion": optax.lion(1e-3),
    "scheduled": optax.inject_hyperparams(optax.adam)(optax.linear_schedule(1e-2, 1e-3, 9)),
    "adafactor": optax.adafactor(1e-2, min_dim_size_to_factor=4),
}


def models():
    block = fp.Skip(fp.Serial(fp.LayerNorm(), fp.Dense(8), fp.GELU(), fp.Dense(4)))
    steps = fp.OverTime(fp.Dense(4))
    tied = fp.Tied(fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(4)), (("[0].w", "[2].w"),))
    return {
        "repeated": fp.Serial(fp.Dense(4), fp.Repeat(block, 3), fp.Dense(2)),
        "repeated, remembered little": fp.Serial(fp.Repeat(fp.Remat(block), 3), fp.Dense(2)),
        "shared": fp.Serial(steps, tied, fp.LSTM(3), fp.Dense(2)),
        "reversible": fp.Serial(fp.ReversibleRepeat(fp.Dense(2), fp.Dense(2), 3), fp.Dense(2)),
    }


def batch():
    random = np.random.default_rng(0)
    x, target = random.normal(size=(5, 3, 4)), random.normal(size=(5, 3, 2))
    return jnp.asarray(x), jnp.asarray(target)


def states(model, optimizer, steps, max_norm=None, optimizers=(None, None)):
    first, second = (other or optimizer for other in optimizers)
    loss, data = fp.MeanSquaredError(), batch()
    gradient = fp.backprop(model, loss)
    if max_norm is not None:
        gradient = fp.clip_by_norm(gradient, max_norm)
    both = []
    for step, start, rule in (
        (fp.train_step(gradient, first), fp.init_state, first),
        (update_step(model, loss, second, max_norm), init_update_state, second),
    ):
        compiled = jax.jit(step, donate_argnums=0)
        state = start(model, rule, KEY, data[0])
        metrics = None
        for _ in range(steps):
            state, metrics = compiled(state, data)
        both.append((state, metrics))
    return both


def check_equal(both, rtol=1e-9):
    (state, metrics), (given, told) = both
    assert jax.tree.structure(state.params) == jax.tree.structure(given.params)
    for a, b in zip(jax.tree.leaves(given.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(told.loss, metrics.loss, rtol=rtol)


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_parameters_after_a_hundred_steps(name, optimizer):
    with jax.enable_x64(True):
        check_equal(states(models()[name], OPTIMIZERS[optimizer], 100))


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", "lion", "scheduled"])
def test_optimizers(optimizer):
    with jax.enable_x64(True):
        check_equal(states(models()["repeated"], OPTIMIZERS[optimizer], 5))


def test_adafactor_treats_a_stack_layer_by_layer():
    """Over a stack it would average over the layers; here each is a matrix of its own."""
    model = models()["repeated"]
    with jax.enable_x64(True):
        alone = fp.per_layer(model, OPTIMIZERS["adafactor"])
        check_equal(states(model, OPTIMIZERS["adafactor"], 3, optimizers=(alone, None)), 1e-6)


def test_a_global_norm_takes_two_passes():
    with jax.enable_x64(True):
        check_equal(states(models()["shared"], OPTIMIZERS["adam"], 5, max_norm=0.1))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_memory_is_that_of_one_layer(optimizer):
    """24 residual blocks: a quarter of the temporaries of jax.grad and optax, both donated."""
    width, x = 128, jnp.zeros((8, 128))
    block = fp.Skip(fp.Serial(fp.Dense(width), fp.Tanh(), fp.Dense(width)))
    model, loss, rule = fp.Repeat(block, 24), fp.MeanSquaredError(), OPTIMIZERS[optimizer]
    automatic = fp.train_step(jax.value_and_grad(fp.objective(model, loss)), rule)
    sizes = []
    for step, start in (
        (automatic, fp.init_state),
        (update_step(model, loss, rule), init_update_state),
    ):
        state = start(model, rule, KEY, x)
        compiled = jax.jit(step, donate_argnums=0).lower(state, (x, x)).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        sizes.append(memory.temp_size_in_bytes)
    assert sizes[1] <= 0.25 * sizes[0]


def test_what_needs_all_gradients_is_refused():
    with pytest.raises(ValueError, match=r"max_norm=1\.0"):
        update(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="accumulates gradients over several batches"):
        update(optax.MultiSteps(optax.sgd(0.1), 4).gradient_transformation())
    with pytest.raises(ValueError, match="accumulate adds gradients"):
        fp.accumulate(fp.backprop(collect(fp.Dense(2), update(optax.sgd(0.1))),
                                  fp.MeanSquaredError()), 2)  # fmt: skip
    with pytest.raises(ValueError, match="collect it alone"):
        fp.collect_all(new=update(optax.sgd(0.1)))


def test_a_norm_over_all_is_found_behind_any_optimizer():
    """Adam's first step does not show that its gradient was scaled."""
    for after in (optax.adam(1e-2), optax.lion(1e-3), optax.adamw(1e-2)):
        with pytest.raises(ValueError, match="does not treat every parameter by itself"):
            update(optax.chain(optax.clip_by_global_norm(1.0), after))
    with pytest.raises(ValueError, match="does not treat every parameter by itself"):
        update(optax.chain(optax.clip_by_global_norm(2000.0), optax.sgd(0.1)))
    with pytest.raises(ValueError, match="does not treat every parameter by itself"):
        update(optax.apply_if_finite(optax.sgd(0.1), 3))
    for name in OPTIMIZERS:
        update(OPTIMIZERS[name])


def test_under_cast_the_precise_parameters_are_updated():
    model, loss = fp.Serial(fp.Cast(fp.Dense(1, bias=False))), fp.MeanSquaredError()
    x, target = jnp.ones((1, 1)), jnp.full((1, 1), 2.0)
    ends = []
    for step, start in (
        (fp.train_step(fp.backprop(model, loss), optax.sgd(1e-3)), fp.init_state),
        (update_step(model, loss, optax.sgd(1e-3)), init_update_state),
    ):
        compiled, state = jax.jit(step), start(model, optax.sgd(1e-3), KEY, x)
        for _ in range(100):
            state, _ = compiled(state, (x, target))
        ends.append(state.params[0][0].w)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6)


@pytest.mark.parametrize("name", ["over time", "tied"])
def test_stacks_that_are_used_several_times(name):
    loop = fp.Repeat(fp.Dense(4), 2)
    shared = {
        "over time": fp.OverTime(loop),
        "tied": fp.Tied(fp.Serial(loop, fp.Tanh(), loop), (("[0][0].w", "[2][0].w"),)),
    }
    with jax.enable_x64(True):
        check_equal(states(fp.Serial(shared[name], fp.Dense(2)), OPTIMIZERS["adam"], 5))


def test_a_state_belongs_to_its_step():
    model, loss, x = fp.Dense(2), fp.MeanSquaredError(), jnp.ones((3, 2))
    state = fp.init_state(model, optax.sgd(0.1), KEY, x)._replace(opt_state=())
    with pytest.raises(ValueError, match="start from init_update_state"):
        update_step(model, loss, optax.sgd(0.1))(state, (x, x))
    state = fp.init_state(model, optax.adam(0.1), KEY, x)
    with pytest.raises(ValueError, match="start from init_update_state"):
        update_step(model, loss, optax.adam(0.1))(state, (x, x))
    deeper = init_update_state(fp.Serial(model, model), optax.sgd(0.1), KEY, x)
    with pytest.raises(ValueError, match="holds 1 more than the model has layers"):
        update_step(fp.Serial(model), loss, optax.sgd(0.1))(
            deeper._replace(params=deeper.params[:1]), (x, x)
        )


def test_a_state_is_made_of_shapes_and_under_jit():
    start = lambda key: init_update_state(fp.Dense(2), optax.adam(0.1), key, jnp.ones((3, 2)))  # noqa: E731
    found = jax.eval_shape(start, KEY)
    assert found.params.w.shape == found.opt_state[0][0].mu.w.shape == (2, 2)


def by_path(ending, optimizer):
    def mask(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: jax.tree_util.keystr(path).endswith(ending), params
        )

    return optax.chain(optax.masked(optimizer, mask), optax.sgd(0.1))


def test_what_goes_by_paths_is_refused():
    model, loss = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(2)), fp.MeanSquaredError()
    x = jnp.ones((5, 4))
    head_alone = by_path("[2].w", optax.set_to_zero())
    norm_of_all = by_path(".w", optax.clip_by_global_norm(0.05))
    for optimizer in (head_alone, norm_of_all):
        with pytest.raises(ValueError, match=r"treats params\[.\]\.w otherwise among all"):
            init_update_state(model, optimizer, KEY, x)
    one_tree = jax.tree.map(lambda leaf: True, jax.eval_shape(model.init, KEY, x))
    with pytest.raises(ValueError, match="made for one tree of parameters"):
        update_step(model, loss, optax.adamw(1e-3, mask=one_tree))
    with pytest.raises(TypeError, match="wanted an optimizer of optax"):
        update(0.1)  # type: ignore[arg-type]
    for fine in (by_path(".w", optax.scale(0.5)), optax.adamw(1e-3, mask=by_rank)):
        jax.vmap(lambda key, fine=fine: init_update_state(model, fine, key, x))(
            jax.random.split(KEY, 2)
        )


def by_rank(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def test_max_norm_wants_a_backward_that_is_linear():
    model = fp.Serial(fp.Dense(4), fp.rewiring.clip_cotangent(max_abs=0.1)(fp.Dense(2)))
    with pytest.raises(fp.LayerError, match=r"is not linear in dy.*\n.*train_step\(clip_by_norm"):
        update_step(model, fp.MeanSquaredError(), optax.sgd(1.0), max_norm=0.1)
    update_step(model, fp.MeanSquaredError(), optax.sgd(1.0))


def test_the_norm_of_large_gradients_is_finite():
    model, loss, x = fp.Dense(2), fp.MeanSquaredError(), jnp.full((5, 3), 1e12)
    state = init_update_state(model, optax.sgd(1.0), KEY, x)
    new, _ = update_step(model, loss, optax.sgd(1.0), 1.0)(state, (x, jnp.zeros((5, 2))))
    change = jax.tree.map(jnp.subtract, new.params, state.params)
    norm = sum(float(jnp.square(leaf).sum()) for leaf in jax.tree.leaves(change)) ** 0.5
    np.testing.assert_allclose(norm, 1.0, rtol=1e-5)


@pytest.mark.parametrize("name", ["cast", "over time", "frozen", "tied as a whole", "both"])
def test_layers_without_a_gradient_among_shared_ones(name):
    block = fp.Serial(fp.Dense(4), fp.Tanh())
    tied = fp.Tied(fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(4)), (("[0]", "[2]"),))
    model = {
        "cast": fp.Cast(fp.Repeat(block, 2), jnp.float32),
        "over time": fp.OverTime(fp.Repeat(block, 2)),
        "frozen": fp.OverTime(fp.Serial(fp.rewiring.frozen()(fp.Dense(4)), fp.LoRA(4, 2))),
        "tied as a whole": tied,
        "both": fp.Repeat(tied, 2),
    }[name]
    model, loss, optimizer = fp.Serial(model, fp.Dense(2)), fp.MeanSquaredError(), optax.adam(1e-3)
    data = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), batch())
    ends = []
    for step, start in (
        (fp.train_step(fp.backprop(model, loss), optimizer), fp.init_state),
        (update_step(model, loss, optimizer), init_update_state),
    ):
        state = start(model, optimizer, KEY, data[0])
        ends.append(jax.lax.scan(lambda s, _, f=step: (f(s, data)[0], None), state, None, 3)[0])
    for a, b in zip(*(jax.tree.leaves(end.params) for end in ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_rewired_layer_without_parameters_has_nothing_to_update():
    model = fp.Serial(fp.Dense(4), fp.Tanh(), fp.Dense(3))
    model = fp.rewire(model, {fp.Tanh: fp.rewiring.clip_cotangent(max_abs=0.1)})
    x, loss = jnp.ones((2, 3)), fp.MeanSquaredError()
    ends = []
    for step, start in (
        (fp.train_step(fp.backprop(model, loss), optax.adam(0.1)), fp.init_state),
        (update_step(model, loss, optax.adam(0.1)), init_update_state),
    ):
        state = start(model, optax.adam(0.1), KEY, x)
        ends.append(jax.jit(step)(state, (x, x))[0].params)
    for a, b in zip(*map(jax.tree.leaves, ends), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
