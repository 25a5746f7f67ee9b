"""Two devices: every row of the catalogue on meshes and in `shard_map`, against one device.

The examples of a row are drawn twice, so that they are an even number. What is wrong in a type is
an error when a program is traced; programs are compiled where their numbers are looked at, once a
row.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from funcprop.comparison.catalogue import ROWS
from funcprop.layer import Context, is_float
from funcprop.sharding import summed

KEY = jax.random.key(11)
ROW = {row.name: row for row in ROWS}
# axis 0 is no batch axis of these: of a single example, of a sequence, of what is padded
ALONE = ("Dense, one example", "OverTime, one sequence", "Pad, edge")
MIXING = {"InfoNCE": "all-gather", "InfoNCE, symmetric, masked": "all-gather"}
COLLECTIVES = r"\b(all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
every_row = pytest.mark.parametrize("name", [name for name in ROW if name not in ALONE])


@functools.lru_cache(maxsize=1)
def drawn(name):
    """-> (params, x, context, dy), with twice the row's examples."""
    row = ROW[name]
    params, x, context = row.arguments(KEY)
    x2, other = row.inputs(jax.random.fold_in(KEY, 5))
    x, mask = jax.tree.map(
        lambda *parts: jnp.concatenate(parts), (x, context.mask), (x2, other.mask)
    )
    context = Context(context.key, mask)
    y = jax.eval_shape(lambda *given: row.layer.forward(*given)[0], params, x, context)
    random = np.random.default_rng(0)
    dy = jax.tree.map(
        lambda y: jnp.asarray(random.normal(size=y.shape), y.dtype) if is_float(y) else None, y
    )
    return params, x, context, dy


def both_ways(layer, params, x, context, dy):
    """-> y, dx, dparams."""
    y, residuals = layer.forward(params, x, context)
    return y, *layer.backward(params, residuals, dy)


def along(name, axis):
    """A leaf -> its spec: spread along one axis where two divides it."""

    def spec(leaf):
        sizes = leaf.shape[axis:][:1] if leaf.ndim else ()
        if not sizes or sizes[0] % 2:
            return P()
        return P(name) if axis == 0 else P(*(None,) * (leaf.ndim - 1), name)

    return lambda tree: jax.tree.map(spec, tree)


def nowhere(tree):
    return jax.tree.map(lambda leaf: P(), tree)


def with_examples_apart(given, name="b"):
    """The specs of data parallelism."""
    params, x, context, dy = given
    batch = along(name, 0)
    examples = jax.tree.leaves(x)[0].shape[0]

    def of_batch(leaf):
        return batch(leaf) if leaf.ndim and leaf.shape[0] == examples else P()

    x, mask, dy = jax.tree.map(of_batch, (x, context.mask, dy))
    return nowhere(params), x, Context(P(), mask), dy


def on_mesh(given, specs, kind=AxisType.Explicit):
    names = {n for spec in jax.tree.leaves(specs, is_leaf=is_spec) for n in spec if n}
    mesh = jax.make_mesh((2,), tuple(names) or ("b",), axis_types=(kind,))
    return jax.tree.map(lambda a, s: jax.device_put(a, NamedSharding(mesh, s)), given, specs)


def is_spec(value):
    return isinstance(value, P)


def assert_close(given, wanted):
    """Over the largest entry of the whole tree: the gradient of a key's bias is rounding alone."""
    given, wanted = jax.tree.leaves(given), jax.tree.leaves(wanted)
    top = max([np.abs(np.asarray(b, np.float64)).max(initial=0) for b in wanted], default=0)
    for a, b in zip(given, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-5 * top)


def collectives(compiled):
    return set(re.findall(COLLECTIVES, compiled.as_text()))


@every_row
def test_data_parallel_equals_one_device_and_only_sums_cross(name):
    given, f = drawn(name), jax.jit(functools.partial(both_ways, ROW[name].layer))
    compiled = f.lower(*on_mesh(given, with_examples_apart(given))).compile()
    expected = {"all-reduce", MIXING[name]} if name in MIXING else {"all-reduce"}
    assert collectives(compiled) <= expected
    result = compiled(*on_mesh(given, with_examples_apart(given)))
    assert_close(result, f(*given))
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(result[2]))


@every_row
def test_parameters_and_features_may_be_spread_along_their_last_axis(name):
    """As the parameters lie, so do their gradients; the examples may lie on the same axis."""
    params, x, context, dy = drawn(name)
    f = functools.partial(both_ways, ROW[name].layer)
    last = along("b", -1)
    batch = with_examples_apart((params, x, context, dy))
    for specs in (
        (last(params), nowhere(x), nowhere(context), nowhere(dy)),
        (last(params), last(x), nowhere(context), last(dy)),
        (last(params), *batch[1:]),
    ):
        placed = on_mesh((params, x, context, dy), specs)
        _, _, dparams = jax.eval_shape(f, *placed)
        rows = jax.tree.leaves_with_path(dparams)
        own = dict(jax.tree.leaves_with_path(placed[0]))
        for path, leaf in rows:
            assert leaf.shape == own[path].shape
            assert leaf.sharding.spec == jax.typeof(own[path]).sharding.spec, path


@every_row
def test_shard_map_with_its_checks(name):
    """dparams vary as the data does, and their sum over the devices does not."""
    given = drawn(name)
    mesh = jax.make_mesh((2,), ("b",), axis_types=(AxisType.Auto,))

    def local(params, x, context, dy):
        y, dx, dparams = both_ways(ROW[name].layer, params, x, context, dy)
        return jax.tree.map(lambda leaf: jnp.atleast_1d(leaf), (y, dx)), summed(dparams, params)

    specs = with_examples_apart(given)
    f = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P("b"), P()))
    _, dparams = jax.eval_shape(f, *given)
    assert jax.tree.map(jnp.shape, dparams) == jax.tree.map(
        jnp.shape, jax.eval_shape(functools.partial(both_ways, ROW[name].layer), *given)[2]
    )
