"""A job: a recipe made concrete on its data, told and checked before its first step."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import optax

from funcprop.cli.errors import FailedRun
from funcprop.cli.job.build import (
    build_model,
    build_objective,
    build_optimizer,
    check_data,
    prepare,
)
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.devices import Devices, all_devices
from funcprop.cli.job.disk import OnDisk, is_on_disk, open_data
from funcprop.cli.job.recipe import Recipe, settled
from funcprop.cli.job.saving import Every, open_checkpoints
from funcprop.comparison.front import compare
from funcprop.data import Dataset, Examples, load
from funcprop.data.text import VOCABULARY
from funcprop.gradient import backprop
from funcprop.inspection import Summary, summary
from funcprop.layer import Array, Context, Layer
from funcprop.models import to_objective
from funcprop.training.checkpoints import Checkpoints
from funcprop.training.state import TrainState, init_state


class Job(NamedTuple):
    """A recipe made concrete: everything a run needs, before its first step."""

    recipe: Recipe
    data: Dataset
    model: Layer
    optimizer: optax.GradientTransformation
    state: TrainState  # on one device
    devices: Devices = Devices()

    def open_checkpoints(self, out: Path, rate: Every) -> Checkpoints:
        """Where the run is saved."""
        return open_checkpoints(out, self.recipe, self.model, self.data, rate)

    def part(self, examples: Examples) -> tuple[Array, Array]:
        """(x, target) on the device, as the loss wants it."""
        return prepare(self.recipe, *examples, self.data.classes)


def make_job(recipe: Recipe, data: Dataset, sharding: str | None = None) -> Job:
    """Model and first state for the data. Raises RecipeError where the two do not fit."""
    examples, example = count(data), data.train.x.shape[1:]
    check_data(recipe, data)
    if data.classes < 2:
        raise RecipeError(f"--data: {data.name} has one class, wanted at least two to tell apart")
    if recipe.batch_size > examples:
        raise RecipeError(
            f"--batch-size is {recipe.batch_size}, and {data.name} has {examples} training "
            f"examples: give at most {examples}"
        )
    model = build_model(recipe, example, data.classes)
    x = jax.ShapeDtypeStruct((recipe.batch_size, *example), data.train.x.dtype)
    optimizer = build_optimizer(recipe, recipe.epochs * -(-examples // recipe.batch_size))
    # one compilation instead of one for every operation of every initializer
    state = jax.jit(lambda key: init_state(model, optimizer, key, x))(jax.random.key(recipe.seed))
    return Job(
        recipe, data, model, optimizer, state, all_devices(sharding, model, recipe.batch_size)
    )


def count(data: Dataset) -> int:
    """The number of training examples."""
    source = data.source if isinstance(data, OnDisk) else None
    return len(data.train.y) if source is None else len(source)


def read(recipe: Recipe, name: str, folder: Path | None, validation: bool = False) -> Dataset:
    """The data set `name`; text in windows of the model's length. What `fp.data.open` knows stays
    on the disk."""
    if is_on_disk(name):
        if folder is not None:
            raise RecipeError(f"--data-dir is {folder}, and {name} has its own path: leave it out")
        return open_data(name, validation, settled(recipe).length)
    length = settled(recipe).length if name.startswith("text:") else None
    return load(name, folder, validation, length)


def introduction(job: Job) -> str:
    """The data, the model layer by layer, and the recipe."""
    recipe, data = settled(job.recipe), job.data
    parts = [f"{count(data):,} training"]
    if data.validation is not None:
        parts.append(f"{len(data.validation.y):,} validation")
    parts.append(f"{len(data.test.y):,} test")
    example = list(data.train.x.shape[1:])
    what = f"examples {example}, {data.classes} classes"
    if data.text:
        what = f"windows of {example[0]} {'bytes' if data.classes == VOCABULARY else 'tokens'}"
    if isinstance(data, OnDisk):
        what += ", read from disk"
    rate = f"{recipe.learning_rate:g}"
    if recipe.schedule != "constant":
        rate += f", {recipe.schedule} to 0"
    if recipe.warmup:
        rate += f", after {recipe.warmup} steps of warmup"
    precision = "" if recipe.precision == "float32" else f"computed in {recipe.precision}, "
    init = "" if recipe.init is None else f"init {recipe.init}, "
    return (
        f"{data.name}: {' + '.join(parts)} {what}\n"
        f"{summarized(job)}\n\n"
        f"{recipe.loss} loss, {recipe.optimizer} at learning rate {rate}, "
        f"mini-batches of {recipe.batch_size}, {init}{precision}seed {recipe.seed}"
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
