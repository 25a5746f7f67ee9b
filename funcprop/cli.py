"""The command line: funcprop train, predict and compare.

Everything here is reading arguments, calling the library and printing. Errors are one line and an
exit code: 1 a wrong gradient or a failed run, 2 bad usage or input, 130 Ctrl-C.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union

import jax
import numpy as np

from funcprop.comparison.catalogue import ROWS
from funcprop.comparison.compare import compare
from funcprop.comparison.profile import profile_rows
from funcprop.comparison.table import Table, chosen, compare_rows
from funcprop.data import DataError, Dataset, Examples, load
from funcprop.extras import require
from funcprop.gradient import backprop
from funcprop.layer import Array, Context, Layer, LayerError
from funcprop.models import generate, to_objective
from funcprop.models.gpt import backbone_and_head
from funcprop.prediction import inference
from funcprop.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from funcprop.training.folder import (
    CURVES,
    PARAMS,
    append_metrics,
    check_folder,
    draw_curves,
    read_config,
    start_folder,
)
from funcprop.training.loop import epoch
from funcprop.training.progress import counting, progress
from funcprop.training.recipe import (
    LOSSES,
    Recipe,
    RecipeError,
    build_gradient,
    build_model,
    build_objective,
    build_optimizer,
    check_data,
    nearest,
    prepare,
    settled,
)
from funcprop.training.run import NonFiniteError, Record, Score, history, score
from funcprop.training.state import TrainState, init_state
from funcprop.training.step import train_step
from funcprop.training.summary import format_summary, summary

try:
    from tyro.conf import Positional
except ModuleNotFoundError:  # without the extra: main says so in one line
    Positional = None

DESCRIPTION = """Programmable backpropagation: every layer is a forward and a hand-written backward.

  funcprop train                   learn handwritten digits by hand-written backpropagation
  funcprop train --help            everything that can be changed
  funcprop train --out runs/one    ... and keep the network, its history and its curves
  funcprop predict runs/one        read it back: its accuracy on the test set
  funcprop compare                 hand-written gradients beside automatic differentiation"""


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

    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Nothing: the recipe is checked where it is taken out, not inside the parser."""

    def recipe(self) -> Recipe:
        """The recipe without what only the command line knows; raises RecipeError."""
        return Recipe(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Recipe)})


@dataclass(frozen=True)
class Predict:
    """Read a trained network back and report its accuracy on a test set.

    A model of text also continues the test set's first words.

    funcprop predict runs/digits
    funcprop predict runs/mnist --data-dir DIR
    funcprop predict runs/gpt --data text:FILE
    """

    folder: Annotated[Path, Positional]
    """The folder that `funcprop train --out` wrote."""

    data: str | None = None
    """The data, if not those it was trained on."""

    data_dir: Path | None = None
    """The folder of the data's files, if not the one of the training."""

    debug: bool = False
    """Show the traceback of an error."""


@dataclass(frozen=True)
class Compare:
    """Compare the hand-written gradient of every layer there is with automatic differentiation.

    funcprop compare
    funcprop compare Dense Sigmoid
    funcprop compare --json report.json
    funcprop compare LayerNorm MaxPool --profile
    """

    names: Annotated[tuple[str, ...], Positional] = ()
    """Layers to compare; all where none is named."""

    profile: bool = False
    """Also measure what each gradient costs: time, memory and flops of forward and backward, by
    hand, by jax.vjp of the same forward, and by jax.vjp of the form a JAX user would write."""

    json: Path | None = None
    """Write the report as JSON to this new file as well."""

    debug: bool = False
    """Show the traceback of an error."""


COMMANDS = {"train": Train, "predict": Predict, "compare": Compare}


class UsageError(ValueError):
    """The arguments are no command: the message is one line."""


class FailedRun(Exception):
    """A wrong gradient, or a run that did not reach its end: exit code 1."""


