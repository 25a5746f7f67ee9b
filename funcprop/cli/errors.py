"""What ends a command early: one line on standard error, and an exit code."""

from __future__ import annotations

import sys
import traceback

from funcprop.catalogue.discovery import TargetError
from funcprop.cli.job.checks import RecipeError
from funcprop.data import DataError
from funcprop.exercises import FileError
from funcprop.layer import LayerError
from funcprop.training.checkpoint import CheckpointError


class UsageError(ValueError):
    """The arguments are no command: the message is one line."""


class FailedRun(Exception):
    """A wrong gradient, or a run that did not reach its end: exit code 1."""


USAGE_ERRORS = (
    UsageError,
    TargetError,
    RecipeError,
    DataError,
    FileError,
    CheckpointError,
    LayerError,
    ModuleNotFoundError,
    OSError,
)


def complain(error: object, code: int, debug: bool = False) -> int:
    """The error in one line on standard error, after its traceback under --debug."""
    if debug:
        traceback.print_exc()
    # notes of ours say where in the model; JAX's speak of its tracebacks
    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith("in ")]
    said = str(error)
    if isinstance(error, OSError) and error.strerror:
        place = error.filename or "a file"
        said = f"{place} cannot be read or written ({error.strerror}): free it, or give another"
    words = " ".join(f"{said} {' '.join(notes)}".split())
    print(f"funcprop: {words}", file=sys.stderr, flush=True)
    return code
