"""funcprop train: a network taught by hand-written backpropagation."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from funcprop.cli.job.checks import RecipeError, choose
from funcprop.cli.job.devices import SHARDINGS
from funcprop.cli.job.folder import (
    SAVING,
    check_folder,
    clear,
    read_config,
    read_saving,
    write_config,
)
from funcprop.cli.job.follow import Watched, follow
from funcprop.cli.job.job import Job, gradient_check, introduction, make_job, read
from funcprop.cli.job.processes import joined
from funcprop.cli.job.recipe import Recipe
from funcprop.cli.job.saving import Saved, alone, every, one_voice
from funcprop.training.agreement import is_first, together


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

    tensorboard: bool = False
    """Write the curves into --out for TensorBoard, too: tensorboard --logdir of the folder."""

    profile: bool = False
    """Write a trace of about a second of the training into --out, for a profiler that reads JAX's,
    such as XProf or Perfetto."""

    speed: bool = False
    """Say in metrics.jsonl, and to TensorBoard, what a terminal shows beside its bar: examples a
    second, memory in use, and the share of the machine's peak, which a matrix product measures."""

    norms: bool = False
    """Say there after each epoch, layer by layer, the norm of the gradient of the first mini-batch
    and by what share its update changes the weights. One more program is compiled, and a step of it
    taken an epoch."""

    checkpoint_every: str | None = None
    """How often everything is saved into the folder of --out: after a number of steps, such as 500,
    or 2epochs, 90s, 10m (without the option 1m), 1h; never is at the end and when stopped alone."""

    resume: Path | None = None
    """Go on with the run in this folder, from what it saved last, as if it had not stopped. With
    --epochs it becomes longer."""

    sharding: str | None = None
    """How the run lies on all devices: data-parallel (each device has a part of every batch),
    fully-sharded (and a part of the parameters and of the optimizer's state) or tensor-parallel
    (a part of the features). Without it one device computes; of several processes all, the first
    way."""

    coordinator: str | None = None
    """Of several processes that train together: HOST:PORT at which process 0 is found, with
    --processes and --process; or auto, where Slurm or Kubernetes has started them. Process 0 prints
    and writes the folder, which all of them have to see."""

    processes: int | None = None
    """How many processes train together."""

    process: int | None = None
    """Which of them this one is, from 0."""

    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Nothing: the recipe is checked where it is taken out, not inside the parser."""

    def watched(self) -> Watched:
        """What is written beside the history."""
        return Watched(self.plots, self.tensorboard, self.profile, self.speed, self.norms)

    def needs_folder(self) -> str | None:
        """The first option that writes into a folder, if there is one."""
        given = ("plots", "tensorboard", "profile", "speed", "norms", "checkpoint_every")
        found = (name for name in given if getattr(self, name))
        return next((f"--{name.replace('_', '-')}" for name in found), None)

    def recipe(self) -> Recipe:
        """The recipe without what only the command line knows; raises RecipeError."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


EVERY = "1m"  # how often a run is saved


def run(command: Train) -> int:
    """`funcprop train`: 0, 1 where the gradient is wrong or the run fails, 130 after Ctrl-C."""
    if command.sharding is not None:
        choose("sharding", command.sharding, SHARDINGS)
    code = 1
    with joined(command.coordinator, command.processes, command.process):
        code = start(command)
    return code


def start(command: Train) -> int:
    """A run from its beginning, or gone on with; in each of its processes."""
    if command.resume is not None:
        return resume(command, command.resume)
    recipe, out = command.recipe(), command.out
    rate = every(command.checkpoint_every or EVERY)
    if out is not None:
        if is_first():
            check_folder(out, command.overwrite)
    elif (option := command.needs_folder()) is not None:
        raise RecipeError(f"{option} writes into the folder of --out: give one, as --out runs/one")
    sharding = command.sharding or several()
    data = read(recipe, recipe.data, recipe.data_dir, recipe.validation)
    job = make_job(recipe, data, sharding)
    print(introduction(job), flush=True)
    print(gradient_check(job), flush=True)
    if job.devices.mesh is not None:
        print(job.devices.told(recipe.batch_size, job.devices.state(job.state)), flush=True)
    if out is None:
        return follow(job, None, command.watched())
    out.mkdir(parents=True, exist_ok=True)
    with alone(out) if is_first() else nullcontext(), one_voice():
        if is_first():
            check_folder(out, command.overwrite)  # another run may have come first
            clear(out)
            kept = command.checkpoint_every or EVERY
            write_run(out, job, dataclasses.replace(command, checkpoint_every=kept))
        together("the folder is there")
        saved = Saved(out, job.open_checkpoints(out, rate), rate)
        return follow(job, saved, command.watched())


def resume(command: Train, folder: Path) -> int:
    """`funcprop train --resume FOLDER`: on from what was saved, to the same bits."""
    recipe, saving, more = stored(command, folder)
    command = dataclasses.replace(command, **saving)
    data = read(recipe, recipe.data, recipe.data_dir, recipe.validation)
    job = make_job(recipe, data, command.sharding or several())
    if job.devices.mesh is not None:
        print(job.devices.told(recipe.batch_size, job.devices.state(job.state)), flush=True)
    rate = every(command.checkpoint_every or EVERY)
    example, classes = read_config(folder)[1:]
    if (example, classes) != (job.data.train.x.shape[1:], job.data.classes):
        raise RecipeError(
            f"{folder} was trained on examples {list(example)} of {classes} classes, and "
            f"{job.data.name} has others: give the folder of its run"
        )
    with alone(folder) if is_first() else nullcontext(), one_voice():
        if more and is_first():
            write_run(folder, job, command)
        together("the folder is there")
        saved = Saved(folder, job.open_checkpoints(folder, rate), rate)
        return follow(job, saved, command.watched())


def several() -> str | None:
    """How a run lies where nobody says: on one device, or on those of several processes."""
    return "data-parallel" if jax.process_count() > 1 else None


def write_run(out: Path, job: Job, command: Train) -> None:
    """config.json, from which the run is gone on with."""
    how = {name: getattr(command, name) for name in SAVING}
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
    if more and given.epochs < recipe.epochs:
        raise RecipeError(
            f"--epochs: {recipe.epochs} epochs were wanted, and --epochs is {given.epochs}: "
            "a run can only become longer"
        )
    if more and recipe.schedule != "constant":
        raise RecipeError(
            f"--epochs is {given.epochs}, and the {recipe.schedule} schedule of {folder} ends "
            f"after {recipe.epochs}: start a new run with --out"
        )
    recipe = dataclasses.replace(
        recipe,
        epochs=given.epochs if more else recipe.epochs,
        data_dir=given.data_dir or recipe.data_dir,
    )
    saving = read_saving(folder)
    if command.checkpoint_every is not None:
        saving["checkpoint_every"] = command.checkpoint_every
    if command.sharding is not None:
        saving["sharding"] = command.sharding
    for name in ("plots", "tensorboard", "speed", "norms"):
        saving[name] = bool(getattr(command, name) or saving.get(name))
    return recipe, saving, more
