"""funcprop explain: a backward pass as a page."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax

from funcprop.cli.compare import check_new
from funcprop.cli.errors import UsageError
from funcprop.cli.job.build import (
    build_model,
    build_objective,
    build_optimizer,
    check_data,
    prepare,
)
from funcprop.cli.job.checks import choose, number, whole
from funcprop.cli.job.folder import PARAMS, read_config
from funcprop.cli.job.job import make_job, read
from funcprop.cli.job.recipe import Recipe
from funcprop.cli.markers import Positional
from funcprop.data import Dataset, Examples, load
from funcprop.explorer.blocks import record_blocks, trained
from funcprop.explorer.chain import ACTIVATIONS, LOSSES
from funcprop.explorer.explaining import blocks_words, explain
from funcprop.explorer.lessons import LESSONS, lesson
from funcprop.explorer.page import Page
from funcprop.explorer.worked import mazur, neuron, nielsen, olah
from funcprop.layer import Context, Layer, Params
from funcprop.models import MODELS, to_objective
from funcprop.training.checkpoint import load_checkpoint
from funcprop.training.state import init_state

EXAMPLES = ("neuron", "olah", "mazur", "nielsen")
STEPS = {"neuron": 300, "mazur": 10_000, "nielsen": 500}
EXAMPLES_SEEN = 8  # of a larger model, in a pass that is drawn
LENGTH = 48  # bytes that gpt reads, unless told: so many that its attention can be drawn


@dataclass(frozen=True)
class Explain:
    """Write a page on which one sees the backward pass: value, error and slope in the same place.

    One file, which needs no network: a small network neuron by neuron, with every equation in its
    numbers, by hand and by jax.grad, through a training; and what changes when one changes it.

      funcprop explain --example neuron
      funcprop explain
      funcprop explain --data nand
      funcprop explain --data spiral --layers 12 12 --activation relu
      funcprop explain --example mazur
      funcprop explain --example nielsen --data-dir MNIST
      funcprop explain runs/digits
      funcprop explain --model gpt --data text:FILE --out gpt.html

    Begin with neuron: one neuron, whose numbers are recomputed by hand. The other worked examples
    are olah (the chain rule on a graph), mazur (a network of two neurons) and nielsen (why δ
    vanishes); the data of a small network are nand, xor, moons, spiral or digits.
    """

    folder: Annotated[tuple[Path, ...], Positional] = ()
    """The folder that `funcprop train --out` wrote: the network as it was trained."""

    example: str | None = None
    """A worked example: neuron, olah, mazur or nielsen."""

    data: str = "digits"
    """nand, xor, moons, spiral or digits; for other models what `funcprop train` reads."""

    data_dir: Path | None = None
    """The folder of the data's files; for nielsen that of MNIST, without which it takes digits."""

    model: str = "mlp"
    """The model: mlp, convnet, resnet, lstm, vit or gpt."""

    layers: tuple[int, ...] | None = None
    """Of mlp: sizes of the hidden layers, up to 20 each."""

    activation: str | None = None
    """Of mlp: sigmoid, tanh, relu, leaky-relu, elu, silu, softplus, gelu, gelu-tanh or identity."""

    loss: str | None = None
    """Of mlp: quadratic, mean-squared-error, cross-entropy or binary-cross-entropy."""

    learning_rate: float | None = None
    """The learning rate."""

    steps: int | None = None
    """Steps of training that the page shows."""

    seed: int | None = None
    """Where random numbers come from (0, for nielsen 5)."""

    out: Path = Path("explain.html")
    """The file to write, which must be new."""

    overwrite: bool = False
    """Let --out be a file that exists."""

    debug: bool = False
    """Show the traceback of an error."""


def run(command: Explain) -> int:
    """`funcprop explain`: 0, and the page is written."""
    if not (command.overwrite and command.out.is_file()):
        check_new("--out", command.out, "give another name, or --overwrite")
    start = time.perf_counter()
    page = page_of(command)
    page.save(command.out)
    size = os.path.getsize(command.out) / 1000
    seconds = time.perf_counter() - start
    print(f"{command.out}: {page.title} ({size:,.0f} kB, {seconds:.1f} s)", flush=True)
    print(page.about, flush=True)
    return 0


