"""Which rule a `jax.custom_vjp` or `jax.custom_jvp` is: where its function stands in a source."""

from __future__ import annotations

import functools
import types
from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

# These make a rule of somebody's function: the function they close over is the one to name.
FACTORIES = ("equinox._ad", "jax._src.custom_derivatives")
SIMPLE = (type(None), bool, int, float, complex, str, bytes)


class Place(NamedTuple):
    """module, qualified name, file and line of a function; the line is that of its decorator."""

    module: str
    name: str
    file: str
    line: int


def place_of(function: Any) -> Place:
    """Where the function of a rule stands, below all that was wrapped around it."""
    function = underlying(function)
    named = function if hasattr(function, "__qualname__") else type(function)
    code = code_of(function)
    file, line = (code.co_filename, code.co_firstlineno) if code else ("", 0)
    return Place(str(getattr(named, "__module__", "")), named.__qualname__, file, line)


def underlying(function: Any) -> Any:
    """The function that a person wrote: without partials, jit, functools.wraps and methods."""
    for _ in range(20):  # a wrapper may name itself
        if isinstance(function, functools.partial):
            inner = function.func
        elif isinstance(function, types.MethodType):
            inner = function.__func__
        elif (inner := getattr(function, "__wrapped__", None)) is None:
            inner = closed_over(function)
        if inner is None or inner is function:
            break
        function = inner
    return function


def closed_over(function: Any) -> Any:
    """The function that a factory of rules was given, or None."""
    if getattr(function, "__module__", None) not in FACTORIES:
        return None
    for content in contents(function):
        content = getattr(content, "fn", content)
        if callable(content) and getattr(content, "__module__", None) not in FACTORIES:
            return content
    return None


def contents(function: Any) -> Iterator[Any]:
    """What a function closes over, and its defaults."""
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    yield from getattr(function, "__defaults__", None) or ()
    yield from (getattr(function, "__kwdefaults__", None) or {}).values()


def code_of(function: Any) -> types.CodeType | None:
    """The code of a function, or of the __call__ of an object."""
    if not hasattr(function, "__code__"):
        function = vars(type(function)).get("__call__")
    found = getattr(function, "__code__", None)
    return found if isinstance(found, types.CodeType) else None


def token(value: Any, depth: int = 3) -> Hashable:
    """What tells two arguments or two closures apart: numbers and words, places of functions,
    shapes and dtypes of arrays, types of the rest."""
    if isinstance(value, SIMPLE):
        return type(value).__name__, value
    if isinstance(value, functools.partial):
        return token((value.func, value.args, value.keywords), depth)
    if isinstance(value, types.MethodType):
        return token((value.__func__, value.__self__), depth)
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return shape, str(dtype)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if not depth:
        return kind
    if isinstance(value, dict):
        value = tuple(value.items())
    if isinstance(value, (tuple, list)):
        return kind, *(token(part, depth - 1) for part in value[:20])
    if isinstance(value, types.FunctionType):
        inside = (token(content, depth - 1) for content in contents(value))
        return value.__module__, value.__qualname__, value.__code__.co_firstlineno, *inside
    wrapped = getattr(value, "__wrapped__", None)
    return kind if wrapped is None else (kind, token(wrapped, depth - 1))
