"""The command that the words of a process are, or one line that says why they are none."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, NoReturn, Union, get_args, get_origin, get_type_hints

from funcprop.cli.commands import KINDS
from funcprop.cli.errors import UsageError
from funcprop.cli.job.checks import nearest
from funcprop.cli.markers import Positional, UseAppendAction
from funcprop.extras import require

DESCRIPTION = """Programmable backpropagation: every layer is a forward and a hand-written backward.

  funcprop train                   learn handwritten digits by hand-written backpropagation
  funcprop train --help            everything that can be changed
  funcprop train --out runs/one    ... and keep the network, its history and its curves
  funcprop predict runs/one        read it back: its accuracy on the test set
  funcprop compare                 hand-written gradients beside automatic differentiation
  funcprop compare mine:layer --x 8x4    ... of a layer or a function of your own
  funcprop summary                 a model layer by layer: shapes, parameters, bytes, flops
  funcprop explain                 a page on which one sees value, error and slope
  funcprop exercise tanh           a backward pass to write yourself, graded in words"""


def parse(arguments: Sequence[str]) -> Any:
    """The command that the arguments are, or None where they ask for help, which is printed.

    Raises UsageError, in one line.
    """
    tyro = require("tyro", "train")
    words = [spelled(word) for word in arguments]
    check_words(words)
    if "--help" in words or "-h" in words:
        show_help(tyro, words[0])
        return None
    return command(KINDS[words[0]], words[1:])


def spelled(word: str) -> str:
    """An option as it stands in the help: --data-dir, where --data_dir was written."""
    option, equals, value = word.partition("=")
    return option.replace("_", "-") + equals + value if word.startswith("--") else word


class Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and end the process."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))


def command(kind: type, words: Sequence[str]) -> Any:
    """The command of a kind that the words are, read into its fields."""
    parser = Parser(add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    hints = get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        name, how = field.name, reading(hints[field.name])
        if not how.pop("positional", False):
            name = f"--{name.replace('_', '-')}"
        parser.add_argument(name, **how)
    found = vars(parser.parse_intermixed_args(words))
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    return kind(**given)


def reading(hint: Any) -> dict[str, Any]:
    """How argparse reads a field of this type."""
    markers = getattr(hint, "__metadata__", ())
    hint = hint.__origin__ if markers else hint
    if hint is bool:
        return {"action": "store_true"}
    parts = get_args(hint)
    kind = parts[0] if NoneType in parts else hint  # an option that may be left out
    many = get_origin(kind) is tuple
    kind = get_args(kind)[0] if many else kind
    if UseAppendAction in markers:
        return {"type": kind, "action": "append"}
    nargs = {"nargs": "*"} if many else {}
    return {"type": kind, "positional": Positional in markers, **nargs}


def show_help(tyro: Any, first: str) -> None:
    """The help of a command, or the list of commands, a line each."""
    short = first not in KINDS
    kinds: Any = tuple(
        Annotated[kind, tyro.conf.subcommand(name, description=first_line(kind) if short else None)]
        for name, kind in KINDS.items()
    )
    with contextlib.suppress(SystemExit):
        tyro.cli(
            Union[kinds],  # noqa: UP007
            prog="funcprop",
            description=DESCRIPTION,
            args=["--help"] if short else [first, "--help"],
            config=(tyro.conf.FlagCreatePairsOff,),
            registry=optional_values(tyro),
        )


def first_line(kind: type) -> str:
    """The first line of a docstring."""
    return (kind.__doc__ or "").partition("\n")[0]


def check_words(arguments: Sequence[str]) -> None:
    """The first word is a command and every option one of its own; errors suggest the nearest."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        return
    names = ", ".join(KINDS)
    if first not in KINDS:
        given = f"unknown command {first!r}" if first else "no command was given"
        raise UsageError(f"{given}: {nearest(first, KINDS)}the commands are {names}")
    known = ["--help"]
    known += [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(KINDS[first])]
    for word in arguments[1:]:
        option = word.partition("=")[0]
        if word.startswith("--") and option not in known:
            raise UsageError(
                f"unknown option {option!r}: {nearest(option, known)}see `funcprop {first} --help`"
            )


def optional_values(tyro: Any) -> Any:
    """How the help shows an option that may be left out: by its value, never by the word None."""
    registry = tyro.constructors.ConstructorRegistry()
    metavars = {float: "NUMBER", int: "NUMBER", str: "NAME", Path: "PATH"}
    shown: dict[Any, tuple[Any, str]] = {k | None: (1, word) for k, word in metavars.items()}
    shown[tuple[int, ...] | None] = ("*", "[NUMBER ...]")

    @registry.primitive_rule
    def rule(info: Any) -> Any:
        if info.type not in shown:
            return None
        nargs, metavar = shown[info.type]
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=nargs,
            metavar=metavar,
            instance_from_str=lambda words: words,
            is_instance=lambda value: True,
            str_from_instance=lambda value: ["none" if value is None else str(value)],
        )

    return registry
