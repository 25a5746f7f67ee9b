"""The command that the words of a process are, or one line that says why they are none."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Union

from funcprop.cli.compare import Compare
from funcprop.cli.errors import UsageError
from funcprop.cli.job.recipe import nearest
from funcprop.cli.predict import Predict
from funcprop.cli.train import Train
from funcprop.extras import require

DESCRIPTION = """Programmable backpropagation: every layer is a forward and a hand-written backward.

  funcprop train                   learn handwritten digits by hand-written backpropagation
  funcprop train --help            everything that can be changed
  funcprop train --out runs/one    ... and keep the network, its history and its curves
  funcprop predict runs/one        read it back: its accuracy on the test set
  funcprop compare                 hand-written gradients beside automatic differentiation
  funcprop compare mine:layer --x 8x4    ... of a layer or a function of your own"""


COMMANDS = {"train": Train, "predict": Predict, "compare": Compare}


def parse(arguments: Sequence[str]) -> Train | Predict | Compare | None:
    """The command that the arguments are, or None where they ask for help, which is printed.

    Raises UsageError, in one line.
    """
    tyro = require("tyro", "train")
    check_words(arguments)
    short = arguments[0] not in COMMANDS  # the list of commands: a line each
    kinds: Any = tuple(
        Annotated[kind, tyro.conf.subcommand(name, description=first_line(kind) if short else None)]
        for name, kind in COMMANDS.items()
    )
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                Union[kinds],  # noqa: UP007
                prog="funcprop",
                description=DESCRIPTION,
                args=arguments,
                config=(tyro.conf.FlagCreatePairsOff,),
                registry=optional_values(tyro),
            )
    except SystemExit as stop:
        if not stop.code:
            return None
        raise UsageError(first_sentence(errors.getvalue())) from None


def first_line(kind: type) -> str:
    """The first line of a docstring."""
    return (kind.__doc__ or "").partition("\n")[0]


def check_words(arguments: Sequence[str]) -> None:
    """The first word is a command and every option one of its own; errors suggest the nearest."""
    first = arguments[0] if arguments else ""
    if first in ("-h", "--help"):
        return
    names = ", ".join(COMMANDS)
    if first not in COMMANDS:
        given = f"unknown command {first!r}" if first else "no command was given"
        raise UsageError(f"{given}: {nearest(first, COMMANDS)}the commands are {names}")
    known = ["--help"]
    known += [f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(COMMANDS[first])]
    for word in arguments[1:]:
        option = word.partition("=")[0].replace("_", "-")
        if word.startswith("--") and option not in known:
            raise UsageError(
                f"unknown option {option!r}: {nearest(option, known)}see `funcprop {first} --help`"
            )


def first_sentence(box: str) -> str:
    """The text of tyro's error box up to its first rule or blank row, as one line."""
    rows = [row.strip("│ ") for row in box.splitlines()[1:]]  # the first one is the title
    ends = [i for i, row in enumerate(rows) if not row.strip("╰╯─- ")]
    if ends[:1] == [0]:  # a terminal without UTF-8: no frame, and a rule below the title
        rows, ends = rows[1:], [end - 1 for end in ends[1:]]
    sentence = " ".join(rows[: ends[0] if ends else None])
    return sentence.removeprefix("Error parsing ") or "the arguments are no command"


def optional_values(tyro: Any) -> Any:
    """How tyro reads an option that may be left out: as its value, never as the word None."""
    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(info: Any) -> Any:
        kinds = ((float, "NUMBER"), (int, "NUMBER"), (str, "NAME"), (Path, "PATH"))
        for kind, metavar in kinds:
            if info.type == kind | None:
                return tyro.constructors.PrimitiveConstructorSpec(
                    nargs=1,
                    metavar=metavar,
                    instance_from_str=lambda words, kind=kind: kind(words[0]),
                    is_instance=lambda value, kind=kind: value is None or isinstance(value, kind),
                    str_from_instance=lambda value: ["none" if value is None else str(value)],
                )
        if info.type == tuple[int, ...] | None:
            return tyro.constructors.PrimitiveConstructorSpec(
                nargs="*",
                metavar="[NUMBER ...]",
                instance_from_str=lambda words: tuple(map(int, words)),
                is_instance=lambda value: value is None or isinstance(value, tuple),
                str_from_instance=lambda value: (
                    ["none"] if value is None else list(map(str, value))
                ),
            )
        return None

    return registry
