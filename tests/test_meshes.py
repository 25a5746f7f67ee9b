"""Two devices: every row of the catalogue on meshes and in `shard_map`, against one device.

The examples of a row are drawn twice, so that they are an even number. What is wrong in a type is
an error when a program is traced; one program a row is compiled, where its numbers are looked at:
both passes on one device and on two. Parameters are drawn by NumPy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import funcprop as fp
from funcprop.catalogue.table import ROWS
from funcprop.layer import Context, is_float
from funcprop.sharding import summed

from .placement.traffic import kinds

KEY = jax.random.key(11)
ROW = {row.name: row for row in ROWS}
# axis 0 is no batch axis of these: of a single example, of a sequence, of what is padded
ALONE = ("Dense, one example", "Conv, one image", "OverTime, one sequence", "Pad, edge")
MIXING = {"InfoNCE": "all-gather", "InfoNCE, symmetric, masked": "all-gather"}
every_row = pytest.mark.parametrize("name", [name for name in ROW if name not in ALONE])
# Where a product lies on a mesh with Explicit axes the function says that is lifted, as it must in
# `jax.grad`: these name no out_sharding, and two of them JAX itself cannot map.
LIFTED = {name for name, row in ROW.items() if isinstance(row.layer, fp.lifting.Lifted)}
NOT_MAPPED = {"Lifted, a convolution and a recurrence", "Lifted, losses with a tied table"}


def every_row_but(names):
    found = [name for name in ROW if name not in ALONE and name not in names]
    return pytest.mark.parametrize("name", found)


@functools.cache
def drawn(name):
    """-> (params, x, context, dy) of NumPy with twice the row's examples, the types of dparams."""
    row, random = ROW[name], np.random.default_rng(0)
    (x, context), (x2, other) = row.inputs(KEY), row.inputs(jax.random.fold_in(KEY, 5))
    x, mask = jax.tree.map(lambda *two: np.concatenate(two), (x, context.mask), (x2, other.mask))
    context = Context(context.key, mask)

    def passes(x, context):
        params = row.layer.init(KEY, x)
        y, residuals = row.layer.forward(params, x, context)
        dy = jax.tree.map(lambda y: y if is_float(y) else None, y)
        return params, dy, row.layer.backward(params, residuals, dy)[1]

    params, dy, dparams = jax.eval_shape(passes, x, context)

    def parameter(leaf):
        if leaf.ndim < 2:  # scales and biases
            return random.normal(0.5, 0.1, leaf.shape).astype(leaf.dtype)
        return random.normal(0, 0.5 / np.sqrt(leaf.shape[-2]), leaf.shape).astype(leaf.dtype)

    params = jax.tree.map(parameter, params)
    dy = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(leaf.dtype), dy)
    return (params, x, context, dy), dparams


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
    return set(kinds(compiled.as_text()))


@every_row_but(NOT_MAPPED)
def test_data_parallel_equals_one_device_and_only_sums_cross(name):
    given, layer = drawn(name)[0], ROW[name].layer
    placed = on_mesh(given, with_examples_apart(given))
    f = jax.jit(lambda *twice: [both_ways(layer, *each) for each in twice])
    compiled = f.lower(given, placed).compile()
    expected = {"all-reduce", MIXING[name]} if name in MIXING else {"all-reduce"}
    assert collectives(compiled) <= expected
    wanted, result = compiled(given, placed)
    assert_close(result, wanted)
    assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(result[2]))


@every_row_but(LIFTED)
def test_parameters_and_features_may_be_spread_along_their_last_axis(name):
    """As the parameters lie, so do their gradients; the examples may lie on the same axis."""
    params, x, context, dy = drawn(name)[0]
    f = functools.partial(both_ways, ROW[name].layer)
    last = along("b", -1)
    batch = with_examples_apart((params, x, context, dy))
    for specs in (
        (last(params), last(x), nowhere(context), last(dy)),
        (last(params), nowhere(x), nowhere(context), nowhere(dy)),
        (last(params), *batch[1:]),
    )[: 3 if jax.tree.leaves(params) else 1]:
        placed = on_mesh((params, x, context, dy), specs)
        _, _, dparams = jax.eval_shape(f, *placed)
        rows = jax.tree.leaves_with_path(dparams)
        own = dict(jax.tree.leaves_with_path(placed[0]))
        for path, leaf in rows:
            assert leaf.shape == own[path].shape
            if leaf.sharding is None:  # zeros, of what is fixed
                continue
            assert leaf.sharding.spec == jax.typeof(own[path]).sharding.spec, path


@every_row
def test_shard_map_with_its_checks(name):
    """dparams vary as the data does, and their sum over the devices does not."""
    given, wanted = drawn(name)
    mesh = jax.make_mesh((2,), ("b",), axis_types=(AxisType.Auto,))

    def local(params, x, context, dy):
        y, dx, dparams = both_ways(ROW[name].layer, params, x, context, dy)
        return jax.tree.map(lambda leaf: jnp.atleast_1d(leaf), (y, dx)), summed(dparams, params)

    specs = with_examples_apart(given)
    f = jax.shard_map(local, mesh=mesh, in_specs=specs, out_specs=(P("b"), P()))
    _, dparams = jax.eval_shape(f, *given)
    assert jax.tree.map(jnp.shape, dparams) == jax.tree.map(jnp.shape, wanted)


