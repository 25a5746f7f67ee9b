"""A job followed to its end, or to where it is stopped: what is shown, saved and drawn."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.cli.errors import FailedRun, complain
from funcprop.cli.job.build import (
    averaged,
    build_objective,
    build_step,
)
from funcprop.cli.job.devices import Devices
from funcprop.cli.job.disk import OnDisk
from funcprop.cli.job.folder import (
    PARAMS,
    append_metrics,
)
from funcprop.cli.job.job import Job
from funcprop.cli.job.meters import norms_of, speed_of
from funcprop.cli.job.names import LOSSES
from funcprop.cli.job.pictures import (
    COSTS,
    CURVES,
    DELTAS,
    FILTERS,
    SUSPECTS,
    delta_norms_of,
    draw_costs,
    draw_curves,
    draw_deltas,
    draw_examples,
    draw_filters,
    draw_predictions,
)
from funcprop.cli.job.progress import progress
from funcprop.cli.job.recipe import Recipe, settled
from funcprop.cli.job.run import (
    Best,
    NonFiniteError,
    Reached,
    Record,
    Running,
    Score,
    beginning,
    history,
    score,
)
from funcprop.cli.job.saving import Saved
from funcprop.cli.job.streamed import streamed
from funcprop.cli.job.watching import events, traced
from funcprop.data import Dataset, Examples
from funcprop.data.text import VOCABULARY
from funcprop.layer import Context
from funcprop.losses.loss import Loss
from funcprop.models import to_objective
from funcprop.training.agreement import agreed, is_first
from funcprop.training.checkpoint import CheckpointError, save_checkpoint
from funcprop.training.loss_scaling import loss_scale
from funcprop.training.portions import Portions, portions
from funcprop.training.signals import Asked, asked_to_stop
from funcprop.training.state import TrainState
from funcprop.training.step import Step


class Watched(NamedTuple):
    """What a run writes beside its history."""

    plots: bool
    tensorboard: bool
    profile: bool
    speed: bool
    norms: bool


def follow(job: Job, saved: Saved | None, watched_by: Watched) -> int:
    """Train to the end, to a signal or to a loss that is no number; keep what was reached."""
    plots = watched_by.plots
    recipe, data, out = job.recipe, job.data, None if saved is None or not is_first() else saved.out
    step = build_step(recipe, job.model, job.optimizer)
    parts, train = portions_of(job, step)
    watched = job.part(data.test if data.validation is None else data.validation)
    name = "test" if data.validation is None else "validation"
    few, devices = len(watched[1]), job.devices
    training = job.part(Examples(data.train.x[:few], data.train.y[:few]))

    def judge(state: TrainState) -> tuple[Score, Score]:
        held, own = (
            score(job.model, state, part, LOSSES[recipe.loss]) for part in (watched, training)
        )
        return held, own

    look = look_at_deltas(job) if plots else None
    measured = measuring(job, watched_by)

    def average(state: TrainState) -> TrainState:
        return averaged(recipe, devices.local(state))

    start = laid(beginning(job.state, parts.steps, recipe.early_stopping is not None), devices)
    reached, records, deltas = (start, [], []) if saved is None else saved.restored(start)
    if look and not deltas:
        deltas.append(look(devices.local(reached.running.state)))
    failure: BaseException | None = None
    stops = None if saved is None else saved.every.steps
    epochs = history(
        *(parts, reached, train, judge, recipe.epochs, recipe.batch_size),
        every=stops,
        average=average,
        patience=recipe.early_stopping,
        lay=devices.everywhere,
        agreed=agreed,
    )
    hearing = contextlib.nullcontext(Asked()) if saved is None else asked_to_stop()
    shown = events(out if watched_by.tensorboard else None, len(records))
    profiled = traced(out if watched_by.profile else None)
    with hearing as asked, ends_in_words(out, records):
        try:
            with shown as curve, profiled as trace, progress(recipe.epochs, len(records)) as show:
                for reached in epochs:
                    record = reached.record
                    trace(reached)
                    if record is not None:
                        record = measured(record, reached.running.state)
                        records.append(record)
                        if look:
                            deltas.append(look(devices.local(reached.running.state)))
                        if out is not None:
                            append_metrics(out, record)
                        curve(record)
                        show(record)
                    if saved is not None:
                        saved.after(reached, deltas)
                    # one that was asked to stop stops all of them, here
                    if saved is not None and (number := int(agreed(asked.signal or 0))):
                        asked.signal = number
                        raise KeyboardInterrupt
        except (KeyboardInterrupt, NonFiniteError) as error:
            failure = error
        state = reached.shown(average, devices.local)
        if saved is not None and not isinstance(failure, NonFiniteError):
            saved.end(reached, deltas)
        if out is not None:
            keep(out, state, records, name, title(recipe, data))
            if plots:
                draw(job, state, deltas, out)
    if recipe.precision == "float16":
        print(skipped(state), flush=True)
    if failure is None:
        if reached.running.best:
            print(kept_epoch(reached.running.best, reached.epoch, recipe.epochs), flush=True)
        found = score(job.model, state, job.part(data.test), LOSSES[recipe.loss])
        print(accuracy(found, data), flush=True)
        return 0
    kept = f"{len(records)} of {recipe.epochs} epochs" + ("" if out is None else f" kept in {out}")
    if isinstance(failure, NonFiniteError):
        raise FailedRun(f"{failure} ({kept})") from failure
    if out is not None:
        kept += f", step {int(state.step)}: go on with funcprop train --resume {out}"
    return complain(f"interrupted after {kept}", 128 + (asked.signal or signal.SIGINT))


def measuring(job: Job, watched_by: Watched) -> Callable[[Record, TrainState], Record]:
    """A record with what is measured beside it: speed for a terminal's bar, the rest if asked."""
    speed = speed_of(job) if watched_by.speed or sys.stdout.isatty() else None
    norms = norms_of(job) if watched_by.norms else None

    def measured(record: Record, state: TrainState) -> Record:
        return record._replace(
            speed=None if speed is None else speed(record),
            norms=None if norms is None else norms(job.devices.local(state)),
        )

    return measured