USAGE_ERRORS = (
    UsageError,
    RecipeError,
    DataError,
    CheckpointError,
    LayerError,
    ModuleNotFoundError,
    OSError,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. `arguments` are those of the process."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(parse(arguments))
    except KeyboardInterrupt:
        return complain("interrupted", 130)
    except USAGE_ERRORS as error:
        return complain(error, 2, "--debug" in arguments)
    except (FailedRun, NonFiniteError) as error:
        return complain(error, 1, "--debug" in arguments)
    except Exception as error:
        reason = f"{type(error).__name__}: {error} (--debug shows where)"
        return complain(reason, 1, "--debug" in arguments)


def run(command: Train | Predict | Compare | None) -> int:
    """The exit code of a command; None is a request for help, already answered."""
    match command:
        case Train():
            return train(command)
        case Predict():
            return predict(command)
        case Compare():
            return compare_layers(command)
    return 0


def complain(error: object, code: int, debug: bool = False) -> int:
    """The error in one line on standard error, after its traceback under --debug."""
    if debug:
        traceback.print_exc()
    # notes of ours say where in the model; JAX's speak of its tracebacks
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("in ")]
    words = " ".join(f"{error} {' '.join(notes)}".split())
    print(f"funcprop: {words}", file=sys.stderr, flush=True)
    return code


# --- train ----------------------------------------------------------------------------------------


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
    # one compilation instead of one for every operation of every initialiser
    state = jax.jit(lambda key: init_state(model, optimizer, key, x))(jax.random.key(recipe.seed))
    return Job(recipe, data, model, state)


def train(command: Train) -> int:
    """`funcprop train`: 0, 1 where the gradient is wrong or the run fails, 130 after Ctrl-C."""
    recipe = command.recipe()
    if command.out is not None:
        check_folder(command.out, command.overwrite)
    job = make_job(recipe, read(recipe, recipe.data, recipe.data_dir, recipe.validation))
    print(introduction(job), flush=True)
    print(gradient_check(job), flush=True)
    return follow(job, command.out)


def read(recipe: Recipe, name: str, folder: Path | None, validation: bool = False) -> Dataset:
    """The data set `name`; text in windows of the model's length."""
    length = settled(recipe).length if name.startswith("text:") else None
    return load(name, folder, validation, length)


def introduction(job: Job) -> str:
    """The data, the model with shapes and parameter counts, and the recipe, in a few lines."""
    recipe, data = settled(job.recipe), job.data
    parts = [f"{len(data.train.y):,} training"]
    if data.validation is not None:
        parts.append(f"{len(data.validation.y):,} validation")
    parts.append(f"{len(data.test.y):,} test")
    example = list(data.train.x.shape[1:])
    x = jax.ShapeDtypeStruct((1, *example), data.train.x.dtype)
    model, params = job.model, job.state.params
    if data.text:  # all of it but the output projection, which is the embedding
        model, params = backbone_and_head(model)[0], params[0][0]
        what = f"windows of {example[0]} bytes"
    else:
        what = f"examples {example}, {data.classes} classes"
    init = "" if recipe.init is None else f"init {recipe.init}, "
    return (
        f"{data.name}: {' + '.join(parts)} {what}\n"
        f"{format_summary(summary(model, params, x))}\n"
        f"{recipe.loss} loss, {recipe.optimizer} at learning rate {recipe.learning_rate:g}, "
        f"mini-batches of {recipe.batch_size}, {init}seed {recipe.seed}"
    )


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


