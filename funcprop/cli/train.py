"""funcprop train: a network taught by hand-written backpropagation."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
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
from funcprop.cli.job.folder import PARAMS, append_metrics, check_folder, start_folder
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
from funcprop.cli.job.run import NonFiniteError, Record, Score, history, score
from funcprop.comparison.front import compare
from funcprop.data import Dataset, Examples, load
from funcprop.gradient import backprop
from funcprop.inspection import Summary, summary
from funcprop.layer import Array, Context, Layer
from funcprop.losses.loss import Loss
from funcprop.models import to_objective
from funcprop.training.checkpoint import save_checkpoint
from funcprop.training.loop import epoch
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

    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Nothing: the recipe is checked where it is taken out, not inside the parser."""

    def recipe(self) -> Recipe:
        """The recipe without what only the command line knows; raises RecipeError."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


class Job(NamedTuple):
    """A recipe made concrete: everything a run needs, before its first step."""

    recipe: Recipe
    data: Dataset
    model: Layer
    state: TrainState

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
    recipe = command.recipe()
    if command.out is not None:
        check_folder(command.out, command.overwrite)
    elif command.plots:
        raise RecipeError("--plots writes into the folder of --out: give one, as --out runs/one")
    job = make_job(recipe, read(recipe, recipe.data, recipe.data_dir, recipe.validation))
    print(introduction(job), flush=True)
    print(gradient_check(job), flush=True)
    return follow(job, command.out, command.plots)


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


def follow(job: Job, out: Path | None, plots: bool = False) -> int:
    """Train to the end, to Ctrl-C or to a loss that is no number; keep what was reached."""
    recipe, data = job.recipe, job.data
    step = train_step(build_gradient(recipe, job.model), build_optimizer(recipe))
    watched = job.part(data.test if data.validation is None else data.validation)
    name = "test" if data.validation is None else "validation"
    if out is not None:
        start_folder(out, recipe, data.train.x.shape[1:], data.classes, data.labels)

    few = len(watched[1])
    training = job.part(Examples(data.train.x[:few], data.train.y[:few]))

    def judge(state: TrainState) -> tuple[Score, Score]:
        held, own = (
            score(job.model, state, part, LOSSES[recipe.loss]) for part in (watched, training)
        )
        return held, own

    look = look_at_deltas(job) if plots else None
    deltas = [look(job.state)] if look else []
    state, records, failure = job.state, [], None
    epochs = history(
        epoch(step, recipe.batch_size),
        state,
        job.part(data.train),
        judge,
        recipe.epochs,
        recipe.batch_size,
    )
    try:
        with progress(recipe.epochs) as show:
            for reached, record in epochs:
                state = reached
                records.append(record)
                if look:
                    deltas.append(look(state))
                if out is not None:
                    append_metrics(out, record)
                show(record)
    except (KeyboardInterrupt, NonFiniteError) as error:
        failure = error
    if out is not None:
        keep(out, state, records, name, title(recipe, data))
        if plots:
            draw(job, state, deltas, out)
    if failure is None:
        found = score(job.model, state, job.part(data.test), LOSSES[recipe.loss])
        print(accuracy(found, data.text), flush=True)
        return 0
    kept = f"{len(records)} of {recipe.epochs} epochs" + ("" if out is None else f" kept in {out}")
    if isinstance(failure, NonFiniteError):
        raise FailedRun(f"{failure} ({kept})") from failure
    return complain(f"interrupted after {kept}", 130)


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
