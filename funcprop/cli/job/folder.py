"""The folder of a run: config.json, metrics.jsonl, params.safetensors, checkpoints and pictures."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.devices import SHARDINGS
from funcprop.cli.job.pictures import PICTURES
from funcprop.cli.job.recipe import LATER, Recipe, settled
from funcprop.cli.job.run import Record
from funcprop.cli.job.watching import EVENTS, TRACE
from funcprop.extras import require
from funcprop.training.checkpoint import replace_file

CONFIG, METRICS = "config.json", "metrics.jsonl"
# what config.json says of how a run is saved, and lies
SAVING = ("checkpoint_every", "plots", "tensorboard", "speed", "norms", "sharding")
PARAMS, CHECKPOINTS = "params.safetensors", "checkpoints"


def check_folder(folder: Path, overwrite: bool) -> None:
    """The folder can be written to: new, empty, or to be overwritten.

    Raises RecipeError, and ModuleNotFoundError where a library for writing is missing: before an
    hour of training, not after it.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            raise RecipeError(f"--out: {place} is a file, wanted a folder: give another name")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise RecipeError(
            f"--out: {folder} exists and is not empty: give another folder, or --overwrite"
        )
    parent = next(place for place in (folder, *folder.absolute().parents) if place.is_dir())
    try:
        tempfile.TemporaryDirectory(dir=parent).cleanup()
    except OSError as error:
        raise RecipeError(
            f"--out: {parent} cannot be written ({error.strerror}): give another folder"
        ) from error
    for name in ("safetensors", "matplotlib", "orbax"):
        require(name, "train")


def clear(folder: Path) -> None:
    """The folder without the files of an earlier run; others stay."""
    for name in (CONFIG, METRICS, PARAMS, *PICTURES):
        (folder / name).unlink(missing_ok=True)
    for name in (CHECKPOINTS, EVENTS, TRACE):
        shutil.rmtree(folder / name, ignore_errors=True)


def write_config(
    folder: Path,
    recipe: Recipe,
    example: tuple[int, ...],
    classes: int,
    labels: Sequence[str],
    saving: dict[str, Any],
) -> None:
    """config.json, as a whole or not at all: the recipe, the data's shape, how the run is saved."""
    config = dataclasses.asdict(settled(recipe))
    config["data_dir"] = None if recipe.data_dir is None else str(recipe.data_dir)
    config |= {"example": list(example), "classes": classes, "labels": list(labels)}
    replace_file(
        folder / CONFIG, (json.dumps(config | saving, indent=2, ensure_ascii=False) + "\n").encode()
    )


def append_metrics(folder: Path, record: Record) -> None:
    """One more line of metrics.jsonl, on the disk before the next epoch starts, or none of it."""
    line = (json.dumps(record.row()) + "\n").encode()
    with (folder / METRICS).open("ab", buffering=0) as file:
        before = file.tell()
        try:
            if file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / METRICS))
        except OSError:
            file.truncate(before)
            raise


def settle_metrics(folder: Path) -> None:
    """metrics.jsonl as it is, on the disk itself: before a checkpoint that counts on it."""
    with (folder / METRICS).open("ab") as file:
        os.fsync(file.fileno())


def keep_metrics(folder: Path, epochs: int, write: bool = True) -> list[Record]:
    """metrics.jsonl cut back to the first epochs: what comes after them is to come again.

    Raises RecipeError where they are not there.
    """
    path, records = folder / METRICS, []
    try:
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        records = [Record(**json.loads(line)) for line in lines[:epochs]]
        if [record.epoch for record in records] != list(range(epochs)):
            raise ValueError(f"it has {len(records)} of {epochs} epochs")
    except (TypeError, ValueError) as error:
        raise RecipeError(
            f"{path} is not what the run wrote ({error}): restore the file, or train again"
        ) from error
    lines = (json.dumps(record.row()) + "\n" for record in records)
    if write:
        replace_file(path, "".join(lines).encode())
    return records


def read_saving(folder: Path) -> dict[str, Any]:
    """What `write_config` was told of how the run is saved."""
    config = json.loads((folder / CONFIG).read_text("utf-8"))
    return {name: config[name] for name in SAVING if name in config}


def read_config(folder: Path) -> tuple[Recipe, tuple[int, ...], int]:
    """The recipe, the shape of an example and the number of classes, from config.json.

    Raises RecipeError where the file is missing, or not what `start_folder` wrote.
    """
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RecipeError(
            f"{path} cannot be read ({error.strerror}): give the folder of `funcprop train --out`"
        ) from error
    except ValueError as error:
        raise RecipeError(f"{path} is no JSON ({error}): train again") from error
    try:
        config = {name: getattr(Recipe, name) for name in LATER} | config
        for name, kind in KINDS.items():
            if name in config and not kind(config[name]):
                raise ValueError(f"{name} is {config[name]!r}")
        example, classes = tuple(config["example"]), config["classes"]
        fields = {}
        for field in dataclasses.fields(Recipe):
            value = fields[field.name] = config[field.name]
            if not is_of(value, str(field.type)):
                raise ValueError(f"{field.name} is {value!r}, wanted {field.type}")
        if fields["layers"] is not None:
            fields["layers"] = tuple(fields["layers"])
        if fields["data_dir"] is not None:
            fields["data_dir"] = Path(fields["data_dir"])
        return Recipe(**fields), example, classes
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RecipeError(f"{path} is no configuration of a run ({reason}): train again") from error


def is_whole(value: Any, low: int) -> bool:
    """Whether it is a whole number of at least `low`."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


# what config.json holds beside the recipe
KINDS: dict[str, Callable[[Any], bool]] = {
    "example": lambda v: isinstance(v, list) and bool(v) and all(is_whole(n, 1) for n in v),
    "classes": lambda v: is_whole(v, 2),
    "labels": lambda v: isinstance(v, list) and all(isinstance(name, str) for name in v),
    "checkpoint_every": lambda v: isinstance(v, str),
    "plots": lambda v: isinstance(v, bool),
    "tensorboard": lambda v: isinstance(v, bool),
    "speed": lambda v: isinstance(v, bool),
    "norms": lambda v: isinstance(v, bool),
    "sharding": lambda v: v is None or v in SHARDINGS,
}


def is_of(value: Any, annotation: str) -> bool:
    """Whether JSON's value is what a field of the recipe is annotated as."""
    kinds = {"int": int, "float": (int, float), "bool": bool, "str": str, "Path": str}
    for kind in annotation.split(" | "):
        if kind == "None" and value is None:
            return True
        if kind.startswith("tuple") and isinstance(value, list):
            return all(is_whole(size, 0) for size in value)
        if kind in kinds and isinstance(value, kinds[kind]):
            return kind == "bool" or not isinstance(value, bool)
    return False
