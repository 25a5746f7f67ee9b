"""Optimizers that look at shapes, on parameters that `Repeat` stacks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

import funcprop as fp
from funcprop.training.stacks import thinned
from funcprop.training.unrolling import restacked, unstacked

KEY = jax.random.key(0)
BLOCK = fp.Serial(fp.Dense(4), fp.Tanh())
MODEL = fp.Serial(fp.Repeat(BLOCK, 2), fp.Dense(3))
UNROLLED = fp.Serial(fp.Serial(BLOCK, BLOCK), fp.Dense(3))
LOSS = fp.SoftmaxCrossEntropy()
X = jax.random.normal(KEY, (6, 4))
DATA = X, jnp.argmax(X[:, :3], -1)


def by_axes(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def matrices(optimizer):
    return optax.masked(optimizer, by_axes)


def trained(model, optimizer, params, steps=2):
    state = fp.init_state(model, optimizer, KEY, X, params)
    step = jax.jit(fp.train_step(fp.backprop(model, LOSS), optimizer))
    for _ in range(steps):
        state, _ = step(state, DATA)
    return state


def close(first, second):
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_muon_on_a_stack_is_muon_on_its_layers():
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.1), optax.contrib.muon(0.05, ns_steps=2, weight_decay=0.1)
    )
    params = MODEL.init(KEY, X)
    (stack,), head = params
    steps = tuple(jax.tree.map(lambda leaf: leaf[i], stack) for i in range(2))  # noqa: B023
    mapped = fp.with_ema(fp.per_layer(MODEL, optimizer), 0.5)
    own = trained(MODEL, mapped, params)
    (new,), new_head = own.params
    wanted = trained(UNROLLED, optimizer, (steps, head)).params
    close((new, new_head), (jax.tree.map(lambda *p: jnp.stack(p), *wanted[0]), wanted[1]))
    assert jax.tree.map(jnp.shape, fp.ema_params(own)) == jax.tree.map(jnp.shape, params)


SENSITIVE = {
    "muon": optax.contrib.muon(0.1),
    "every four steps": optax.MultiSteps(optax.lamb(0.1), 4).gradient_transformation(),
    "mask": optax.adamw(0.1, mask=by_axes),
    "labels": optax.multi_transform(
        {True: optax.adam(0.1), False: optax.sgd(0.1)}, lambda params: by_axes(params)
    ),
    "lamb": optax.lamb(0.1),
    "adafactor": optax.adafactor(0.1),
    "clipping": optax.chain(optax.adaptive_grad_clip(0.1), optax.adam(0.1)),
}


@pytest.mark.parametrize("name", SENSITIVE)
def test_what_looks_at_a_stack_as_one_array_is_refused(name):
    optimizer = SENSITIVE[name]
    with pytest.raises(ValueError, match=r"stacks layers on axis 0: .*fp.per_layer\(model, opt"):
        fp.init_state(MODEL, optimizer, KEY, X)
    fp.init_state(UNROLLED, optimizer, KEY, X)
    fp.init_state(MODEL, optax.chain(fp.per_layer(MODEL, optimizer), optax.sgd(0.1)), KEY, X)


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
        optax.contrib.reduce_on_plateau(),
        optax.polyak_sgd(),
        optax.noisy_sgd(0.1, key=KEY),
        optax.chain(optax.masked(optax.sgd(0.1), lambda params: (False, True))),
    ],
    ids=["adamw", "norm", "plateau", "polyak", "noise", "labels"],
)
def test_what_treats_numbers_or_the_whole_model_is_not(optimizer):
    jax.jit(jax.vmap(lambda key: fp.init_state(MODEL, optimizer, key, X)))(KEY[None])


@pytest.mark.parametrize(
    ("model", "axes"),
    [
        (fp.Repeat(fp.Serial(fp.Repeat(fp.Dense(4), 2), fp.Dense(4)), 3), [2, 2, 1, 1]),
        (fp.ReversibleRepeat(fp.Dense(2), fp.Dense(2), 3), [1, 1, 1, 1]),
        (fp.Tied(fp.Serial(fp.Dense(4), fp.Repeat(fp.Dense(4), 2), fp.Dense(4)),
                 (("[0].w", "[2].w"),)), [0, 0, 1, 1, 0]),
        (fp.autodiff(fp.Remat(fp.Repeat(fp.Skip(fp.Dense(4)), 2))), [1, 1]),
        (fp.rewiring.DirectFeedback(fp.Repeat(fp.Dense(4), 2), fp.Dense(3)), [1, 1, 0, 0, 0]),
    ],
    ids=["nested", "reversible", "tied", "wrapped", "rewired"],
)  # fmt: skip
def test_stacks_are_found_under_every_composite(model, axes):
    params = jax.jit(model.init)(KEY, X)
    one = jax.eval_shape(lambda p: thinned(model, p), params)
    rows = zip(jax.tree.leaves(params), jax.tree.leaves(one), strict=True)
    assert [a.ndim - b.ndim for a, b in rows] == axes
    apart = unstacked(model, params)
    close(restacked(model, apart), params)
    assert sorted(leaf.ndim for leaf in jax.tree.leaves(apart))[-1] == 2


def test_a_line_search_reads_the_layers():
    found = {}

    def update(grads, state, params, *, value_fn, grad_fn, grad, value):
        found["value"], found["grads"] = jax.value_and_grad(value_fn)(params)
        found["others"] = grad_fn(params, 0), grad
        return grads, (value, found["value"])

    asking = optax.GradientTransformationExtraArgs(lambda params: (0.0, 0.0), update)
    state = fp.init_state(MODEL, optax.identity(), KEY, X)
    step = fp.train_step(fp.backprop(MODEL, LOSS), fp.per_layer(MODEL, asking))
    state = step(state, DATA)[0]
    close(*state.opt_state)
    close(found["grads"], found["others"][0])
    close(found["grads"], found["others"][1])


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"per_layer\(model, optimizer\)"):
        fp.per_layer(optax.sgd(0.1), MODEL)  # type: ignore[arg-type]
    with pytest.raises(fp.LayerError, match="one per child"):
        fp.init_state(MODEL, fp.per_layer(fp.Serial(MODEL), optax.sgd(0.1)), KEY, X)
