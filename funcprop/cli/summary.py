"""funcprop summary: a model layer by layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import jax

from funcprop.cli.job.build import build_objective
from funcprop.cli.job.recipe import Recipe
from funcprop.cli.train import make_job, read
from funcprop.inspection import summary
from funcprop.layer import Context


@dataclass(frozen=True)
class Summarize(Recipe):
    """Show a model layer by layer: shapes, parameters, bytes kept for backward, flops, time.

    The model is that of `funcprop train` with the same options, and reads a mini-batch.

      funcprop summary
      funcprop summary --model convnet --batch-size 128 --seconds 0.2
      funcprop summary --model gpt --data text: --length 256
    """

    seconds: float = 0.0
    """Run every layer by itself for so long, and show its share of the time."""

    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        """Nothing: the recipe is checked where it is taken out, not inside the parser."""


def run(command: Summarize) -> int:
    """`funcprop summary`."""
    fields = dataclasses.fields(Recipe)
    recipe = Recipe(**{field.name: getattr(command, field.name) for field in fields})
    job = make_job(recipe, read(recipe, recipe.data, recipe.data_dir))
    x, y = job.data.train.x, job.data.train.y
    shape = jax.ShapeDtypeStruct((recipe.batch_size, *x.shape[1:]), x.dtype)
    model, loss = build_objective(recipe, job.model)
    given = shape
    if loss is None:  # of text: the model with its loss
        given = (shape, jax.ShapeDtypeStruct((recipe.batch_size, *y.shape[1:]), y.dtype))
    found = summary(
        model, given, context=Context(jax.random.key(recipe.seed)), seconds=command.seconds
    )
    print(f"{recipe.model} on {job.data.name}, mini-batches of {recipe.batch_size}: {found}")
    return 0
