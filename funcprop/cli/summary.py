"""funcprop summary: a model layer by layer."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from funcprop.cli.job.job import make_job, read, summarized
from funcprop.cli.job.recipe import Recipe


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
    found = summarized(job, command.seconds)
    print(f"{recipe.model} on {job.data.name}, mini-batches of {recipe.batch_size}: {found}")
    return 0
