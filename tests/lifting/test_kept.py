"""What is held for the uses in a loop: one cotangent for outputs that are added, in parts too, and
nothing twice that is there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import funcprop as fp
from funcprop import collectors as c
from funcprop.lifting import lift, per_example
from funcprop.lifting.jaxprs import scan_parts

B, T, D, H = 3, 5, 2, 4


def lstm(p, x):
    """The outputs of both products are split, and added gate by gate."""

    def step(state, x):
        h, s = state
        gates = zip(jnp.split(x @ p["w"], 4), jnp.split(h @ p["u"], 4), strict=True)
        i, f, g, o = (a + b for a, b in gates)
        s = jax.nn.sigmoid(f) * s + jax.nn.sigmoid(i) * jnp.tanh(g)
        return (jax.nn.sigmoid(o) * jnp.tanh(s), s), None

    return jnp.square(lax.scan(step, (jnp.zeros(H), jnp.ones(H)), x)[0][0]).sum()


def gru(p, x):
    """Two of three parts are added, the third of one is multiplied first."""

    def step(h, x):
        a, b = jnp.split(x @ p["w"], 3), jnp.split(h @ p["u"], 3)
        r, z = jax.nn.sigmoid(a[0] + b[0]), jax.nn.sigmoid(a[1] + b[1])
        return (1 - z) * jnp.tanh(a[2] + r * b[2]) + z * h, None

    return jnp.square(lax.scan(step, jnp.ones(H), x)[0]).sum()


def swapped(p, x):
    """Parts that are added to each other, and one product whose parts are read twice."""

    def step(h, x):
        a, b = jnp.split(x @ p["w"], 2)
        d, e = jnp.split(h @ p["u"], 2)
        return jnp.tanh(a + b) + jnp.sin(d) * jnp.cos(e) + d / 4, None

    return jnp.square(lax.scan(step, jnp.ones(H), x)[0]).sum()


def params(parts):
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "w": jax.random.normal(keys[0], (D, parts * H)) / 2,
        "u": jax.random.normal(keys[1], (H, parts * H)) / 2,
    }


@pytest.mark.parametrize(("loss", "parts", "held"), [(lstm, 4, 4), (gru, 3, 4), (swapped, 2, 3)])
def test_uses_that_are_split_alike_and_added_have_one_cotangent(loss, parts, held):
    """`held` parts of H numbers a step, where each use alone would hold its own."""
    p, x = params(parts), jax.random.normal(jax.random.key(1), (B, T, D))
    layer = lift(per_example(loss, reduction="sum"), p, x)
    plan, _ = layer.plan(p, jax.ShapeDtypeStruct((T, D), x.dtype), {})
    assert [delta.aval.shape for delta in plan.deltas] == [(H,)] * held
    gradients = fp.backprop(fp.collect(layer, c.gradients))
    found, wanted = jax.jit(
        lambda p, x: (gradients(p, x)[1], jax.vmap(jax.grad(loss), (None, 0))(p, x))
    )(p, x)
    for given, right in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        np.testing.assert_allclose(given, right, rtol=1e-4, atol=1e-5)


def test_what_a_loop_goes_through_is_not_stacked_again():
    p, x = params(4), jnp.ones((B, T, D))
    layer = lift(per_example(lstm, reduction="sum"), p, x)
    norms = fp.backprop(fp.collect(layer, c.squared_norms))
    jaxpr = jax.make_jaxpr(norms)(p, x)
    loops = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "scan"]
    there = [eqn for eqn in loops if not eqn.params["reverse"] and eqn.params["length"] == T]
    assert len(there) == 1
    (there,) = there
    stacked = [v.aval.shape for v in there.outvars[scan_parts(there)[1] :]]
    assert (T, B, H) in stacked  # the states, and what JAX keeps
    assert (T, B, D) not in stacked  # x


def attending(p, x):
    """As the LSTM, with a product of the data's own in every step."""

    def step(state, x):
        h, s = state
        gates = jnp.split(x @ p["w"] + h @ p["u"], 4)
        i, f, g, o = (jax.nn.sigmoid(gate) for gate in gates)
        s = f * s + i * jnp.tanh(g) + jnp.outer(s, o) @ h
        return (jax.nn.sigmoid(o) * jnp.tanh(s), s), None

    return jnp.square(lax.scan(step, (jnp.zeros(H), jnp.ones(H)), x)[0][0]).sum()


@pytest.mark.parametrize(("loss", "fewer"), [(lstm, True), (attending, False)])
def test_what_is_cheap_is_computed_again(loss, fewer):
    """Of an LSTM four sums and two states a step, and the state that its use reads: not the value
    and slope of every gate."""
    p, x = params(4), jnp.ones((B, T, D))
    layer = lift(per_example(loss, reduction="sum"), p, x)
    norms = fp.backprop(fp.collect(layer, c.squared_norms))

    def kept(function):
        """How many numbers the loop forwards stacks for each example, H at a time."""
        loops = [e for e in jax.make_jaxpr(function)(p, x).eqns if e.primitive.name == "scan"]
        there = next(e for e in loops if not e.params["reverse"] and e.params["length"] == T)
        stacked = [v.aval for v in there.outvars[scan_parts(there)[1] :]]
        return sum(a.size // (T * B * H) for a in stacked)

    plain = kept(jax.grad(lambda p, x: jax.vmap(loss, (None, 0))(p, x).sum()))
    if fewer:
        assert kept(norms) <= 7 < plain
    else:
        assert kept(norms) >= plain
    by_hand = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(p, x)
    wanted = sum(jnp.square(g).sum((1, 2)) for g in jax.tree.leaves(by_hand))
    np.testing.assert_allclose(c.total(jax.jit(norms)(p, x)[1]), wanted, rtol=1e-4)
