"""The bubble of pipelines that run, beside the simulated one.

    python tests/benchmarks/pipelines.py            two tables in Markdown
    python tests/benchmarks/pipelines.py --drawn    and what each stage did when

Four devices of a CPU share its cores, so that a stage which waits leaves its core to one that works
and the clock shows no bubble. It does where work is waiting, too: here every layer sleeps for a
known time in its forward and in each half of its backward, and notes when. These notes are a
`Timeline`, as the simulator makes them, with the same definition of the bubble. The simulator lets
every stage begin as soon as what it reads is there; devices in step wait in every tick for the one
that takes longest, which is the same where F, B and W take as long. Both are in the table.

Then a step of a GPT in four stages, whose devices count what they do in how many ticks. What the
idle ones come to is told by what F, B and W of a stage take, measured alone.
"""

import os

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "4")

import statistics
import sys
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

import funcprop as fp
from funcprop.pipelines import StageTimes, Timeline, pipelined, simulate_pipeline
from funcprop.pipelines.schedule import Span, Step
from funcprop.pipelines.ticks import KINDS, ticks

STAGES, MICROBATCHES, RUNS = 4, 8, 5
SCHEDULES = ("GPipe", "1F1B", "ZB-H1", "ZB-H2")
EVEN, UNEVEN = StageTimes(0.03, 0.03, 0.03), StageTimes(0.03, 0.036, 0.024)
NOTES: list[tuple[int, str, float, float]] = []  # stage, kind, start, end


@dataclass(frozen=True)
class Sleep(fp.Layer):
    """y = x w, and the times of its stage asleep."""

    stage: int
    times: StageTimes

    def init(self, key, x):
        return jnp.eye(x.shape[-1], dtype=x.dtype)

    def asleep(self, kind, seconds, result):
        def sleep(result):
            start = time.perf_counter()
            time.sleep(seconds)
            NOTES.append((self.stage, kind, start, time.perf_counter()))
            return np.asarray(result)

        return jax.pure_callback(sleep, jax.ShapeDtypeStruct(result.shape, result.dtype), result)

    def forward(self, params, x, context=fp.Context()):
        return self.asleep("F", self.times.forward, x @ params), x

    def backward(self, params, x, dy):
        dx = self.asleep("B", self.times.input_half, dy @ params.T)
        return dx, self.asleep("W", self.times.weight_half, x.T @ dy)


def timeline(schedule):
    """What the notes say, as the simulator says it."""
    stages = []
    for stage in range(STAGES):
        own = sorted((start, end, kind) for s, kind, start, end in NOTES if s == stage)
        count = dict.fromkeys("FBW", -1)
        spans = []
        for start, end, kind in own:
            count[kind] += 1
            spans.append(Span(Step(kind, count[kind]), start, end))
        stages.append(tuple(spans))
    first = min(spans[0].start for spans in stages)
    return Timeline(schedule, tuple(
        tuple(Span(step, start - first, end - first) for step, start, end in spans)
        for spans in stages
    ))  # fmt: skip


def in_step(table, schedule, times):
    """The ticks, each as long as the longest of what is done in it."""
    each = np.array([0, *times])[table.kind]
    starts = np.cumsum([0, *each.max(0)])
    return Timeline(schedule, tuple(
        tuple(
            Span(Step(KINDS[kind], 0), starts[t], starts[t] + each[stage, t])
            for t, kind in enumerate(row) if kind
        )
        for stage, row in enumerate(table.kind)
    ))  # fmt: skip


def asleep(schedule, times, mesh):
    """The run with the least cost, and the wall clock of it."""
    # with something to learn before it, the first stage has an input half, too
    model = fp.Serial(fp.Dense(4), *(Sleep(stage, times) for stage in range(STAGES)))
    x = jnp.ones((MICROBATCHES, 4))
    params = model.init(jax.random.key(0), x)
    gradient = pipelined(
        model, fp.MeanSquaredError(), mesh, MICROBATCHES, schedule=schedule, cuts=(2, 3, 4)
    )
    found = []
    for run in range(RUNS + 1):
        NOTES.clear()
        start = time.perf_counter()
        jax.block_until_ready(gradient(params, (x, x)))
        wall = time.perf_counter() - start
        assert len(NOTES) == 3 * STAGES * MICROBATCHES, len(NOTES)
        if run:  # the first compiles
            found.append((timeline(schedule), wall))
    return min(found, key=lambda each: each[0].cost)


def sleeping(mesh, drawn):
    print("| F, B, W in ms | schedule | bubble: simulated | in step | measured ", end="")
    print("| a step: in step | measured |\n|---|---|---|---|---|---|---|")
    for times in (EVEN, UNEVEN):
        for schedule in SCHEDULES:
            simulated = simulate_pipeline(schedule, [times] * STAGES, MICROBATCHES)
            table = ticks(schedule, STAGES, MICROBATCHES, 1)
            waiting = in_step(table, schedule, times)
            found, wall = asleep(schedule, times, mesh)
            row = (
                ", ".join(f"{1e3 * t:.0f}" for t in times),
                schedule,
                *(f"{abs(each.bubble_fraction):.1%}" for each in (simulated, waiting, found)),
                *(f"{1e3 * seconds:.0f} ms" for seconds in (waiting.makespan, wall)),
            )
            print(f"| {' | '.join(row)} |", flush=True)
            if drawn:
                print(found)


def counting(mesh):
    width, length = 64, 32
    model = fp.gpt(256, length, width=width, depth=8, heads=4)
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, 256, (32, length + 1)), jnp.int32)
    batch = tokens[:, :-1], tokens[:, 1:]
    params = model.init(jax.random.key(0), batch[0])
    loss = fp.SoftmaxCrossEntropy()
    stage = fp.Repeat(model.layers[0].layers[0].layers[2].layers[0], 2)
    x = jnp.ones((32 // MICROBATCHES, length, width))
    times = fp.pipelines.stage_times(stage, stage.init(jax.random.key(1), x), x)
    print("\nF {:.2f}, B {:.2f}, W {:.2f} ms\n".format(*(1e3 * t for t in times)))
    print("| schedule | idle ticks | counted by the devices | of the time | a step | one device |")
    print("|---|---|---|---|---|---|")
    alone = jax.jit(fp.accumulate(fp.backprop(model, loss), MICROBATCHES))
    for schedule in SCHEDULES:
        gradient = pipelined(model, loss, mesh, MICROBATCHES, schedule=schedule)
        seconds = [[], []]
        for run in range(RUNS + 1):
            for found, function in zip(seconds, (gradient.counted, alone), strict=True):
                start = time.perf_counter()
                result = jax.block_until_ready(function(params, batch))
                if run:
                    found.append(time.perf_counter() - start)
                if function is not alone:
                    count = np.asarray(result[2])
        idle, idle_counted = gradient.table.actions()[:, 0], count[:, 0]
        waiting = in_step(gradient.table, schedule, times)
        busy = sum(span.end - span.start for spans in waiting.stages for span in spans)
        shares = (
            idle.sum() / gradient.table.kind.size,
            idle_counted.sum() / count.sum(),
            1 - busy / (STAGES * waiting.makespan),
        )
        row = (
            schedule,
            *(f"{share:.1%}" for share in shares),
            *(f"{1e3 * statistics.median(own):.0f} ms" for own in seconds),
        )
        print(f"| {' | '.join(row)} |", flush=True)


def main():
    mesh = jax.make_mesh((STAGES,), ("stage",))
    sleeping(mesh, "--drawn" in sys.argv[1:])
    counting(mesh)


if __name__ == "__main__":
    main()
