"""Which derivative rules a function reaches, and where they stand in their package."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr

CUSTOM = ("custom_jvp_call", "custom_vjp_call", "linear_call")
OTHER_NAMES = {"custom_linear_solve": "linear_solve", "remat2": "remat", "checkpoint": "remat"}


def reached(function: Any, args: tuple[Any, ...]) -> dict[str, str]:
    """The rules in the jaxpr of function(*args): name -> file:line, '' for a primitive."""
    return dict(rules_in(jax.make_jaxpr(function)(*args).jaxpr))


def rules_in(jaxpr: Jaxpr) -> Iterator[tuple[str, str]]:
    for eqn in jaxpr.eqns:
        inner = list(jaxprs_in(list(eqn.params.values())))
        if eqn.primitive.name in CUSTOM:
            info = inner[0].debug_info
            where = re.search(r" at (\S+:\d+)$", str(info.func_src_info))
            yield info.func_name, where[1] if where else ""
        else:
            name = OTHER_NAMES.get(eqn.primitive.name, eqn.primitive.name)
            yield f"{name.replace('-', '_')}_p", ""
        for held in inner:
            yield from rules_in(held)


def jaxprs_in(value: Any) -> Iterator[Jaxpr]:
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from jaxprs_in(part)


def definition(rule: str) -> str:
    """`package/file.py:line` of `module.qualname`: of its def, or of what is assigned to it."""
    parts = rule.split(".")
    if parts[-1].endswith("_p") and parts[0] == "jax":
        return of_primitive(parts[-1])
    for cut in range(len(parts) - 1, 0, -1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:cut]))
        except (ImportError, AttributeError, ValueError):
            continue
        if spec is not None and spec.origin is not None:
            line = line_of(Path(spec.origin), tuple(parts[cut:]))
            return f"{short(spec.origin)}:{line}" if line else ""
    return ""


def line_of(file: Path, names: tuple[str, ...]) -> int:
    """The line where the last of nested names is defined; 0 where there is none."""
    nodes: list[ast.AST] = [ast.parse(file.read_text())]
    line = 0
    for name in names:
        found = [one for node in nodes for one in inside(node) if name in named(one)]
        if not found:
            return 0
        nodes, line = found, found[0].lineno  # type: ignore[attr-defined]
    return line


def inside(node: ast.AST) -> Iterator[ast.AST]:
    """The statements of a node, those of its branches too."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            yield from inside(child)


def named(node: ast.AST) -> tuple[str, ...]:
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return (node.name,)
    if isinstance(node, ast.Assign):
        return tuple(part.id for part in node.targets if isinstance(part, ast.Name))
    return ()


def of_primitive(name: str) -> str:
    """Where JAX registers the derivative rule of a primitive."""
    for text, file in sources():
        found = re.search(
            rf"^ *ad\.(def\w+\(|primitive_\w+\[|fancy_transposes\[)\s*\w*\.?{name}\b", text, re.M
        )
        if found:
            return f"{short(str(file))}:{text.count(chr(10), 0, found.start()) + 1}"
    return ""


@functools.cache
def sources() -> tuple[tuple[str, Path], ...]:
    folder = Path(jax.__file__).parent
    files = [file for part in ("_src", "experimental") for file in (folder / part).rglob("*.py")]
    return tuple((file.read_text(), file) for file in sorted(files))


def short(file: str) -> str:
    """The path below site-packages."""
    return file.rpartition("site-packages/")[2]
