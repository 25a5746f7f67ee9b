"""The folder of a run: config.json, metrics.jsonl, params.safetensors and pictures."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from funcprop.cli.job.checks import RecipeError
from funcprop.cli.job.pictures import PICTURES
from funcprop.cli.job.recipe import Recipe, settled
from funcprop.cli.job.run import Record
from funcprop.extras import require

CONFIG, METRICS = "config.json", "metrics.jsonl"
PARAMS = "params.safetensors"


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
    for name in ("safetensors", "matplotlib"):
        require(name, "train")


def start_folder(
    folder: Path, recipe: Recipe, example: tuple[int, ...], classes: int, labels: Sequence[str]
) -> None:
    """The folder with its config.json; files of an earlier run are removed, others stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (CONFIG, METRICS, PARAMS, *PICTURES):
        (folder / name).unlink(missing_ok=True)
    config = dataclasses.asdict(settled(recipe))
    config["data_dir"] = None if recipe.data_dir is None else str(recipe.data_dir)
    config |= {"example": list(example), "classes": classes, "labels": list(labels)}
    (folder / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
    (folder / METRICS).touch()


def append_metrics(folder: Path, record: Record) -> None:
    """One more line of metrics.jsonl, on the disk before the next epoch starts."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record._asdict()) + "\n")


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
        example = tuple(int(size) for size in config["example"])
        classes = int(config["classes"])
        fields = {field.name: config[field.name] for field in dataclasses.fields(Recipe)}
        if fields["layers"] is not None:
            fields["layers"] = tuple(fields["layers"])
        if fields["data_dir"] is not None:
            fields["data_dir"] = Path(fields["data_dir"])
        return Recipe(**fields), example, classes
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise RecipeError(f"{path} is no configuration of a run ({reason}): train again") from error
