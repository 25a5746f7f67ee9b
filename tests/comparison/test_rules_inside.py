"""A wrong derivative rule inside a function is named, wherever it is called."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

import funcprop as fp
from funcprop.comparison.subject.rules import rules_inside

X = np.linspace(-1.0, 1.0, 10, dtype=np.float32).reshape(2, 5)


@jax.custom_vjp
def squared(a):
    return a * a


squared.defvjp(lambda a: (a * a, a), lambda a, dy: (3 * a * dy,))


@jax.custom_jvp
def sine(a):
    return jnp.sin(a)


sine.defjvp(lambda primals, tangents: (sine(*primals), jnp.cos(primals[0]) * tangents[0]))


def plain(x):
    return jnp.sum(sine(x) * squared(x))


def in_a_scan(x):
    @jax.jit
    def block(c):
        return 0.5 * sine(c) + 0.1 * squared(c)

    return jax.lax.scan(lambda c, _: (block(c), None), x, None, length=4)[0]


def under_vmap(x):
    return jax.vmap(lambda row: jnp.sum(sine(row)) + jnp.sum(squared(row)))(x)


def in_a_checkpoint(x):
    return jax.checkpoint(plain)(x)


def on_two_devices(f, *specs, check_vma=True):
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    rows = PartitionSpec("rows")
    return jax.shard_map(f, mesh=mesh, in_specs=(rows, *specs), out_specs=rows, check_vma=check_vma)


def under_shard_map(x):
    return on_two_devices(lambda rows: sine(rows) * squared(rows))(x)


def in_a_scan_under_shard_map(x):
    return on_two_devices(in_a_scan, check_vma=False)(x)


PLACES = {
    plain: "called at test_rules_inside.py",
    in_a_scan: "4 times in a loop",
    under_vmap: "called at test_rules_inside.py",
    in_a_checkpoint: "called at test_rules_inside.py",
    under_shard_map: "on 2 devices of a shard_map",
    in_a_scan_under_shard_map: "4 times in a loop, on 2 devices of a shard_map",
}


@pytest.mark.parametrize("f", PLACES)
def test_the_wrong_rule_is_named_with_its_line_and_what_is_wrong(f):
    found = fp.compare(f, X, probes=2)
    first = found.wrong[0]
    assert first.place.startswith("squared (") and "test_rules_inside.py:" in first.place
    assert PLACES[f] in first.place
    assert first.words == "a factor of 1.5"
    assert "squared" in found.headline and "a factor of 1.5" in found.headline
    (note,) = [note for note in found.notes if note.startswith("right by themselves")]
    assert "sine" in note and "squared" not in note


def test_a_module_of_flax():
    nn = pytest.importorskip("flax.linen")

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return jnp.sum(squared(nn.Dense(2)(x)))

    params = Model().init(jax.random.key(0), X)
    found = fp.compare(Model().apply, params, X, probes=2)
    assert found.wrong[0].place.startswith("squared (")


def test_right_rules_are_counted_and_right():
    found = fp.compare(lambda x: jnp.sum(sine(sine(x))), X, probes=2)
    assert found.ok and any(note.startswith("right by themselves") for note in found.notes)


@pytest.mark.parametrize("check_vma", [True, False])
def test_a_rule_that_adds_over_devices(check_vma):
    """It is to add the gradient of what they have in common where types tell that they have; else
    JAX adds it, a second time."""

    @jax.custom_vjp
    def scaled(x, w):
        return x * w

    def backward(kept, dy):
        x, w = kept
        return dy * w, jax.lax.psum(jnp.sum(dy * x), "rows")

    scaled.defvjp(lambda x, w: (x * w, (x, w)), backward)
    f = on_two_devices(lambda x, w: sine(scaled(x, w)), PartitionSpec(), check_vma=check_vma)
    found = fp.compare(f, X, np.float32(1.5), probes=2)
    assert found.ok == check_vma
    assert all("scaled" in row.place for row in found.wrong if row.place), found
    assert any(note.startswith("right by themselves") for note in found.notes)


def test_a_rule_alone_has_nothing_inside():
    assert fp.compare(sine, X, probes=2).notes[-1].startswith("finite differences agree")


def test_rules_of_jax_are_looked_at_where_the_whole_is_wrong():
    inner = rules_inside(functools.partial(lambda x: jax.nn.relu(x)), (X,))
    assert inner is not None and not inner.always
    assert rules_inside(jnp.tanh, (X,)) is None


@pytest.mark.parametrize(
    "backward, words",
    [
        (lambda a, g: g[0] * jnp.cos(a) + g[1] * jnp.sin(a), "output 1: the sign of its cotangent"),
        (lambda a, g: g[1] * jnp.cos(a) - g[0] * jnp.sin(a), "outputs 0 and 1 are exchanged"),
        (lambda a, g: g[0] * jnp.cos(a), "output 1: dropped"),
        (lambda a, g: g[0] * jnp.cos(a) - g[1] * jnp.sin(a), ""),
    ],
)
def test_a_rule_of_two_outputs(backward, words):
    @jax.custom_vjp
    def both(a):
        return jnp.sin(a), jnp.cos(a)

    both.defvjp(lambda a: (both(a), a), lambda a, g: (backward(a, g),))
    x = np.random.default_rng(3).normal(size=(2, 5)).astype(np.float32)
    found = fp.compare(both, x, probes=2)
    assert found.ok == (words == "") and all(words in row.words for row in found.wrong), found
