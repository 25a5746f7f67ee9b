"""What tests/placement/test_devices.py looks at, in a process of eight devices: runs as JSON.

JAX_NUM_CPU_DEVICES=8 python tests/placement/on_devices.py
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from traffic import kinds  # beside this file, which is run by itself

import funcprop as fp
from funcprop import placement

COUNTS = (1, 2, 4, 8)
STEPS = 3
PARTS = 4  # microbatches
SCHEDULES = {1: "1F1B", 2: "GPipe", 4: "ZB-H1", 8: "ZB-H2"}


def mlp():
    model = fp.mlp((64, 32), 8, activation=fp.Tanh(), axes=1)
    return model, fp.SoftmaxCrossEntropy(), images((16, 16))


def convnet():
    return fp.convnet(8, width=8), fp.SoftmaxCrossEntropy(), images((16, 8, 8, 1))


def gpt():
    model = fp.gpt(32, 16, width=32, depth=2, heads=8, fused=False)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 32, (8, 17)), jnp.int32)
    return fp.models.gpt_objective(model, chunk=64), None, (tokens[:, :-1], tokens[:, 1:])


def deep():
    """Of many layers, so that the one that is gathered weighs little."""
    layer = fp.Skip(fp.Serial(fp.Dense(64), fp.Tanh()))
    return fp.Repeat(layer, 64), fp.MeanSquaredError(), (jnp.ones((64, 64)),) * 2


def deep_mlp():
    model = fp.mlp((64, 32, 32, 16), 8, activation=fp.Tanh(), axes=1)
    return model, fp.SoftmaxCrossEntropy(), images((16, 16))


def deep_gpt():
    model = fp.gpt(32, 16, width=16, depth=8, heads=2)
    return fp.models.gpt_objective(model, chunk=64), None, gpt()[2]


def images(shape):
    x = np.random.default_rng(0).normal(size=shape)
    return jnp.asarray(x, jnp.float32), jnp.arange(shape[0], dtype=jnp.int32) % 8


def start(problem, gradient=fp.backprop):
    model, loss, batch = problem()
    optimizer = optax.adam(1e-2)
    x = batch if loss is None else batch[0]
    state = fp.init_state(model, optimizer, jax.random.key(0), x)
    return state, batch, fp.train_step(gradient(model, loss), optimizer)


def in_parts(model, loss):
    return fp.accumulate(fp.backprop(model, loss), PARTS)


def losses(step, state, batch):
    found = []
    for _ in range(STEPS):
        state, metrics = step(state, batch)
        found.append(float(metrics.loss))
    return found, state


def run(name, problem, where, sizes, kind=AxisType.Explicit, runs=True):
    """Prints what a training on a mesh did."""
    devices = jax.devices()[: int(np.prod(list(sizes.values())))]
    mesh = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(kind,) * len(sizes), devices=devices
    )

    def pipelined(model, loss):
        schedule = SCHEDULES[mesh.shape["stage"]]
        return fp.pipelines.pipelined(model, loss, mesh, PARTS, schedule=schedule)

    state, batch, step = start(problem, pipelined if "stage" in sizes else fp.backprop)
    state, batch = fp.shard(state, mesh, where), fp.shard_batch(batch, mesh, where)
    lies = jax.tree.map(lambda leaf: leaf.sharding, state)
    stays = None if kind == AxisType.Explicit else (lies, None)
    step = jax.jit(step, out_shardings=stays, donate_argnums=0)
    layout = placement.layout(state)
    compiled = step.lower(state, batch).compile()
    memory = compiled.memory_analysis()
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes
    values, after = losses(compiled, state, batch) if runs else ([], state)
    same = jax.tree.map(lambda leaf, at: leaf.sharding.is_equivalent_to(at, leaf.ndim), after, lies)
    print(json.dumps({
        "name": name,
        "losses": values,
        "collectives": dict(kinds(compiled.as_text())),
        "bytes": held + memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "stays": jax.tree.all(same),
        "layout": layout,
    }), flush=True)  # fmt: skip


def main():
    for problem in (mlp, convnet, gpt):
        state, batch, step = start(problem)
        values, _ = losses(jax.jit(step), state, batch)
        print(json.dumps({"name": f"{problem.__name__} alone", "losses": values}), flush=True)
        tensor = placement.tensor_parallel(problem()[0])
        for count in COUNTS:
            for word, where, axis in (
                ("data", placement.data_parallel(), "data"),
                ("full", placement.fully_sharded(), "data"),
                ("tensor", tensor, "model"),
            ):
                if count == 1 and word != "full":  # they are the same program
                    continue
                run(f"{problem.__name__} {word} {count}", problem, where, {axis: count})
        if problem is not convnet:
            both = placement.fully_sharded() | tensor
            run(f"{problem.__name__} both", problem, both, {"data": 2, "model": 4})
    for problem in (deep_mlp, convnet, deep_gpt):
        state, batch, step = start(problem, in_parts)
        values, _ = losses(jax.jit(step), state, batch)
        name = problem.__name__.removeprefix("deep_") + " pipeline"
        print(json.dumps({"name": f"{name} alone", "losses": values}), flush=True)
        stages = placement.pipeline_parallel(problem()[0])
        for count in COUNTS:
            run(f"{name} {count}", problem, stages, {"stage": count})
        if problem is deep_mlp:
            both = placement.data_parallel() | stages
            run(f"{name} apart", problem, both, {"data": 2, "stage": 4})
    auto = placement.fully_sharded() | placement.tensor_parallel(gpt()[0])
    run("gpt auto", gpt, auto, {"data": 4, "model": 2}, AxisType.Auto)
    sequence = placement.data_parallel() | placement.sequence_parallel()
    run("gpt sequence", gpt, sequence, {"data": 2, "sequence": 4})
    for count in COUNTS:
        run(f"deep full {count}", deep, placement.fully_sharded(), {"data": count}, runs=False)


if __name__ == "__main__":
    main()
