"""funcprop train: a network taught by hand-written backpropagation."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from funcprop.cli.errors import FailedRun, complain
from funcprop.cli.job.build import (
    build_gradient,
    build_model,
    build_objective,
    build_optimizer,
    check_data,
    prepare,
)
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.folder import (
    PARAMS,
    append_metrics,
    check_folder,
    clear,
    read_config,
    read_saving,
    write_config,
)
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
from funcprop.cli.job.run import NonFiniteError, Record, Score, beginning, history, score
from funcprop.cli.job.saving import Every, Saved, alone, every, one_voice, open_checkpoints
from funcprop.comparison.front import compare
from funcprop.data import Dataset, Examples, load
from funcprop.gradient import backprop
from funcprop.inspection import Summary, summary
from funcprop.layer import Array, Context, Layer
from funcprop.losses.loss import Loss
from funcprop.models import to_objective
from funcprop.training.checkpoint import CheckpointError, save_checkpoint
from funcprop.training.checkpoints import Checkpoints
from funcprop.training.portions import portions
from funcprop.training.signals import Asked, asked_to_stop
from funcprop.training.state import TrainState, init_state
from funcprop.training.step import train_step


@dataclass(frozen=True)
class Train(Recipe):
    """Train a network, after comparing its hand-written gradient with automatic differentiation.

    Prints the model, the gradient check and a line for each epoch (how many held-out examples are
    classified right, or bytes of text foretold), and at the end the accuracy on the test set.

      funcprop train
      funcprop train --layers 64 64 --activation gelu --optimizer adamw --out runs/digits
      funcprop train --gradient automatic
      funcprop train --model convnet --data mnist --data-dir DIR --epochs 6
      funcprop train --model gpt --data text: --epochs 5 --out runs/gpt

    Nielsen's first network, which reaches 95 % on MNIST, with sigmoid outputs and N(0, 1) weights:

      funcprop train --data mnist --data-dir DIR --layers 30 --activation sigmoid
        --loss quadratic --optimizer sgd --learning-rate 3 --batch-size 10 --epochs 15
    """

    out: Path | None = None
    """Write config.json, metrics.jsonl (a JSON object for each epoch), curves.png and
    params.safetensors into this new folder; without it nothing is written."""

    overwrite: bool = False
    """Let --out be a folder that is not empty: the files of its earlier run are replaced."""

    plots: bool = False
    """Write more pictures into --out: the norms of δ layer by layer, the first layer's filters, the
    test set's confusion matrix and wrong images, the norms of single examples' gradients and the
    noise in that of a mini-batch, what it costs by hand and by jax.grad, and of points in a plane
    the boundary between the classes."""

    checkpoint_every: str | None = None
    """How often everything is saved into the folder of --out: after a number of steps, such as 500,
    or 2epochs, 90s, 10m (without the option 1m), 1h; never is at the end and when stopped alone."""

    resume: Path | None = None
    """Go on with the run in this folder, from what it saved last, as if it had not stopped. With
    --epochs it becomes longer."""

    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Nothing: the recipe is checked where it is taken out, not inside the parser."""

    def recipe(self) -> Recipe:
        """The recipe without what only the command line knows; raises RecipeError."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


EVERY = "1m"  # how often a run is saved


class Job(NamedTuple):
    """A recipe made concrete: everything a run needs, before its first step."""

    recipe: Recipe
    data: Dataset
    model: Layer
    state: TrainState

    def open_checkpoints(self, out: Path, rate: Every) -> Checkpoints:
        """Where the run is saved."""
        return open_checkpoints(out, self.recipe, self.model, self.data, rate)

    def part(self, examples: Examples) -> tuple[Array, Array]:
        """(x, target) on the device, as the loss wants it."""
        return prepare(self.recipe, *examples, self.data.classes)


def make_job(recipe: Recipe, data: Dataset) -> Job:
    """Model and first state for the data. Raises RecipeError where the two do not fit."""
    examples, example = len(data.train.y), data.train.x.shape[1:]
    check_data(recipe, data)
    if data.classes < 2:
        raise RecipeError(f"--data: {data.name} has one class, wanted at least two to tell apart")
    if recipe.batch_size > examples:
        raise RecipeError(
            f"--batch-size is {recipe.batch_size}, and {data.name} has {examples} training examples"
        )
    model = build_model(recipe, example, data.classes)
    x = jax.ShapeDtypeStruct((recipe.batch_size, *example), data.train.x.dtype)
    optimizer = build_optimizer(recipe)
    # one compilation instead of one for every operation of every initializer
    state = jax.jit(lambda key: init_state(model, optimizer, key, x))(jax.random.key(recipe.seed))
    return Job(recipe, data, model, state)


def run(command: Train) -> int:
    """`funcprop train`: 0, 1 where the gradient is wrong or the run fails, 130 after Ctrl-C."""
    if command.resume is not None:
        return resume(command, command.resume)
    recipe, out = command.recipe(), command.out
    rate = every(command.checkpoint_every or EVERY)
    if out is not None:
        check_folder(out, command.overwrite)
    elif command.plots or command.checkpoint_every is not None:
        option = "--plots" if command.plots else "--checkpoint-every"
        raise RecipeError(f"{option} writes into the folder of --out: give one, as --out runs/one")
    job = make_job(recipe, read(recipe, recipe.data, recipe.data_dir, recipe.validation))
    print(introduction(job), flush=True)
    print(gradient_check(job), flush=True)
    if out is None:
        return follow(job, command, None)
    out.mkdir(parents=True, exist_ok=True)
    with alone(out), one_voice():
        check_folder(out, command.overwrite)  # another run may have come first
        clear(out)
        command = dataclasses.replace(command, checkpoint_every=command.checkpoint_every or EVERY)
        write_run(out, job, command)
        return follow(job, command, Saved(out, job.open_checkpoints(out, rate), rate))


def resume(command: Train, folder: Path) -> int:
    """`funcprop train --resume FOLDER`: on from what was saved, to the same bits."""
    recipe, saving, more = stored(command, folder)
    job = make_job(recipe, read(recipe, recipe.data, recipe.data_dir, recipe.validation))
    command = dataclasses.replace(command, **saving)
    rate = every(command.checkpoint_every or EVERY)
    with alone(folder), one_voice():
        if more:
            write_run(folder, job, command)
        return follow(job, command, Saved(folder, job.open_checkpoints(folder, rate), rate))


def write_run(out: Path, job: Job, command: Train) -> None:
    """config.json, from which the run is gone on with."""
    how = {"checkpoint_every": command.checkpoint_every, "plots": command.plots}
    data = job.data
    write_config(out, job.recipe, data.train.x.shape[1:], data.classes, data.labels, how)


def stored(command: Train, folder: Path) -> tuple[Recipe, dict[str, Any], bool]:
    """-> the recipe of an earlier run, how it is saved, and whether it shall now be longer.

    Raises RecipeError where the command wants another recipe.
    """
    if command.out is not None or command.overwrite:
        raise RecipeError("--resume goes on in its own folder: leave out --out and --overwrite")
    recipe, _, _ = read_config(folder)
    given, default = command.recipe(), Recipe()
    for field in dataclasses.fields(Recipe):
        wanted, had = getattr(given, field.name), getattr(recipe, field.name)
        if field.name in ("epochs", "data_dir") or wanted == getattr(default, field.name):
            continue
        if wanted != had:
            option = field.name.replace("_", "-")
            raise RecipeError(
                f"--{option} is {wanted}, and {folder} was trained with {had}: only --epochs and "
                "--data-dir may be others; start a new run with --out"
            )
    more = given.epochs != default.epochs and given.epochs != recipe.epochs
    recipe = dataclasses.replace(
        recipe,
        epochs=given.epochs if more else recipe.epochs,
        data_dir=given.data_dir or recipe.data_dir,
    )
    saving = read_saving(folder)
    if command.checkpoint_every is not None:
        saving["checkpoint_every"] = command.checkpoint_every
    saving["plots"] = bool(command.plots or saving.get("plots"))
    return recipe, saving, more


def read(recipe: Recipe, name: str, folder: Path | None, validation: bool = False) -> Dataset:
    """The data set `name`; text in windows of the model's length."""
    length = settled(recipe).length if name.startswith("text:") else None
    return load(name, folder, validation, length)


