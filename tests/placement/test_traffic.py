"""Bytes between devices, read from programs: known ones, and a closed form on eight devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .traffic import Collective, collectives, group_of, kinds, size_of

PROGRAM = """HloModule jit_f, entry_computation_layout={...}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %r = f32[] add(%a, %b)
}

%body (p: (s32[], f32[4,8])) -> (s32[], f32[4,8]) {
  %g = f32[4,8]{0,1} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[8], dimensions={1}
  %s = (f32[8]{0}, /*index=1*/bf16[3,2]{1,0}) all-reduce(%y, %z), channel_id=2, \
replica_groups=mesh['a'=4,'b'=2] {'b'}, to_apply=%add
}

ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %w = (s32[], f32[4,8]) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %c = f32[16]{0} collective-permute(%w), channel_id=3, source_target_pairs={{0,1},{1,0}}
  %k = u8[16]{0} reduce-scatter(%c), channel_id=4, replica_groups={{0,1},{2,3},{4,5},{6,7}}
}

%cond (p: (s32[], f32[4,8])) -> pred[] {
}
"""


def test_a_known_program():
    found = {each.kind: each for each in collectives(PROGRAM, 8)}
    assert found == {
        "all-gather": Collective("all-gather", 128, 4, 5),
        "all-reduce": Collective("all-reduce", 44, 2, 5),
        "collective-permute": Collective("collective-permute", 64, 8, 1),
        "reduce-scatter": Collective("reduce-scatter", 16, 2, 1),
    }
    sent = {kind: each.sent for kind, each in found.items()}
    assert sent["all-gather"] == 5 * 128 * 3 / 4
    assert sent["all-reduce"] == 5 * 44 * 2 / 2
    assert sent["collective-permute"] == 64 and sent["reduce-scatter"] == 16
    assert sum(kinds(PROGRAM).values()) == 4


@pytest.mark.parametrize(
    ("groups", "size"),
    [("{{0,1,2},{3,4,5}}", 3), ("[4,2]<=[2,4]T(1,0)", 2), ("mesh['x'=2,'y'=3] {'x','y'}", 6),
     ("mesh['x'=8] {'x':(2)4}", 4), ("{}", 6)],
)  # fmt: skip
def test_groups(groups, size):
    assert group_of(f"all-reduce(%x), replica_groups={groups}, to_apply=%add", 6) == size


def test_sizes():
    assert size_of("pred[7]{0}") == 7 and size_of("f32[]") == 4 and size_of("s64[2,3]") == 48


def test_a_closed_form_on_eight_devices():
    """A stack of layers, data parallel: 2 (n-1)/n of its gradients, and of the loss."""
    code = """
import jax, jax.numpy as jnp
import funcprop as fp
from tests.placement.traffic import collectives
model = fp.Repeat(fp.Dense(16), 5)
params, x = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((8, 16))), jnp.ones((8, 16))
mesh = jax.make_mesh((8,), ("data",))
where = fp.placement.data_parallel()
lies = fp.placement.shardings(params, mesh, where)
put = lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at)
batch = (put(x, jax.sharding.NamedSharding(mesh, where.batch)),) * 2
gradient = jax.jit(fp.backprop(model, fp.MeanSquaredError()))
program = gradient.lower(jax.tree.map(put, params, lies), batch).compile()
found = sum(each.sent for each in collectives(program.as_text(), 8))
assert found == 2 * 7 / 8 * 4 * (5 * (16 * 16 + 16) + 1), found
"""
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "JAX_PLATFORMS": "cpu"}
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, env=environment,
        check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
