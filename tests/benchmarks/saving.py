"""What saving a run costs, and what stays in memory: the figures in docs/benchmarks.md.

    python tests/benchmarks/saving.py [--steps 10000]

First, for states of several sizes, how long training waits for a save, how long it takes until the
checkpoint is on the disk, and the share of the time where a run is saved once a minute, as
`funcprop train --out` does. Then a run of many steps, saved every hundred: its resident memory on
the way, and its programs.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import funcprop as fp
from funcprop.training.portions import portions


def resident() -> float:
    """MB of memory that is this process's own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) / 1000 if found else float("nan")


def state_of(width: int) -> fp.TrainState:
    """A perceptron of three layers of this width, and Adam's averages."""
    model, x = fp.models.mlp((width, width), 10, axes=1), jnp.ones((2, width))
    return fp.init_state(model, optax.adam(1e-3), jax.random.key(0), x)


def cost_of_a_save(width: int, folder: Path, saves: int = 5) -> tuple[float, float, float]:
    """-> MB of the state, seconds that training waits, seconds until it is written: medians."""
    state = jax.block_until_ready(state_of(width))
    waits, wholes = [], []
    with fp.Checkpoints(folder, keep=1) as checkpoints:
        for number in range(saves + 1):  # the first compiles
            start = time.perf_counter()
            checkpoints.save(state._replace(step=jnp.int32(number)))
            waits.append(time.perf_counter() - start)
            checkpoints.wait()
            wholes.append(time.perf_counter() - start)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state._replace(key=()))) / 1e6
    return size, statistics.median(waits[1:]), statistics.median(wholes[1:])


def long_run(steps: int, folder: Path) -> Iterator[tuple[int, float]]:
    """Epoch after epoch, saved about every hundred steps: -> step, MB."""
    data = fp.data.load("digits").train
    x, y = jnp.asarray(data.x), jnp.asarray(data.y)
    model, optimizer = fp.models.mlp((256,), 10), optax.adam(1e-3)
    state = fp.init_state(model, optimizer, jax.random.key(0), x[:2])
    step = fp.train_step(fp.backprop(model, fp.SoftmaxCrossEntropy()), optimizer)
    parts = portions(step, 32, (x, y))
    losses = jnp.zeros(parts.steps)
    with fp.Checkpoints(folder, keep=2) as checkpoints:
        for number in range(0, steps, parts.steps):
            batches = parts.draw(state.key, jnp.int32(number), (x, y))
            state, losses = jax.block_until_ready(parts.run(state, losses, batches, 0, parts.steps))
            if number // 100 != (number + parts.steps) // 100:
                checkpoints.save(state, {"epoch": number})
            yield number + parts.steps, resident()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    given = parser.parse_args()
    compiled: list[str] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    with tempfile.TemporaryDirectory() as folder:
        print("state   training waits   on the disk after   once a minute")
        for width in (64, 512, 2048):
            size, waits, whole = cost_of_a_save(width, Path(folder, str(width)))
            print(
                f"{size:6.1f} MB {1e3 * waits:8.0f} ms {1e3 * whole:14.0f} ms"
                f" {whole / 60:14.2%}"  # the cores that write do not train meanwhile
            )
        rows, programs = [], []
        for step, memory in long_run(given.steps, Path(folder, "run")):
            rows.append((step, memory))
            programs.append(len(compiled))
    print(f"\n{given.steps:,} steps of a perceptron on digits, saved every hundred")
    for step, memory in rows[:: max(1, len(rows) // 8)]:
        print(f"step {step:6,}   {memory:6.0f} MB")
    late = np.array([memory for step, memory in rows if step > given.steps / 5])
    print(f"resident memory after a fifth of the run: {late.min():.0f} to {late.max():.0f} MB")
    print(f"programs compiled after the first five epochs: {programs[-1] - programs[4]}")


if __name__ == "__main__":
    main()