def introduction(job: Job) -> str:
    """The data, the model layer by layer, and the recipe."""
    recipe, data = settled(job.recipe), job.data
    parts = [f"{len(data.train.y):,} training"]
    if data.validation is not None:
        parts.append(f"{len(data.validation.y):,} validation")
    parts.append(f"{len(data.test.y):,} test")
    example = list(data.train.x.shape[1:])
    what = f"examples {example}, {data.classes} classes"
    if data.text:
        what = f"windows of {example[0]} bytes"
    init = "" if recipe.init is None else f"init {recipe.init}, "
    return (
        f"{data.name}: {' + '.join(parts)} {what}\n"
        f"{summarized(job)}\n\n"
        f"{recipe.loss} loss, {recipe.optimizer} at learning rate {recipe.learning_rate:g}, "
        f"mini-batches of {recipe.batch_size}, {init}seed {recipe.seed}"
    )


def summarized(job: Job, seconds: float = 0.0) -> Summary:
    """The model layer by layer as it reads a mini-batch; of text with its loss.

    seconds  that every layer is run by itself
    """
    recipe = job.recipe
    x, y = (
        jax.ShapeDtypeStruct((recipe.batch_size, *part.shape[1:]), part.dtype)
        for part in job.data.train
    )
    model, loss = build_objective(recipe, job.model)
    context = Context(jax.random.key(recipe.seed))
    return summary(model, (x, y) if loss is None else x, context=context, seconds=seconds)


