"""When a run is saved and where, and how it is found again."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import re
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.disk import OnDisk
from funcprop.cli.job.folder import CHECKPOINTS, keep_metrics, settle_metrics
from funcprop.cli.job.recipe import LATER, Recipe, settled
from funcprop.cli.job.run import Reached, Record
from funcprop.data import Dataset
from funcprop.layer import Layer
from funcprop.training.agreement import is_first
from funcprop.training.checkpoints import Checkpoints


class Every(NamedTuple):
    """How often a run is saved; all None: at its end, and when it is stopped."""

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    def due(self, reached: Reached) -> bool:
        """Whether steps or epochs say so; of seconds a clock knows."""
        if self.steps is not None:
            return int(reached.running.step) % self.steps == 0
        over = reached.record is not None and self.epochs is not None
        return over and reached.epoch % (self.epochs or 1) == 0


UNITS = {"": ("steps", 1), "steps": ("steps", 1), "epochs": ("epochs", 1)}
UNITS |= {"step": UNITS["steps"], "epoch": UNITS["epochs"]}
UNITS |= {"s": ("seconds", 1), "m": ("seconds", 60), "h": ("seconds", 3600)}


def every(text: str) -> Every:
    """Of `500`, `500steps`, `2epochs`, `90s`, `10m`, `1h` or `never`. Raises RecipeError."""
    if text == "never":
        return Every()
    found = re.fullmatch(r"(\d{1,9}) ?([a-z]*)", text.strip())
    if found is None or found[2] not in UNITS or int(found[1]) == 0:
        raise RecipeError(
            f"--checkpoint-every is {text!r}, wanted a number of steps, such as 500, or 2epochs, "
            "90s, 10m, 1h, or never"
        )
    field, factor = UNITS[found[2]]
    return Every(**{field: int(found[1]) * factor})


def open_checkpoints(
    out: Path, recipe: Recipe, model: Layer, data: Dataset, rate: Every
) -> Checkpoints:
    """The checkpoints of a run, which are of this model, this data and this recipe."""
    about: dict[str, Any] = dataclasses.asdict(settled(recipe))
    del about["epochs"], about["data_dir"]  # one may train longer, and move the data
    for name in LATER:
        if about[name] == getattr(Recipe, name):  # a run from before that option goes on
            del about[name]
    about |= {"model": repr(model), "contents of the data": contents(data)}
    return Checkpoints(out / CHECKPOINTS, seconds=rate.seconds, keep=2, about=about)


def contents(data: Dataset) -> str:
    """A digest of the training examples."""
    if isinstance(data, OnDisk) and data.source is not None:
        return f"{len(data.source)} examples {data.source.fingerprint}"
    found = 0
    for array in (data.train.x, data.train.y):
        found = zlib.crc32(np.ascontiguousarray(array).data, found)
    return f"{len(data.train.y)} examples, crc32 {found:08x}"


class Saved(NamedTuple):
    """A run that is saved as it goes."""

    out: Path
    checkpoints: Checkpoints
    every: Every

    def restored(self, start: Reached) -> tuple[Reached, list[Record], list[Any]]:
        """Where the run stands, what it recorded and its deltas: at `start` if nothing was saved.

        Raises CheckpointError and RecipeError.
        """
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            found = self.checkpoints.restore(start.running)
        for words in (str(warning.message) for warning in told):
            if "is damaged" in words:
                print(f"funcprop: {words}", file=sys.stderr, flush=True)
        if found is None:
            return start, keep_metrics(self.out, 0, is_first()), []
        at = found.position
        deltas = [(np.asarray(norms), names) for norms, names in at["deltas"]]
        reached = Reached(found.state, at["epoch"], at["done"], at["seconds"], None)
        return reached, keep_metrics(self.out, reached.epoch, is_first()), deltas

    def after(self, reached: Reached, deltas: list[Any]) -> None:
        """Save what is reached where it is time. Raises CheckpointError, OSError."""
        if self.checkpoints.due() or self.every.due(reached):
            self.save(reached, deltas)

    def save(self, reached: Reached, deltas: list[Any]) -> None:
        if is_first():
            settle_metrics(self.out)  # the checkpoint counts on its lines
        position = {
            "epoch": reached.epoch,
            "done": reached.done,
            "seconds": reached.seconds,
            "deltas": [(np.asarray(norms, np.float64).tolist(), names) for norms, names in deltas],
        }
        loss = None if reached.record is None else reached.record.held_out_loss
        self.checkpoints.save(reached.running, position, loss)

    def end(self, reached: Reached, deltas: list[Any]) -> None:
        """Save what is reached, and wait until it is on the disk."""
        self.save(reached, deltas)
        self.checkpoints.close()


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """No other run writes into the folder meanwhile. Raises RecipeError where one does."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    place = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RecipeError(
                f"--out: another run is writing into {folder}: wait for it, or give another folder"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(place)


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """A disk that is full is told in one line, and not by every thread that finds it so."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels, hook = [logger.level for logger in loggers], sys.unraisablehook
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        gc.collect()
        sys.unraisablehook = hook
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
