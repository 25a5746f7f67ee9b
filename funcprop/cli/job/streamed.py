"""The portions of an epoch whose batches come from a stream, as those of arrays in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

from funcprop.data import stream
from funcprop.data.source import Source
from funcprop.layer import Array
from funcprop.training.portions import Portions
from funcprop.training.state import TrainState
from funcprop.training.step import Step


def streamed(
    step: Step,
    source: Source,
    prepare: Callable[..., Any],
    batch_size: int,
    seed: int,
    process: int = 0,
    processes: int = 1,
) -> Portions:
    """Portions over a source; batch k of the run depends on source, seed and k alone.

    prepare  (x, y) NumPy arrays of this process -> the batch that the step takes
    """
    # several processes cannot share the smaller batch at the end
    short = processes > 1 and bool(len(source) % batch_size)
    batches = stream(
        source, batch_size, seed=seed, drop_last=short, process=process, processes=processes,
        device=False,
    )  # fmt: skip
    steps = batches.steps_per_epoch

    @jax.jit
    def one(state: TrainState, losses: Array, batch: Any, i: Any) -> tuple[TrainState, Array]:
        state, metrics = step(state, batch)
        return state, losses.at[i].set(metrics.loss.astype(losses.dtype))

    def draw(key: Array, first: Any, data: None) -> int:
        return int(first) // steps

    def run(
        state: TrainState, losses: Array, epoch: int, start: int, until: int
    ) -> tuple[TrainState, Array]:
        nonlocal batches
        wanted = {**batches.position, "epoch": epoch, "step": start}
        if batches.position != wanted:  # a run that goes on
            batches.close()
            batches = batches.at(wanted)
        for i in range(start, until):
            state, losses = one(state, losses, prepare(*next(batches)), i)
        return state, losses

    return Portions(steps, steps * batch_size if short else len(source), draw, run)