def follow(job: Job, out: Path | None) -> int:
    """Train to the end, to Ctrl-C or to a loss that is no number; keep what was reached."""
    recipe, data = job.recipe, job.data
    step = train_step(build_gradient(recipe, job.model), build_optimizer(recipe))
    watched = job.part(data.test if data.validation is None else data.validation)
    name = "test" if data.validation is None else "validation"
    if out is not None:
        start_folder(out, recipe, data.train.x.shape[1:], data.classes, data.labels)

    def judge(state: TrainState) -> Score:
        return score(job.model, state, watched, LOSSES[recipe.loss])

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
                if out is not None:
                    append_metrics(out, record)
                show(record)
    except (KeyboardInterrupt, NonFiniteError) as error:
        failure = error
    if out is not None:
        keep(out, state, records, name)
    if failure is None:
        found = score(job.model, state, job.part(data.test), LOSSES[recipe.loss])
        print(accuracy(found, data.text), flush=True)
        return 0
    kept = f"{len(records)} of {recipe.epochs} epochs" + ("" if out is None else f" kept in {out}")
    if isinstance(failure, NonFiniteError):
        raise FailedRun(f"{failure} ({kept})") from failure
    return complain(f"interrupted after {kept}", 130)


def keep(out: Path, state: TrainState, records: Sequence[Record], held_out: str) -> None:
    """What was reached, into the folder."""
    save_checkpoint(out / PARAMS, state.params, state.statistics)
    if records:
        draw_curves(out / CURVES, records, held_out)


def accuracy(found: Score, text: bool = False) -> str:
    """`Test accuracy: 97.78 % (352 / 360)`, and of text how many bits a byte takes."""
    words = f"Test accuracy: {100 * found.accuracy:.2f} % ({found.right} / {found.of})"
    return f"{words}, {found.bits:.3f} bits per byte" if text else words


# --- predict --------------------------------------------------------------------------------------


def predict(command: Predict) -> int:
    """`funcprop predict`."""
    recipe, example, classes = read_config(command.folder)
    folder = command.data_dir
    if folder is None and command.data in (None, recipe.data):
        folder = recipe.data_dir
    data = read(recipe, command.data or recipe.data, folder)
    check_data(recipe, data)
    if (data.test.x.shape[1:], data.classes) != (example, classes):
        raise RecipeError(
            f"--data: {data.name} has examples {list(data.test.x.shape[1:])} of {data.classes} "
            f"classes, and {command.folder} was trained on {list(example)} of {classes}"
        )
    model, optimizer = build_model(recipe, example, classes), build_optimizer(recipe)
    x = jax.ShapeDtypeStruct((1, *example), data.test.x.dtype)
    wanted = jax.eval_shape(lambda key: init_state(model, optimizer, key, x), jax.random.key(0))
    params, statistics = load_checkpoint(command.folder / PARAMS, wanted.params, wanted.statistics)
    state = wanted._replace(params=params, statistics=statistics)
    test = prepare(recipe, *data.test, classes)
    print(accuracy(score(model, state, test, LOSSES[recipe.loss]), data.text), flush=True)
    if data.text:
        print(continuation(model, state, test[0][0]))
    return 0


