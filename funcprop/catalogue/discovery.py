"""What to compare, found by name: `module:attribute`, and every layer that a package defines."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from funcprop.catalogue.row import Row
from funcprop.layer import Layer


class TargetError(ValueError):
    """A name that leads to nothing; the message is one line that says what to write instead."""


def imported(name: str) -> ModuleType:
    """The module `name`, found as `python -m` finds it: the working directory comes first.

    Raises TargetError where there is none, or where importing it fails.
    """
    if os.path.isfile(name) or not all(part.isidentifier() for part in name.split(".")):
        path, suffix = os.path.splitext(name)
        meant = (path if suffix == ".py" else name).strip("./").replace("/", ".")
        raise TargetError(f"{name!r} is no module's name: write it as `import` does, as {meant}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise TargetError(f"importing {name} failed: {error}: install it") from error
        raise TargetError(
            f"no module is called {error.name!r}, here or among what is installed: "
            f"go to the folder that holds it, or write its full name, as package.module"
        ) from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}"
        raise TargetError(f"importing {name} failed, correct it first: {reason}") from error


def attribute(target: str) -> Any:
    """The value of `module:attribute` or `module:attribute.attribute`; raises TargetError."""
    name, _, path = target.partition(":")
    if not name or not path:
        raise TargetError(f"{target!r} is no target: write module:attribute, as my_module:my_layer")
    value: Any = imported(name)
    for part in path.split("."):
        if not hasattr(value, part):
            public = [word for word in dir(value) if not word.startswith("_")]
            near = get_close_matches(part, public, 1, 0.4)
            hint = f"did you mean {near[0]!r}?" if near else f"define it in {name} at the top level"
            raise TargetError(f"{target}: {name} has no {part!r}: {hint}")
        value = getattr(value, part)
    return value


def modules(package: str) -> Iterator[tuple[str, ModuleType | TargetError]]:
    """The package and all its submodules by name, or why one cannot be imported.

    Programs (`__main__`) are left out: importing one runs it.
    """
    try:
        root = imported(package)
    except TargetError as error:
        yield package, error
        return
    yield package, root
    for found in pkgutil.iter_modules(getattr(root, "__path__", ()), f"{package}."):
        if not found.name.endswith(".__main__"):
            yield from modules(found.name)


def layer_classes(module: ModuleType) -> list[type[Layer]]:
    """The public layers that a module defines, each with a forward and a backward, in order."""
    return [
        value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Layer)
        and value.__module__ == module.__name__
        and value.__name__ == name
        and not name.startswith("_")
        and not inspect.isabstract(value)
        and value.forward is not Layer.forward
        and value.backward is not Layer.backward
    ]


def rows_in(module: ModuleType) -> Iterator[Row]:
    """The rows at the top level of a module, alone or in a tuple or list."""
    for value in vars(module).values():
        parts: Iterable[Any] = value if isinstance(value, (tuple, list)) else (value,)
        yield from (part for part in parts if isinstance(part, Row))
