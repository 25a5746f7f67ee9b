"""The commands by their names: each is a file, and an entry here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from funcprop.cli import compare, exercise, explain, predict, summary, train


class Command(NamedTuple):
    """What is typed, and what is done."""

    kind: type  # a dataclass whose fields are the arguments
    run: Callable[[Any], int]  # -> the exit code


COMMANDS = {
    "train": Command(train.Train, train.run),
    "predict": Command(predict.Predict, predict.run),
    "summary": Command(summary.Summarize, summary.run),
    "compare": Command(compare.Compare, compare.run),
    "explain": Command(explain.Explain, explain.run),
    "exercise": Command(exercise.Exercise, exercise.run),
}
KINDS = {name: command.kind for name, command in COMMANDS.items()}


def run(command: Any) -> int:
    """The exit code of a command that was read; None is a request for help, already answered."""
    found = [known for known in COMMANDS.values() if type(command) is known.kind]
    return found[0].run(command) if found else 0