def test_single_examples_of_a_lifted_function_in_shard_map():
    """What varies over the devices is each one's own: norms, and gradients that are summed once."""
    row = ROW["Lifted, losses with a tied table"]
    params, x, *_ = drawn(row.name)[0]
    rule = fp.collect_all(norms=fp.collectors.squared_norms, sums=fp.collectors.gradient)

    def found(params, x):
        layer = fp.collect(row.layer, rule)
        y, residuals = layer.forward(params, x)
        values = layer.backward(params, residuals, jnp.ones_like(y))[1]
        records = [record.value for record in fp.collectors.records(values)]
        return [v["norms"] for v in records], [v["sums"] for v in records]

    def local(params, x):
        norms, sums = found(params, x)
        return norms, jax.lax.psum(sums, "b")

    mesh = jax.make_mesh((2,), ("b",), axis_types=(AxisType.Auto,))
    f = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("b")), out_specs=(P("b"), P()))
    assert_close(*jax.jit(lambda params, x: (f(params, x), found(params, x)))(params, x))


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 5}], ids=str)
def test_attention_of_many_tiles(options):
    """A loop over tiles, which those of the table are too short for."""
    layer = fp.DotProductAttention(block=2, **options)
    given = (), (jnp.ones((2, 32, 2, 4)),) * 3, Context(mask=jnp.ones((2, 32), bool))
    wanted = jax.eval_shape(lambda x: x, (given[1][0], given[1], ()))
    specs = (), (P("b"),) * 3, Context(mask=P("b")), P("b")
    placed = on_mesh((*given, given[1][0]), specs)
    found = jax.eval_shape(functools.partial(both_ways, layer), *placed)
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, wanted)
    mesh = jax.make_mesh((2,), ("b",), axis_types=(AxisType.Auto,))
    local = jax.shard_map(
        functools.partial(both_ways, layer),
        mesh=mesh,
        in_specs=(P(), P("b"), P("b"), P("b")),
        out_specs=(P("b"), P("b"), P()),
    )
    found = jax.eval_shape(local, *given, given[1][0])
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, wanted)


# --- whole models, and what is made of their gradients --------------------------------------------

FEATURES, CLASSES = 6, 4
MODEL = fp.Serial(
    fp.Embedding(10, FEATURES),
    fp.Repeat(fp.Skip(fp.Serial(fp.Dense(FEATURES), fp.Tanh())), 2),
    fp.LastStep(),
    fp.Dense(CLASSES),
)
SUM = fp.SoftmaxCrossEntropy(reduction="sum")


def problem():
    random = np.random.default_rng(1)
    ids, y = jnp.asarray(random.integers(0, 10, (8, 4))), jnp.asarray(np.arange(8) % CLASSES)
    return MODEL.init(KEY, ids), (ids.astype(jnp.int32), y.astype(jnp.int32))


def in_shard_map(gradient):
    """(params, batch) -> the values of both devices, grads: of examples apart."""
    mesh = jax.make_mesh((2,), ("b",), axis_types=(AxisType.Auto,))

    def local(params, batch):
        value, grads = gradient(params, batch)
        return value[None], grads

    f = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("b")), out_specs=(P("b"), P()))
    return jax.jit(f)


def test_in_shard_map_backprop_is_what_jax_grad_is():
    params, batch = problem()
    wanted = jax.jit(fp.backprop(MODEL, SUM))(params, batch)
    by_function = lambda p, b: SUM.forward((), (fp.as_function(MODEL)(p, b[0]), b[1]))[0]  # noqa: E731
    for gradient in (
        fp.backprop(MODEL, SUM),
        jax.value_and_grad(fp.objective(MODEL, SUM)),
        jax.value_and_grad(by_function),
    ):
        values, grads = in_shard_map(gradient)(params, batch)
        assert_close((values.sum(), grads), wanted)


def test_in_shard_map_private_gradients_and_updates_are_of_the_whole_batch():
    params, batch = problem()
    clip = fp.collectors.clipped(MODEL, SUM, max_norm=0.5)
    assert_close(in_shard_map(clip)(params, batch)[1], jax.jit(clip)(params, batch)[1])
    collected = fp.collect(MODEL, fp.collectors.update(optax.sgd(0.1)))
    held, update = collected.hold(params), fp.backprop(collected, SUM)
    assert_close(in_shard_map(update)(held, batch)[1], jax.jit(update)(held, batch)[1])


def test_records_and_parts_of_a_batch_on_a_mesh():
    params, batch = problem()
    placed = on_mesh((params, batch), (nowhere(params), (P("b"), P("b"))))
    for gradient in (
        fp.backprop(fp.collect(MODEL, fp.collectors.squared_norms), SUM),
        fp.collectors.clipped(MODEL, SUM, max_norm=0.5),
        fp.accumulate(fp.backprop(MODEL, fp.SoftmaxCrossEntropy()), 2),
    ):
        assert_close(jax.jit(gradient)(*placed), jax.jit(gradient)(params, batch))


@pytest.mark.parametrize("model", [
    fp.Serial(fp.Conv(6, (3, 3)), fp.GroupNorm(2), fp.ReLU(), fp.Conv(6, (3, 3), groups=6),
              fp.MaxPool((2, 2)), fp.GlobalAvgPool(), fp.Dense(4)),
], ids=["images"])  # fmt: skip
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=["Auto", "Explicit"])
def test_a_model_on_both_kinds_of_mesh(model, kind):
    """Its parameters on the axis of the examples: gathered to be used, their gradients apart."""
    x = jnp.asarray(np.random.default_rng(2).normal(size=(4, 6, 6, 3)), jnp.float32)
    params, batch = model.init(KEY, x), (x, jnp.arange(4, dtype=jnp.int32))
    gradient = jax.jit(fp.backprop(model, SUM))
    placed = on_mesh((params, batch), (along("b", -1)(params), (P("b"), P("b"))), kind)
    value, grads = gradient(*placed)
    assert_close((value, grads), gradient(params, batch))
    if kind == AxisType.Explicit:
        places = jax.tree.map(lambda grad, own: grad.sharding == own.sharding, grads, placed[0])
        assert jax.tree.all(places)
