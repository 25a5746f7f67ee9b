"""funcprop exercise: a backward pass to write, and what is wrong with the one that was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from funcprop.cli.errors import FailedRun, UsageError
from funcprop.cli.job.checks import nearest
from funcprop.cli.markers import Positional
from funcprop.exercises import EXERCISES, FileError, Task, grade
from funcprop.sheets import aligned

NAMES = {exercise.name: exercise for exercise in EXERCISES}


@dataclass(frozen=True)
class Exercise:
    """Write a layer whose backward is blank, and grade what you wrote in it.

      funcprop exercise                 which exercises there are
      funcprop exercise tanh            writes tanh.py: fill in its backward
      funcprop exercise tanh.py         says whether it is right, or what is wrong, in words
      funcprop exercise tanh.py --verbose   the same, and every number that was compared
      funcprop exercise tanh --solution     prints one that is right

    Exit code: 0 right, 1 wrong or still blank, 2 the file cannot be read.
    """

    names: Annotated[tuple[str, ...], Positional] = ()
    """Exercises by name, or files that were written."""

    solution: bool = False
    """Print the solution, and write nothing."""

    verbose: bool = False
    """Print every number that was compared, in a wide table."""

    debug: bool = False
    """Show the traceback of an error."""


def run(command: Exercise) -> int:
    """`funcprop exercise`: 1 where a file is not solved."""
    if not command.names:
        print(listed(), flush=True)
        return 0
    open_, unread = [], None
    for name in command.names:
        try:
            if not one(name, command):
                open_.append(name)
        except FileError as error:  # the others are graded all the same
            if len(command.names) == 1:
                raise
            print(error, flush=True)
            unread = unread or error
    if unread is not None:
        raise unread
    if open_:
        raise FailedRun(f"not solved: {', '.join(open_)}")
    return 0


def one(name: str, command: Exercise) -> bool:
    """Prints the solution, grades a file, or writes one. False where a file is not solved."""
    if name.endswith(".py") and not command.solution:
        return graded(Path(name), command.verbose)
    if name not in NAMES:
        raise UsageError(
            f"{name!r} is no exercise: {nearest(name, NAMES)}they are {', '.join(NAMES)}; "
            "what you wrote is named by its file, as tanh.py"
        )
    if command.solution:
        print(NAMES[name].solution, end="", flush=True)
    else:
        written(NAMES[name])
    return True


def written(exercise: Task) -> None:
    """The blank file in the working directory. Raises UsageError where there is one."""
    path = Path(exercise.file)
    if path.exists():
        raise UsageError(
            f"{path} exists already: funcprop exercise {path} grades it; move it away to begin anew"
        )
    path.write_text(exercise.blank, encoding="utf-8")
    print(f"{path}: fill in backward, then ask: funcprop exercise {path}", flush=True)


def graded(path: Path, verbose: bool = False) -> bool:
    """Prints what is said of a file, and with `verbose` the table it was read from."""
    found = grade(path)
    print(f"{found.exercise.name}: {found.words}", flush=True)
    if verbose and found.comparison is not None:
        letters = [f"{theirs} is {own}" for theirs, own in found.exercise.letters]
        if letters:
            print(f"\nin the table {', '.join(letters)}", flush=True)
        print(f"\n{found.comparison}", flush=True)
    return found.ok


def listed() -> str:
    """Every exercise with what it teaches, in order."""
    lines = [(exercise.name, exercise.teaches) for exercise in EXERCISES]
    return "\n".join(aligned([("exercise", "what is new in it"), *lines]))