def page_of(command: Explain) -> Page:
    """The page that is asked for. Raises UsageError."""
    choose("model", command.model, MODELS)
    if command.activation is not None:
        choose("activation", command.activation, ACTIVATIONS)
    if command.loss is not None:
        choose("loss", command.loss, LOSSES)
    if command.steps is not None:
        whole("steps", command.steps, 0, 1_000_000)
    if command.seed is not None:
        whole("seed", command.seed, 0, 2**32 - 1)
    for size in command.layers or ():
        whole("layers", size, 1, 20)
    if len(command.layers or ()) > 10:
        raise UsageError(f"--layers: {len(command.layers or ())} hidden layers, wanted at most 10")
    number("learning-rate", command.learning_rate, 0, 1e6)
    if len(command.folder) > 1:
        raise UsageError(f"{len(command.folder)} folders: give one")
    if command.folder:
        return of_folder(command, command.folder[0])
    if command.example is not None:
        return worked(command, command.example)
    if command.model == "mlp" and command.data in LESSONS:
        tell(LESSONS[command.data].steps if command.steps is None else command.steps)
        return lesson(
            command.data,
            command.layers,
            command.activation,
            command.loss,
            command.learning_rate,
            command.steps,
            command.seed or 0,
        )
    if command.model == "mlp":
        choose("data", command.data, LESSONS)
    return larger(command)


def tell(steps: int) -> None:
    """What is waited for; beside the output, which names the file."""
    if steps:
        words = f"training {steps:,} step{'' if steps == 1 else 's'} …"
        print(words, file=sys.stderr, flush=True)


def worked(command: Explain, example: str) -> Page:
    """One of the worked examples."""
    choose("example", example, EXAMPLES)
    if example == "olah":
        return olah()
    steps = STEPS[example] if command.steps is None else command.steps
    if example in ("neuron", "mazur"):
        tell(steps)
        return {"neuron": neuron, "mazur": mazur}[example](steps)
    data = load("digits" if command.data_dir is None else "mnist", command.data_dir)
    tell(steps)
    return nielsen(data, steps, seed=5 if command.seed is None else command.seed)


def larger(command: Explain) -> Page:
    """A model of the recipes, whose layers are blocks, on a few examples of its data."""
    options: dict[str, Any] = {"length": LENGTH} if command.model == "gpt" else {}
    if command.model == "convnet":
        options = {"width": 8, "dropout": 0.0}
    recipe = Recipe(
        model=command.model,
        data=command.data,
        data_dir=command.data_dir,
        learning_rate=command.learning_rate,
        seed=command.seed or 0,
        batch_size=EXAMPLES_SEEN,
        **options,
    )
    job = make_job(recipe, read(recipe, recipe.data, recipe.data_dir))
    steps = 60 if command.steps is None else command.steps
    tell(steps)
    return blocks_page(recipe, job.model, job.state.params, job.data, steps)


def blocks_page(recipe: Recipe, model: Layer, params: Params, data: Dataset, steps: int) -> Page:
    """A page of blocks: some training from these parameters, on a few examples."""
    few = Examples(data.train.x[:EXAMPLES_SEEN], data.train.y[:EXAMPLES_SEEN])
    batch = prepare(recipe, *few, data.classes)
    parts = build_objective(recipe, model)
    if recipe.model == "gpt":
        params = to_objective(params)
    context = Context(jax.random.key(recipe.seed))
    states = trained(*parts, params, batch, context, build_optimizer(recipe), steps)
    found = record_blocks(*parts, states, batch, context)
    count = f"{steps} step{'' if steps == 1 else 's'} of {recipe.optimizer} on them"
    about = f"{len(few.y)} examples of {data.name}, {count if steps else 'as they are'}."
    if data.text:
        first = bytes(few.x[0].tolist()).decode("utf-8", "replace")
        about += f" The first reads “{' '.join(first.split())}”."
    return Page(f"{recipe.model}, layer by layer", f"{about} {blocks_words(found)}", found)


def of_folder(command: Explain, folder: Path) -> Page:
    """A network as `funcprop train --out` left it, on examples of its test set."""
    recipe, example, classes = read_config(folder)
    data = read(recipe, recipe.data, command.data_dir or recipe.data_dir)
    check_data(recipe, data)
    model, optimizer = build_model(recipe, example, classes), build_optimizer(recipe)
    x = jax.ShapeDtypeStruct((1, *example), data.test.x.dtype)
    wanted = jax.eval_shape(lambda key: init_state(model, optimizer, key, x), jax.random.key(0))
    params, _ = load_checkpoint(folder / PARAMS, wanted.params, wanted.statistics)
    steps = command.steps or None
    model_, loss = build_objective(recipe, model)
    if recipe.model != "mlp" or loss is None:
        return blocks_page(recipe, model, params, data, steps or 0)
    few = Examples(data.test.x[:200], data.test.y[:200])
    batch = prepare(recipe, *few, classes)
    rate = 0.1 if command.learning_rate is None else command.learning_rate
    title = f"{folder.name}: the network as it was trained"
    return explain(model_, params, batch, loss, learning_rate=rate, steps=steps, title=title)