def portions_of(job: Job, step: Step) -> tuple[Portions, Any]:
    """The portions of an epoch, and what they are drawn from: arrays, or None of data on disk."""
    recipe, data, devices = job.recipe, job.data, job.devices
    if isinstance(data, OnDisk) and data.source is not None:

        def prepared(x: np.ndarray, y: np.ndarray) -> Any:
            return devices.batch(job.part(Examples(x, y)))

        mine = devices.share()
        return streamed(step, data.source, prepared, recipe.batch_size, recipe.seed, *mine), None
    train = devices.everywhere(job.part(data.train))
    return portions(step, recipe.batch_size, train, devices.batches), train


def laid(start: Reached, devices: Devices) -> Reached:
    """The beginning of a run, as it lies on the devices."""
    state, losses, best = start.running
    others = devices.everywhere((losses, best))
    return start._replace(running=Running(devices.state(state), *others))


def skipped(state: TrainState) -> str:
    """`Loss scale: 16384; 1 of 90 steps was skipped, its gradients not finite`."""
    found = loss_scale(state)
    return (
        f"Loss scale: {found.scale:g}; {found.skipped} of {state.step} steps skipped, whose "
        "gradients were not finite"
    )


def kept_epoch(best: Best, ended: int, epochs: int) -> str:
    """`Stopped after 9 of 30 epochs; kept: epoch 5, with the smallest validation loss, 0.1234`."""
    early = f"Stopped after {ended} of {epochs} epochs; kept" if ended < epochs else "Kept"
    return f"{early}: epoch {best.epoch}, with the smallest validation loss, {best.loss:.4g}"


@contextlib.contextmanager
def ends_in_words(out: Path | None, records: Sequence[Record]) -> Iterator[None]:
    """Raises FailedRun where the folder cannot be written any more."""
    try:
        yield
    except CheckpointError as error:
        said = str(error)
    except OSError as error:
        said = f"{error.filename or out} cannot be written ({error.strerror}): make room"
    else:
        return
    raise FailedRun(
        f"{said}, with funcprop train --resume {out} ({len(records)} epochs were trained)"
    )


def keep(
    out: Path, state: TrainState, records: Sequence[Record], held_out: str, title: str
) -> None:
    """What was reached, into the folder."""
    save_checkpoint(out / PARAMS, state.params, state.statistics)
    if records:
        draw_curves(out / CURVES, records, held_out, title)


def title(recipe: Recipe, data: Dataset) -> str:
    """What was trained on what, in a line."""
    full = settled(recipe)
    sizes = "" if full.layers is None else " " + "-".join(map(str, full.layers))
    return f"{recipe.model}{sizes} on {data.name}, {recipe.optimizer} {full.learning_rate:g}"


def look_at_deltas(job: Job) -> Callable[[TrainState], tuple[np.ndarray, list[str]]]:
    """state -> ‖δ‖ of every layer on one mini-batch, and the layers' names."""
    size = job.recipe.batch_size
    batch = job.part(Examples(job.data.train.x[:size], job.data.train.y[:size]))
    model, loss = build_objective(job.recipe, job.model)
    norms = delta_norms_of(model, loss, batch)
    context = Context(jax.random.key(job.recipe.seed))

    def look(state: TrainState) -> tuple[np.ndarray, list[str]]:
        params = to_objective(state.params) if job.data.text else state.params
        return norms(params, context)

    return look


def draw(job: Job, state: TrainState, deltas: Sequence[Any], out: Path) -> None:
    """The pictures of --plots."""
    recipe, train = job.recipe, job.data.train
    draw_deltas(out / DELTAS, deltas)
    model, loss = build_objective(recipe, job.model)
    context = Context(jax.random.key(recipe.seed))
    params = to_objective(state.params) if job.data.text else state.params
    batch = job.part(Examples(train.x[: recipe.batch_size], train.y[: recipe.batch_size]))
    draw_costs(out / COSTS, model, loss, params, batch, context)
    if not isinstance(loss, Loss):  # of text, whose examples are windows of one tied model
        return
    draw_predictions(out, job.data, job.model, state)
    draw_filters(out / FILTERS, state.params, train.x.shape[1:])
    few = job.part(Examples(train.x[:SUSPECTS], train.y[:SUSPECTS]))
    draw_examples(out, model, loss, params, few, context, recipe.batch_size)


def accuracy(found: Score, data: Dataset) -> str:
    """`Test accuracy: 97.78 % (352 / 360)`, and of text how many bits a byte or token takes."""
    words = f"Test accuracy: {100 * found.accuracy:.2f} % ({found.right} / {found.of})"
    unit = "byte" if data.classes == VOCABULARY else "token"
    return f"{words}, {found.bits:.3f} bits per {unit}" if data.text else words
