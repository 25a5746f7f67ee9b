"""funcprop predict: a trained network read back."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import numpy as np

from funcprop.cli.job.build import build_model, build_optimizer, check_data, prepare
from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.folder import PARAMS, read_config
from funcprop.cli.job.follow import accuracy
from funcprop.cli.job.job import read
from funcprop.cli.job.names import LOSSES
from funcprop.cli.job.pictures import draw_predictions
from funcprop.cli.job.run import score
from funcprop.cli.markers import Positional
from funcprop.data.text import VOCABULARY
from funcprop.layer import Array, Layer
from funcprop.models import generate
from funcprop.prediction import inference
from funcprop.training.checkpoint import load_checkpoint
from funcprop.training.state import TrainState, init_state


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

    plots: bool = False
    """Write pictures into the folder: a confusion matrix, the images that were taken for others,
    and of points in a plane the boundary between the classes."""

    debug: bool = False
    """Show the traceback of an error."""


def run(command: Predict) -> int:
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
            f"classes, and {command.folder} was trained on {list(example)} of {classes}: "
            "give the data of its training"
        )
    model, optimizer = build_model(recipe, example, classes), build_optimizer(recipe)
    x = jax.ShapeDtypeStruct((1, *example), data.test.x.dtype)
    wanted = jax.eval_shape(lambda key: init_state(model, optimizer, key, x), jax.random.key(0))
    params, statistics = load_checkpoint(command.folder / PARAMS, wanted.params, wanted.statistics)
    state = wanted._replace(params=params, statistics=statistics)
    test = prepare(recipe, *data.test, classes)
    print(accuracy(score(model, state, test, LOSSES[recipe.loss]), data), flush=True)
    if data.text and classes == VOCABULARY:  # bytes: other tokens are not ours to spell
        print(continuation(model, state, test[0][0]))
    if command.plots:
        other = command.data not in (None, recipe.data)
        start = re.sub(r"\W+", "-", f"{data.name}-") if other else ""
        written = draw_predictions(command.folder, data, model, state, start)
        print(f"written into {command.folder}: {', '.join(written) or 'nothing, of text'}")
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
