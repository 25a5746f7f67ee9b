"""A file of one's own that says `layer = ...` and `x = ...`, read as a program reads it."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from funcprop.layer import Context, Layer, spell

HOW = "end the file with layer = MyLayer() and x = an array, or a tuple of arrays"


class FileError(ValueError):
    """A file that holds nothing to compare; the message is one line that says what to write."""


class Own(NamedTuple):
    """What a file holds: its layer, the input, and the context where there is one."""

    layer: Layer
    x: Any
    context: Context | None


def own_layer(path: Path) -> Own:
    """Runs the file, and returns its `layer`, `x` and `context`. Raises FileError."""
    module = run(path)
    for name in ("layer", "x"):
        if not hasattr(module, name):
            raise FileError(f"{path} has no {name}: {HOW}")
    layer, context = module.layer, getattr(module, "context", None)
    if not isinstance(layer, Layer):
        raise FileError(f"{path}: layer is {spell(layer)}, wanted a layer: {HOW}")
    if context is not None and not isinstance(context, Context):
        raise FileError(
            f"{path}: context is {spell(context)}, wanted fp.Context(key=..., mask=...)"
        )
    return Own(layer, module.x, context)


def run(path: Path) -> Any:
    """The module that the file is; what stands beside it can be imported from it."""
    if not path.is_file():
        raise FileError(f"there is no file {path}: give the path of a Python file")
    name = f"funcprop exercise {path.stem}"  # no name that an import could mean
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise FileError(f"{path} is no Python file: its name ends in .py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    sys.path.insert(0, str(path.resolve().parent))
    sys.modules[name] = module  # @dataclass looks there
    try:
        spec.loader.exec_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = reversed(traceback.extract_tb(error.__traceback__))
        lines = (frame.lineno for frame in frames if frame.filename == str(path))
        line = getattr(error, "lineno", None) or next(lines, None)
        place = f" in line {line}" if line else ""
        said = str(error).partition("\n")[0]
        raise FileError(f"{path} raised {type(error).__name__}{place}: {said}") from error
    finally:
        sys.path[:] = before
    return module
