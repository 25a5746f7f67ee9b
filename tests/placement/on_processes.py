"""One of several processes that train together: tests/placement/test_processes.py starts them.

python tests/placement/on_processes.py PORT NUMBER PROCESSES
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import on_devices
import optax

import funcprop as fp
from funcprop import placement


def problem():
    model = fp.Serial(fp.Dense(16), fp.Tanh(), fp.Dense(4))
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 6)), jnp.float32)
    optimizer = optax.adam(1e-2)
    step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    state = fp.init_state(model, optimizer, jax.random.key(0), x)
    return model, state, (x, jnp.arange(8, dtype=jnp.int32) % 4), step


def losses(step, state, batch):
    found = []
    for _ in range(3):
        state, metrics = step(state, batch)
        found.append(float(metrics.loss))
    return found


def pipeline(problem, mesh, number):
    """Prints the losses of a training in stages, two a process, and of the first process alone."""
    name = problem.__name__.removeprefix("deep_")
    model, _, _ = problem()

    def pipelined(model, loss):
        return fp.pipelines.pipelined(model, loss, mesh, on_devices.PARTS)

    state, batch, step = on_devices.start(problem, pipelined)
    stages = placement.pipeline_parallel(model)
    laid = fp.shard(state, mesh, stages), fp.shard_batch(batch, mesh, stages)
    print(json.dumps({f"{name} pipeline": losses(jax.jit(step), *laid)}), flush=True)
    if number == 0:
        state, batch, step = on_devices.start(problem, on_devices.in_parts)
        print(json.dumps({f"{name} alone": losses(jax.jit(step), state, batch)}), flush=True)


def main():
    port, number, processes = map(int, sys.argv[1:])
    jax.config.update("jax_num_cpu_devices", 2)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, number)
    model, state, (x, y), step = problem()
    mine = slice(number * 8 // processes, (number + 1) * 8 // processes)
    mesh = jax.make_mesh((processes, 2), ("data", "model"))
    for word, where in (
        ("data", placement.data_parallel()),
        ("both", placement.fully_sharded() | placement.tensor_parallel(model)),
    ):
        laid = fp.shard(state, mesh, where)
        batch = fp.shard_batch((x[mine], y[mine]), mesh, where)
        assert batch[0].shape == x.shape
        print(json.dumps({word: losses(jax.jit(step), laid, batch)}), flush=True)
    for each in (on_devices.deep_mlp, on_devices.convnet, on_devices.deep_gpt):
        pipeline(each, jax.make_mesh((2 * processes,), ("stage",)), number)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main()