def continuation(model: Layer, state: TrainState, window: Array) -> str:
    """The first half of a window of text, and what the model makes of it, in two paragraphs."""
    predictor, params = inference(model, state.params, state.statistics)
    prompt = window[: (len(window) + 1) // 2]
    drawn = generate(predictor, params, prompt, 400, jax.random.key(0), temperature=0.8)
    return f"--- given\n{readable(prompt)}\n--- continued\n{readable(drawn)}"


def readable(tokens: Array) -> str:
    """Bytes as text that any terminal can show: what it could not is written as an escape."""
    text = bytes(np.asarray(tokens, np.uint8)).decode("utf-8", "backslashreplace")
    shown = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    return shown.encode(encoding, "backslashreplace").decode(encoding)


# --- compare --------------------------------------------------------------------------------------


def compare_layers(command: Compare) -> int:
    """`funcprop compare`: 1 where a gradient is wrong."""
    if command.json is not None and command.json.exists():
        raise UsageError(f"--json: {command.json} exists already: give another name")
    try:
        names = chosen(command.names) if command.names else ROWS
    except ValueError as error:
        raise UsageError(str(error)) from error
    with counting(len(names)) as show:
        entries = compare_rows(names, lambda row, _: show(row.name))
    table = Table(tuple(entries))
    costs = None
    if command.profile:
        with counting(len(names)) as show:
            costs = profile_rows(names, lambda row: show(row.name))
    if command.json is not None:
        command.json.write_text(table.to_json(costs) + "\n", "utf-8")
    if sys.stdout.isatty():
        require("rich", "train").print(table)
    else:
        print(table, flush=True)
    if costs is not None:
        print(f"\n{costs}", flush=True)
    wrong = [row.name for row, comparison in entries if not comparison.ok]
    if wrong:
        raise FailedRun(f"{len(wrong)} of {len(entries)} gradients are wrong: {', '.join(wrong)}")
    return 0


# --- arguments ------------------------------------------------------------------------------------


def parse(arguments: Sequence[str]) -> Train | Predict | Compare | None:
    """The command that the arguments are, or None where they ask for help, which is printed.

    Raises UsageError, in one line.
    """
    tyro = require("tyro", "train")
    check_words(arguments)
    short = arguments[0] not in COMMANDS  # the list of commands: a line each
    kinds: Any = tuple(
        Annotated[kind, tyro.conf.subcommand(name, description=first_line(kind) if short else None)]
        for name, kind in COMMANDS.items()
    )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                Union[kinds],  # noqa: UP007
                prog="funcprop",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=optional_values(tyro),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise UsageError(first_sentence(errors.getvalue())) from None


def first_line(kind: type) -> str:
    """The first line of a docstring."""
    return (kind.__doc__ or "").partition("\n")[0]


def check_words(arguments: Sequence[str]) -> None:
    """The first word is a command and every option one of its own; errors suggest the nearest."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        return
    names = ", ".join(COMMANDS)
    if first not in COMMANDS:
        given = f"unknown command {first!r}" if first else "no command was given"
        raise UsageError(f"{given}: {nearest(first, COMMANDS)}the commands are {names}")
    known = ["--help"]
    known += [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(COMMANDS[first])]
    for word in arguments[1:]:
        option = word.partition("=")[0].replace("_", "-")
        if word.startswith("--") and option not in known:
            raise UsageError(
                f"unknown option {option!r}: {nearest(option, known)}see `funcprop {first} --help`"
            )


def first_sentence(box: str) -> str:
    """The text of tyro's error box up to its first rule or blank row, as one line."""
    rows = [row.strip("│ ") for row in box.splitlines()[1:]]  # the first one is the title
    ends = [i for i, row in enumerate(rows) if not row.strip("╰╯─- ")]
    if ends[:1] == [0]:  # a terminal without UTF-8: no frame, and a rule below the title
        rows, ends = rows[1:], [end - 1 for end in ends[1:]]
    sentence = " ".join(rows[: ends[0] if ends else None])
    return sentence.removeprefix("Error parsing ") or "the arguments are no command"


def optional_values(tyro: Any) -> Any:
    """How tyro reads an option that may be left out: as its value, never as the word None."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: Any) -> Any:
        kinds = ((float, "NUMBER"), (int, "NUMBER"), (str, "NAME"), (Path, "PATH"))
        for kind, metavar in kinds:
            if info.type == kind | None:
                return tyro.constructors.PrimitiveConstructorSpec(
                    nargs=1,
                    metavar=metavar,
                    instance_from_str=lambda words, kind=kind: kind(words[0]),
                    is_instance=lambda value, kind=kind: value is None or isinstance(value, kind),
                    str_from_instance=lambda value: ["none" if value is None else str(value)],
                )
        if info.type == tuple[int, ...] | None:
            return tyro.constructors.PrimitiveConstructorSpec(
                nargs="*",
                metavar="[NUMBER ...]",
                instance_from_str=lambda words: tuple(map(int, words)),
                is_instance=lambda value: value is None or isinstance(value, tuple),
                str_from_instance=lambda value: (
                    ["none"] if value is None else list(map(str, value))
                ),
            )
        return None

    return registry


if __name__ == "__main__":
    sys.exit(main())
