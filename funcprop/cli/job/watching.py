"""A run as other programs watch it: TensorBoard's events, and a trace for a profiler."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from funcprop.cli.job.run import Reached, Record
from funcprop.extras import require

EVENTS, TRACE = "tensorboard", "profile"
CURVES = {
    "loss/training": lambda record: record.loss,
    "loss/held-out": lambda record: record.held_out_loss,
    "accuracy/training": lambda record: record.training_accuracy,
    "accuracy/held-out": lambda record: record.accuracy,
    "examples a second": lambda record: record.examples / record.seconds,
}


@contextlib.contextmanager
def events(folder: Path | None, done: int) -> Iterator[Callable[[Record], None]]:
    """A function that writes a record where TensorBoard reads it; without a folder it does nothing.

    done  epochs that an earlier run has taken: what it wrote after them is not shown
    """
    if folder is None:
        yield lambda record: None
        return
    library = require("tensorboardX", "train")
    writer = library.SummaryWriter(str(folder / EVENTS), purge_step=done or None)

    def write(record: Record) -> None:
        for name, value in CURVES.items():
            writer.add_scalar(name, value(record), record.epoch)
        for name, value in (record.speed or {}).items():
            writer.add_scalar(f"speed/{name}", value, record.epoch)
        for layer, (norm, share) in (record.norms or {}).items():
            place = layer.strip("[]").replace("][", ".")  # brackets mean nothing there
            writer.add_scalar(f"gradient norm/{place}", norm, record.epoch)
            writer.add_scalar(f"update over weights/{place}", share, record.epoch)
        writer.flush()  # as metrics.jsonl: there when the next epoch begins

    try:
        yield write
    finally:
        writer.close()


@contextlib.contextmanager
def traced(folder: Path | None) -> Iterator[Callable[[Reached], None]]:
    """A function that is told of every portion: the second and third are written as a JAX trace.

    The first compiles; more of them make a file of gigabytes. Without a folder nothing is done.
    """
    seen = 0

    def told(reached: Reached) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            jax.profiler.start_trace(folder / TRACE)  # type: ignore[operator]
        elif seen == 3:
            jax.profiler.stop_trace()

    if folder is None:
        yield lambda reached: None
        return
    try:
        yield told
    finally:
        if 1 <= seen < 3:
            jax.profiler.stop_trace()
