"""Parameters and statistics in one safetensors file, each array under its path: `params.1.w`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcprop.doors import door
from funcprop.extras import require
from funcprop.layer import Params, spell


class CheckpointError(ValueError):
    """A checkpoint cannot be read, or does not fit the model: the message says where. A ValueError.

    >>> import funcprop as fp
    >>> try:
    ...     fp.load_checkpoint("nowhere.safetensors", ())
    ... except fp.training.CheckpointError as error:
    ...     print(str(error).split(":")[0])
    nowhere.safetensors cannot be read (No such file or directory)
    """


@door
def save_checkpoint(path: str | Path, params: Params, statistics: Any = ()) -> None:
    """Write params and statistics to `path`, replacing it as a whole or not at all.

    path                a safetensors file; each array lies in it under its path: `params.1.w`
    params, statistics  trees of arrays of any shape; every float and integer dtype is kept,
                        bfloat16 included

    raises  ModuleNotFoundError without safetensors, OSError where the file cannot be written,
            TypeError for leaves that are no numbers, ValueError where two leaves have one name

    >>> import jax, jax.numpy as jnp, pathlib, tempfile
    >>> import funcprop as fp
    >>> params = fp.Dense(3).init(jax.random.key(0), jnp.ones((4, 2)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     fp.save_checkpoint(path, params)
    ...     found, _ = fp.load_checkpoint(path, params)
    >>> bool((found.w == params.w).all())
    True
    """
    save = require("safetensors.numpy", "train").save
    leaves = named_leaves(params, statistics)
    for name, leaf in leaves.items():
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
            raise TypeError(
                f"{name} is {spell(leaf)}, wanted numbers: write jax.random.key_data({name}) there"
            )
    data = save({name: np.asarray(leaf, order="C") for name, leaf in leaves.items()})
    replace_file(Path(path), data)


def check_options(folder: Any, every: Any, seconds: Any, keep: Any, about: Any) -> None:
    """What `Checkpoints` is given. Raises TypeError, ValueError, and CheckpointError for a file."""
    if not isinstance(folder, str | os.PathLike):
        raise TypeError(f"folder is {folder!r}, wanted a path: write Checkpoints('runs/one')")
    if Path(folder).exists() and not Path(folder).is_dir():
        raise CheckpointError(f"{folder} is a file, wanted a folder: give another name")
    if about is not None and not isinstance(about, Mapping):
        raise TypeError(f"about is {about!r}, wanted a dict: write about={{'data': 'mnist'}}")
    if seconds is not None and not (isinstance(seconds, int | float) and seconds > 0):
        raise ValueError(f"seconds is {seconds!r}, wanted a positive number")
    for name, value in (("every", every), ("keep", keep)):
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not (whole or (value is None and name == "every")):
            raise ValueError(f"{name} is {value!r}, wanted a whole number of at least 1")


def replace_file(path: Path, data: bytes) -> None:
    """The file with these bytes, as a whole or not at all. Raises OSError."""
    unfinished = path.with_name(path.name + ".part")
    try:
        unfinished.write_bytes(data)
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


@door
def load_checkpoint(path: str | Path, params: Params, statistics: Any = ()) -> tuple[Params, Any]:
    """params and statistics from `path`: the trees that are asked for, as jax arrays.

    path                a file that `save_checkpoint` wrote
    params, statistics  trees of arrays or ShapeDtypeStructs that say what the model wants:
                        `jax.eval_shape(model.init, key, x)`. Nothing is cast

    raises  ModuleNotFoundError without safetensors; CheckpointError, in one message that names
            every place, where the file is missing or no safetensors file, and where names, shapes
            or dtypes differ from what is wanted; ValueError where two leaves of what is wanted have
            one name

    >>> import jax, jax.numpy as jnp, pathlib, tempfile
    >>> import funcprop as fp
    >>> model, key, x = fp.Dense(3), jax.random.key(0), jnp.ones((4, 2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "model.safetensors")
    ...     fp.save_checkpoint(path, model.init(key, x))
    ...     params, statistics = fp.load_checkpoint(path, jax.eval_shape(model.init, key, x))
    >>> params.w.shape, statistics
    ((2, 3), ())
    """
    library = require("safetensors", "train")
    load = require("safetensors.numpy", "train").load_file  # `load` knows no bfloat16
    try:
        with Path(path).open("rb"):  # a missing or forbidden file is told apart from a broken one
            found = load(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read ({error.strerror}): give the file that save_checkpoint wrote"
        ) from error
    except (library.SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is no complete safetensors file ({error}): save it again"
        ) from error
    wanted = named_leaves(params, statistics)
    problems = differences(found, wanted)
    if problems:
        raise CheckpointError(
            f"{path} does not fit the model: {'; '.join(problems)}: "
            "build the model with the configuration it was saved with"
        )
    leaves = [jnp.asarray(found[name]) for name in wanted]
    return jax.tree.unflatten(jax.tree.structure((params, statistics)), leaves)


def named_leaves(params: Params, statistics: Any) -> dict[str, Any]:
    """The leaves of both trees by path, in the order of the tree: {"params.1.w": ...}.

    Raises ValueError where two leaves have one name: {"a": {"b": 1}, "a.b": 2}.
    """
    named = {}
    for root, tree in (("params", params), ("statistics", statistics)):
        for path, leaf in jax.tree.leaves_with_path(tree):
            place = jax.tree_util.keystr(path, simple=True, separator=".")
            name = f"{root}.{place}" if place else root
            if name in named:
                raise ValueError(
                    f"two leaves are called {name}: leave the full stop out of one of their keys"
                )
            named[name] = leaf
    return named


def differences(found: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """What keeps `found` from being `wanted`, in a few words each."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not expected" for name in found if name not in wanted]
    for name in wanted:
        if name in found:
            have, want = found[name], wanted[name]
            if (have.shape, have.dtype) != (tuple(want.shape), want.dtype):
                problems.append(f"{name} is {spell(have)}, wanted {spell(want)}")
    if len(problems) > 8:  # a different model differs everywhere
        problems[8:] = [f"and {len(problems) - 8} more"]
    return problems