def gradient_check(job: Job) -> str:
    """One line that says how the hand-written gradient compares with JAX's on a few examples.

    Raises FailedRun, naming layer and leaf, where it is wrong.
    """
    if job.recipe.gradient == "automatic":
        return "Gradient: automatic, by jax.grad"
    # a few examples, and of text a few bytes each: no more is needed to see a wrong rule
    count = (slice(2), slice(16)) if job.data.text else slice(5)
    batch = job.part(Examples(job.data.train.x[count], job.data.train.y[count]))
    params = to_objective(job.state.params) if job.data.text else job.state.params
    gradient = backprop(*build_objective(job.recipe, job.model))
    found = compare(gradient, params, batch, Context(jax.random.key(0)), probes=2)
    if not found.ok:
        first = found.wrong[0]
        raise FailedRun(
            f"the hand-written gradient is wrong in {first.name} (by hand {first.by_hand:.6g}, "
            f"automatic {first.expected:.6g}; wanted: {first.rule}), and nothing was trained: "
            "correct that backward, or train with --gradient automatic"
        )
    worst = max(row.relative for row in found.rows if row.dtype == "float64")
    return (
        f"Gradient: by hand, agrees with jax.grad in {len(found.rows)} comparisons "
        f"(float64: {worst:.0e})"
    )


def follow(job: Job, command: Train, saved: Saved | None) -> int:
    """Train to the end, to a signal or to a loss that is no number; keep what was reached."""
    recipe, data, out = job.recipe, job.data, None if saved is None else saved.out
    step = train_step(build_gradient(recipe, job.model), build_optimizer(recipe))
    train = job.part(data.train)
    parts = portions(step, recipe.batch_size, train)
    watched = job.part(data.test if data.validation is None else data.validation)
    name = "test" if data.validation is None else "validation"
    few = len(watched[1])
    training = job.part(Examples(data.train.x[:few], data.train.y[:few]))

    def judge(state: TrainState) -> tuple[Score, Score]:
        held, own = (
            score(job.model, state, part, LOSSES[recipe.loss]) for part in (watched, training)
        )
        return held, own

    look = look_at_deltas(job) if command.plots else None
    start = beginning(job.state, parts.steps)
    reached, records, deltas = (start, [], []) if saved is None else saved.restored(start)
    if look and not deltas:
        deltas.append(look(reached.running.state))
    failure: BaseException | None = None
    stops = None if saved is None else saved.every.steps
    epochs = history(parts, reached, train, judge, recipe.epochs, recipe.batch_size, stops)
    hearing = contextlib.nullcontext(Asked()) if saved is None else asked_to_stop()
    with hearing as asked, ends_in_words(out, records):
        try:
            with progress(recipe.epochs, done=len(records)) as show:
                for reached in epochs:
                    record = reached.record
                    if record is not None:
                        records.append(record)
                        if look:
                            deltas.append(look(reached.running.state))
                        if out is not None:
                            append_metrics(out, record)
                        show(record)
                    if saved is not None:
                        saved.after(reached, deltas)
                    if asked:
                        raise KeyboardInterrupt
        except (KeyboardInterrupt, NonFiniteError) as error:
            failure = error
        state = reached.running.state
        if saved is not None:
            if not isinstance(failure, NonFiniteError):
                saved.end(reached, deltas)
            keep(saved.out, state, records, name, title(recipe, data))
            if command.plots:
                draw(job, state, deltas, saved.out)
    if failure is None:
        found = score(job.model, state, job.part(data.test), LOSSES[recipe.loss])
        print(accuracy(found, data.text), flush=True)
        return 0
    kept = f"{len(records)} of {recipe.epochs} epochs" + ("" if out is None else f" kept in {out}")
    if isinstance(failure, NonFiniteError):
        raise FailedRun(f"{failure} ({kept})") from failure
    if out is not None:
        kept += f", step {int(state.step)}: go on with funcprop train --resume {out}"
    return complain(f"interrupted after {kept}", 128 + (asked.signal or signal.SIGINT))


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


def accuracy(found: Score, text: bool = False) -> str:
    """`Test accuracy: 97.78 % (352 / 360)`, and of text how many bits a byte takes."""
    words = f"Test accuracy: {100 * found.accuracy:.2f} % ({found.right} / {found.of})"
    return f"{words}, {found.bits:.3f} bits per byte" if text else words
