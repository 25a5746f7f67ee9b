"""Placements as values, where arrays lie, and what is told where they cannot."""

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import PartitionSpec as P

import funcprop as fp
from funcprop import placement
from funcprop.placement import Placement

MODEL = fp.Serial(fp.Dense(8), fp.Tanh(), fp.Dense(4))
X = jax.ShapeDtypeStruct((8, 6), jnp.float32)
KEY = jax.random.key(0)


def mesh(name="data", count=2):
    return jax.make_mesh((count,), (name,))


def params():
    return jax.eval_shape(MODEL.init, KEY, X)


def specs(state, where, name="data", count=2):
    """The specs of a state by their paths, without what is whole."""
    found = placement.shardings(state, mesh(name, count), where)
    rows = jax.tree.leaves_with_path(found)
    return {jax.tree_util.keystr(path): at.spec for path, at in rows if any(at.spec)}


def test_placements_are_values():
    one, other = placement.data_parallel(), placement.data_parallel("data")
    assert one == other and hash(one) == hash(other)
    assert Placement(rows=[["*.w", P("data")]]) == Placement(rows=(("*.w", P("data")),))
    both = one | placement.fully_sharded("apart")
    assert both.batch == P(("data", "apart")) and both.axes == ("data", "apart")
    assert (one | placement.sequence_parallel()).batch == P("data", "sequence")
    with pytest.raises(TypeError):
        one | ("*.w", P())


def test_the_first_row_that_fits_decides():
    own = Placement(rows=(("[0].w", P()), ("[*].w", P("data"))))
    assert specs(params(), own) == {"[2].w": P("data")}
    again = Placement(rows=(("[2]*", P()),)) | own
    assert specs(params(), again) == {}


@pytest.mark.parametrize(("shape", "count", "wanted"), [
    ((6, 8), 2, P(None, "data")),
    ((6, 7), 2, P("data")),
    ((5, 7), 2, P()),
    ((8, 5, 7), 2, P()),  # steps of a loop are not cut
    ((3, 3, 4, 6), 3, P(None, None, None, "data")),
    ((), 2, P()),
], ids=str)  # fmt: skip
def test_fully_sharded_cuts_the_last_axis_that_can_be(shape, count, wanted):
    assert placement.fully_sharded().spec("[0].w", shape, {"data": count}) == wanted


def test_both_kinds_of_axes_lie_beside_each_other():
    both = placement.tensor_parallel(MODEL) | placement.fully_sharded()
    sizes = {"data": 2, "model": 2}
    assert both.spec("[0].w", (6, 8), sizes) == P("data", "model")
    assert both.spec("[2].w", (8, 4), sizes) == P("model", "data")
    assert both.spec("[0].b", (8,), sizes) == P("model")


def test_the_optimizers_state_lies_as_its_parameter():
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    start = jax.eval_shape(lambda key: fp.init_state(MODEL, optimizer, key, X), KEY)
    own = Placement(rows=(("[0].w", P(None, "data")),))
    assert specs(start, own) == {
        f"{path}[0].w": P(None, "data")
        for path in (".params", ".opt_state[1][0].mu", ".opt_state[1][0].nu")
    }
    # of an optimizer that keeps something of another shape, that is whole
    start = jax.eval_shape(lambda key: fp.init_state(MODEL, optax.adafactor(1e-3), key, X), KEY)
    assert {path.partition("[")[0] for path in specs(start, own)} <= {".params", ".opt_state"}
    assert specs(start, own)[".params[0].w"] == P(None, "data")


def test_an_update_steps_state_lies_as_its_layer():
    start = fp.init_update_state(MODEL, optax.adam(1e-3), KEY, X)
    own = Placement(rows=(("[2].w", P("data")),))
    wanted = {".params[2].w", ".opt_state[1][0].mu.w", ".opt_state[1][0].nu.w"}
    assert specs(start, own).keys() == wanted


