"""What is made of a gradient, on two devices: records, norms, updates, lifted functions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import funcprop as fp
from funcprop import placement

SUM = fp.SoftmaxCrossEntropy(reduction="sum")
MODEL = fp.Serial(
    fp.Dense(8), fp.Repeat(fp.Skip(fp.Serial(fp.Dense(8), fp.Tanh(), fp.Dense(8))), 2), fp.Dense(4)
)
PLACEMENTS = {
    "fully_sharded": placement.fully_sharded("b"),
    "tensor_parallel": placement.tensor_parallel(MODEL, "b"),
}
each = pytest.mark.parametrize("name", PLACEMENTS)


def problem():
    random = np.random.default_rng(1)
    x = jnp.asarray(random.normal(size=(8, 6)), jnp.float32)
    return MODEL.init(jax.random.key(0), x), (x, jnp.arange(8, dtype=jnp.int32) % 4)


def mesh():
    return jax.make_mesh((2,), ("b",))


def assert_close(given, wanted):
    given, wanted = jax.tree.leaves(given), jax.tree.leaves(wanted)
    for a, b in zip(given, wanted, strict=True):
        a, b = (
            jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v
            for v in (a, b)
        )
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def on_both(function, params, batch, where):
    """function(params, batch) on the mesh and on one device."""
    f = jax.jit(function)
    laid = fp.shard(params, mesh(), where), fp.shard_batch(batch, mesh(), where)
    return f(*laid), f(params, batch)


@each
def test_records_and_norms_of_single_examples(name):
    params, batch = problem()
    rule = fp.collect_all(norms=fp.collectors.squared_norms, sums=fp.collectors.gradient)
    collected = fp.backprop(fp.collect(MODEL, rule), SUM)
    assert_close(*on_both(collected, params, batch, PLACEMENTS[name]))


@each
def test_update_step(name):
    params, batch = problem()
    optimizer = optax.adam(1e-2)
    start = fp.init_update_state(MODEL, optimizer, jax.random.key(2), batch[0], params)
    step = fp.update_step(MODEL, SUM, optimizer)
    state = fp.shard(start, mesh(), PLACEMENTS[name])
    specs = [leaf.sharding.spec for leaf in jax.tree.leaves(state.opt_state)]
    assert sum(any(spec) for spec in specs) == 2 * sum(
        any(leaf.sharding.spec) for leaf in jax.tree.leaves(state.params)
    )  # both moments, where the parameter is spread
    new, metrics = jax.jit(step)(state, fp.shard_batch(batch, mesh(), PLACEMENTS[name]))
    assert_close((new, metrics), jax.jit(step)(start, batch))
    same = jax.tree.map(lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), new, state)
    assert jax.tree.all(same)


@each
def test_a_lifted_function(name):
    """On Auto axes: it says itself nowhere how its products lie, which Explicit ones ask for."""
    params = {"w": jnp.ones((6, 8)), "v": jnp.full((8, 4), 0.5)}
    _, batch = problem()

    def network(params, x):
        return jnp.tanh(x @ params["w"]) @ params["v"]

    where = {
        "fully_sharded": placement.fully_sharded("b"),
        "tensor_parallel": placement.Placement(rows=(("['w']", P(None, "b")), ("['v']", P("b")))),
    }[name]
    layer = fp.lift(network, params, batch[0])
    auto = jax.make_mesh((2,), ("b",), axis_types=(jax.sharding.AxisType.Auto,))
    step = jax.jit(fp.backprop(fp.collect(layer, fp.collectors.squared_norms), SUM))
    given = fp.shard(params, auto, where), fp.shard_batch(batch, auto, where)
    assert_close(step(*given), step(params, batch))
