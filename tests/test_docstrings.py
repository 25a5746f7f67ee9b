"""Every public name says what it takes, gives and raises, and shows it in an example that runs."""

import ast
import dataclasses
import doctest
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import funcprop
from funcprop.layer import Layer

HOUSE = Path(funcprop.__file__).parent

# These name things in public; of any other module that is public which `funcprop` itself names.
EXPORTING = (
    "blocks",
    "catalogue",
    "collectors",
    "comparison",
    "composites",
    "costs",
    "data",
    "explorer",
    "initializers",
    "inspection",
    "layers",
    "lifting",
    "losses",
    "models",
    "pipelines",
    "placement",
    "plots",
    "rewiring",
    "testing",
    "training",
)

LAZY = "funcprop.lazy"  # what makes names public, and has none itself


def exported(module: ModuleType) -> Iterator[type]:
    """Public classes and functions; of a value, such as a rule that is ready made, its class."""
    # those of funcprop itself are in vars() only once they were asked for
    for name in getattr(module, "__all__", list(vars(module))):
        value = getattr(module, name)
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        thing = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
        if thing.__module__.startswith("funcprop.") and thing.__module__ != LAZY:
            yield thing


def public() -> dict[str, list]:
    """Package or module -> what of it is public."""
    modules = [funcprop, *(importlib.import_module(f"funcprop.{name}") for name in EXPORTING)]
    rooms: dict[str, list] = {}
    for thing in dict.fromkeys(thing for module in modules for thing in exported(module)):
        rooms.setdefault(thing.__module__.split(".")[1], []).append(thing)
    return rooms


PUBLIC = public()
FILES = sorted(
    path
    for path in HOUSE.rglob("*.py")
    if path.relative_to(HOUSE).parts[0].removesuffix(".py") in PUBLIC
)
rooms = pytest.mark.parametrize("room", sorted(PUBLIC))

# What the examples of these files are written with, and not every reader has.
NEEDS = {"linen_module": "flax.linen", "nnx_module": "flax.nnx", "equinox_module": "equinox"}


@functools.cache
def source(thing) -> ast.AST:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(thing))).body
    return tree


def text(thing) -> str:
    """The docstring that stands in the source: not one inherited, or made by @dataclass."""
    return ast.get_docstring(source(thing)) or ""


def is_layer(thing) -> bool:
    return inspect.isclass(thing) and issubclass(thing, Layer)


def is_record(thing) -> bool:
    """Whether a class holds values and does nothing with them."""
    if not inspect.isclass(thing) or is_layer(thing) or not fields(thing):
        return False
    kinds = (kind for kind in thing.__mro__ if kind.__module__.startswith("funcprop."))
    members = [(name, value) for kind in kinds for name, value in vars(kind).items()]
    functions = (name for name, value in members if inspect.isfunction(value))
    return not any(name == "__call__" or not name.startswith("_") for name in functions)


def fields(thing) -> tuple[str, ...]:
    if dataclasses.is_dataclass(thing):
        return tuple(field.name for field in dataclasses.fields(thing))
    return getattr(thing, "_fields", ())


def raises(thing) -> bool:
    """Whether the source raises, or calls a check_..., which does."""
    for node in ast.walk(source(thing)):
        called = node.func if isinstance(node, ast.Call) else None
        name = getattr(called, "id", getattr(called, "attr", ""))
        if isinstance(node, ast.Raise) or re.match("_?check(_|$)", name):
            return True
    return False


@rooms
def test_everything_is_described(room):
    wrong = [thing.__name__ for thing in PUBLIC[room] if not text(thing)]
    assert not wrong, ", ".join(wrong)


@rooms
def test_layers_say_which_shapes_and_dtypes_go_through_them(room):
    wrong = []
    for thing in filter(is_layer, PUBLIC[room]):
        lines = re.findall(r"^(forward|backward|dtypes)  +\S", text(thing), re.MULTILINE)
        forward = re.search(r"^forward .*?^(keeps|backward) ", text(thing), re.M | re.S)
        shapes = forward and ("[" in forward[0] or "tree" in forward[0])
        if not shapes or sorted(lines) != ["backward", "dtypes", "forward"]:
            wrong.append(thing.__name__)
    assert not wrong, ", ".join(wrong)


@rooms
def test_records_say_what_their_fields_are(room):
    wrong = []
    for thing in filter(is_record, PUBLIC[room]):
        told = text(thing)
        kinds = " ".join(map(str, vars(thing).get("__annotations__", {}).values()))
        if "Array" in kinds and "[" not in told:
            wrong.append(f"{thing.__name__}: shapes")
        unsaid = (name for name in fields(thing) if not re.search(rf"\b{name}\b", told))
        wrong += [f"{thing.__name__}.{name}" for name in unsaid]
    assert not wrong, ", ".join(wrong)


@rooms
def test_what_raises_says_so(room):
    wrong = [
        thing.__name__
        for thing in filter(raises, PUBLIC[room])
        if not re.search(r"\braises\b", text(thing), re.IGNORECASE)
    ]
    assert not wrong, ", ".join(wrong)


@rooms
def test_there_is_an_example(room):
    """Of everything but records, which the examples of others make."""
    wrong = [
        thing.__name__
        for thing in PUBLIC[room]
        if not is_record(thing) and ">>> " not in text(thing)
    ]
    assert not wrong, ", ".join(wrong)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(HOUSE).as_posix())
def test_the_examples_run(path):
    if path.stem in NEEDS:
        try:
            importlib.import_module(NEEDS[path.stem])
        except (ImportError, AttributeError) as error:  # or it does not know this jax yet
            pytest.skip(f"{NEEDS[path.stem]} is not imported: {error}")
    parts = path.relative_to(HOUSE.parent).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    runner = doctest.DocTestRunner(verbose=False)
    told: list[str] = []
    # each in a namespace of its own, so that an example imports what it uses
    for example in doctest.DocTestFinder(exclude_empty=True).find(module, globs={}):
        runner.run(example, out=told.append)
    assert not told, "".join(told)