@pytest.mark.parametrize(("model", "wanted"), [
    (fp.Serial(fp.Dense(8), fp.Dense(4)), {"[0].w": 1, "[0].b": 0, "[1].w": 0}),
    (fp.Dense(8), {}),
    (fp.Serial(fp.Dense(8), fp.Softmax(), fp.Dense(4)), {}),  # it looks at all features
    (fp.Skip(fp.SwiGLU(6, 8)), {"[0][0][0][0].w": 1, "[0][0][1].w": 1, "[0][2].w": 0}),
    (fp.Repeat(MODEL, 3), {"[0][0].w": 2, "[0][0].b": 1, "[0][2].w": 1}),
    (fp.SelfAttention(8, 2, fused=True), {}),
    (fp.SelfAttention(8, 2, fused=False, bias=False), {
        "[0][0][0].w": 1, "[0][1][0].w": 1, "[0][2][0].w": 1, "[3].w": 0}),
    (fp.CrossAttention(8, 2, bias=False), {
        "[1][0][0].w": 1, "[1][1][0].w": 1, "[1][2][0].w": 1, "[4].w": 0}),
    (fp.Serial(fp.Embedding(16, 8), fp.LearnedPositions(4)), {"[0].w": 0}),
    (fp.Conv(8, (3, 3)), {".w": 3, ".b": 0}),
    (fp.Conv(8, (3, 3), groups=2), {}),
], ids=str)  # fmt: skip
def test_which_axis_tensor_parallel_cuts(model, wanted):
    """By the path, the axis of the model."""
    rows = placement.tensor_parallel(model).rows
    assert {path: tuple(spec).index("model") for path, spec in rows} == wanted


def test_how_a_state_lies_in_one_line():
    state = fp.init_state(MODEL, optax.adam(1e-3), KEY, jnp.ones(X.shape))
    laid = fp.shard(state, mesh(), placement.fully_sharded())
    told = placement.layout(laid)
    assert told == "2 devices, mesh (data 2); 4 of 4 parameters spread, 568 B of 1.12 kB a device"
    with pytest.raises(TypeError, match=r"write layout\(fp.shard\("):
        placement.layout(state)


def test_what_cannot_be_laid_so_says_what_to_write():
    columns = Placement(rows=(("[0].w", P(None, "data")),))
    for where, told in (
        (
            placement.tensor_parallel(MODEL),
            r"'model', and the mesh has 'data': write jax.make_mesh",
        ),
        (Placement(rows=(("[7].w", P()),)), r"'\[7\].w' fits no parameter: there are \[0\].w, "),
        (
            Placement(rows=(("[0].b", P(None, "data")),)),
            r"'\[0\].b' has 2 axes.*\.b is \[8\]: write",
        ),
    ):
        with pytest.raises(ValueError, match=told):
            fp.shard(params(), mesh(), where)
    with pytest.raises(
        ValueError,
        match=r"params\[0\].w is \[6, 8\]: the mesh axis 'data' of 3 "
        r"does not divide the 8 of axis 1: .* write Placement\(rows=\(\('\[0\].w', ",
    ):
        columns.spec("[0].w", (6, 8), {"data": 3})  # fmt: skip
    with pytest.raises(
        ValueError,
        match=r"batch\[0\] is \[7, 6\]: the mesh axis 'data' of 2 does "
        "not divide the 7 of axis 0: give a multiple of 2, as 6",
    ):
        fp.shard_batch((jnp.ones((7, 6)), jnp.ones(7)), mesh(), placement.data_parallel())
    with pytest.raises(TypeError, match=r"wanted a mesh: write jax.make_mesh"):
        fp.shard(params(), jax.devices(), columns)
    with pytest.raises(TypeError, match=r"wanted a Placement: write fp.placement.data_parallel"):
        fp.shard(params(), mesh(), P("data"))
    for wrong, told in (
        ({"rows": (("[0].w", "data"),)}, "wanted a path and a spec"),
        ({"batch": "data"}, "wanted a spec"),
        ({"spread": "data"}, "wanted names of mesh axes"),
    ):
        with pytest.raises(TypeError, match=told):
            Placement(**wrong)
