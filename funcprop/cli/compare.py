"""funcprop compare: hand-written gradients beside automatic differentiation."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from funcprop.catalogue.comparisons import HEADINGS, Effort, cells, chosen, compare_row, comparisons
from funcprop.catalogue.comparisons import CatalogueComparison as Table
from funcprop.catalogue.costs import profile_rows
from funcprop.catalogue.row import Row
from funcprop.catalogue.table import ROWS
from funcprop.cli.errors import FailedRun, UsageError
from funcprop.cli.job.progress import counting
from funcprop.cli.markers import Positional, UseAppendAction
from funcprop.cli.script import check_judged, rules_of
from funcprop.cli.target import Subject, of_file, subject
from funcprop.costs.cost import Costs
from funcprop.extras import require


@dataclass(frozen=True)
class Compare:
    """Compare the hand-written gradient of every layer there is with automatic differentiation.

    Those of the catalogue, by name in upper or lower case, or all of them, which takes minutes:

      funcprop compare
      funcprop compare dense sigmoid
      funcprop compare --json report.json --html report.html
      funcprop compare LayerNorm MaxPool --profile

    Or your own, named as module:attribute and found from the working directory: a layer, a Row,
    which is a layer with its input, a pair of functions (forward, backward), or a function that
    contains hand-written rules. --x says what an input is, once for each:

      funcprop compare my_module:my_layer --x 8x4
      funcprop compare my_module:my_row --profile
      funcprop compare my_module:my_pair --x 8x4 --x 4x3
      funcprop compare my_module:my_loss --x bfloat16:8x10 --x 'int32:8<10'
      funcprop compare my_module:my_kernel --x 64x64 --against my_module:plain

    Or what a file of yours says, layer and x at its top level, as funcprop exercise writes it:

      funcprop compare my_layer.py

    Or every jax.custom_vjp and jax.custom_jvp function that a program calls, at the values it
    calls them with:

      funcprop compare --script train.py --html rules.html

    Exit code: 0 every gradient is right, 1 one is wrong, 2 something cannot be compared.
    """

    names: Annotated[tuple[str, ...], Positional] = ()
    """Layers of the catalogue, module:attribute, or files."""

    x: Annotated[tuple[str, ...], UseAppendAction] = ()
    """An input of module:attribute. 8x4 is float32[8, 4] of N(0, 1),
    bfloat16:8x4 the same rounded, 'int32:8<10' eight integers from
    0 to 9 (quoted: < means something to the shell), bool:8 coins."""

    against: str | None = None
    """The truth for a pair or a function: module:function of the same
    inputs, in place of its own forward without hand-written rules."""

    surrogate: str | None = None
    """module:function whose derivative a function has on purpose, as a
    straight-through estimate does; its values are not compared."""

    order: int = 1
    """2: second derivatives, forward mode and transformations as well."""

    rtol: float = 0.0
    """A relative error that is granted: of loops that stop at a tolerance."""

    ignore: Annotated[tuple[str, ...], UseAppendAction] = ()
    """An argument or a leaf of module:attribute whose gradient is not
    judged: scale, dx[1], dw."""

    script: Path | None = None
    """Run this Python script, and compare the derivative rules that it
    calls, those of the libraries it uses among them."""

    seconds: float = 20.0
    """For each rule of --script: when they are over, no further of its
    examples is begun."""

    profile: bool = False
    """Also measure what each right gradient costs: time, memory and
    flops of forward and backward, by hand, by jax.vjp of the same
    forward, and by jax.vjp of the form a JAX user would write."""

    json: Path | None = None
    """Write the report as JSON to this new file as well."""

    html: Path | None = None
    """Write the report as a page of HTML to this new file as well."""

    thorough: bool = False
    """Compile as a training step is compiled, and try four times as
    many gradients: three times the time."""

    debug: bool = False
    """Show the traceback of an error."""


def run(command: Compare) -> int:
    """`funcprop compare`: 1 where a gradient is wrong."""
    check_new("--json", command.json)
    check_new("--html", command.html)
    if command.json is not None and command.json == command.html:
        raise UsageError(f"--json and --html are both {command.json}: give two names")
    if command.script is not None:
        return run_rules(command, command.script)
    subjects = named(command)
    alone = len(subjects) == 1 and subjects[0].own
    how = Effort(command.thorough, command.order, command.rtol, command.ignore)
    table = compared(subjects, how, quiet=alone)
    costs = cost(table) if command.profile else None
    if command.json is not None:
        command.json.write_text(table.to_json(costs) + "\n", "utf-8")
    if command.html is not None:
        command.html.write_text(table.to_html(costs), "utf-8")
    wrong = [comparison for _, comparison in table.entries if not comparison.ok]
    if alone:  # its leaves, right or wrong
        show(table.entries[0][1])
    elif sys.stdout.isatty():
        show(table)
    else:  # its lines are printed already
        for comparison in wrong:
            print(f"\n{comparison}", flush=True)
    if costs is not None:
        print(f"\n{costs}", flush=True)
    if wrong:
        names = ", ".join(row.name for row, comparison in table.entries if not comparison.ok)
        raise FailedRun(f"wrong: {names} ({len(wrong)} of {len(subjects)} targets)")
    return 0


def run_rules(command: Compare, script: Path) -> int:
    """`funcprop compare --script`: 1 where a rule is wrong."""
    others = {"a name": command.names, "--x": command.x, "--against": command.against,
              "--profile": command.profile, "--thorough": command.thorough,
              "--surrogate": command.surrogate, "--order": command.order != 1,
              "--rtol": command.rtol, "--ignore": command.ignore}  # fmt: skip
    for option in (option for option, value in others.items() if value):
        raise UsageError(f"--script finds what it compares by itself: leave {option} out")
    found = rules_of(script, command.seconds)
    if command.json is not None:
        command.json.write_text(found.to_json() + "\n", "utf-8")
    if command.html is not None:
        command.html.write_text(found.to_html(), "utf-8")
    show(found)
    check_judged(found, script)
    return 0


def check_new(option: str, path: Path | None, otherwise: str = "give another name") -> None:
    """Raises UsageError unless the file can be made: before minutes are spent."""
    if path is None:
        return
    if path.exists():
        raise UsageError(f"{option}: {path} exists already: {otherwise}")
    if not path.parent.is_dir():
        raise UsageError(f"{option}: there is no folder {path.parent}: make it first")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise UsageError(
            f"{option}: {path.parent} cannot be written ({error.strerror}): give another folder"
        ) from error


def named(command: Compare) -> list[Subject]:
    """What the command's names stand for, in their order; the whole catalogue where none is given.

    Raises UsageError, or TargetError.
    """
    if command.order not in (1, 2):
        raise UsageError(f"--order is {command.order}, wanted 1 or 2")
    if not 0 <= command.rtol < 1:
        raise UsageError(f"--rtol is {command.rtol:g}, wanted a number from 0 to 1: --rtol 1e-5")
    subjects: dict[str, Subject] = {}  # once each: "Dense" stands for "Dense, square" too
    for name in command.names:
        if name.endswith(".py") and ":" not in name:
            if command.x:
                raise UsageError(f"--x: {name} has its own x: leave it out")
            subjects[name] = of_file(name)
            continue
        if ":" in name:
            subjects[name] = subject(name, command.x, command.against, command.surrogate)
            continue
        try:
            subjects |= {row.name: of_catalogue(row) for row in chosen([name])}
        except ValueError as error:
            raise UsageError(f"{error}; one of your own is named module:attribute") from error
    if not any(each.own for each in subjects.values()):
        own = {"--x": command.x, "--against": command.against, "--surrogate": command.surrogate,
               "--ignore": command.ignore}  # fmt: skip
        for option, value in own.items():
            if value:
                raise UsageError(
                    f"{option} is for module:attribute, and rows of the catalogue have their own "
                    "inputs: leave it out, or write funcprop compare my_module:my_layer --x 8x4"
                )
    return list(subjects.values()) or list(map(of_catalogue, ROWS))


def of_catalogue(row: Row) -> Subject:
    """A row of the catalogue."""
    return Subject(row, lambda how: compare_row(row, **how.of_row))


def compared(subjects: Sequence[Subject], how: Effort, quiet: bool = False) -> Table:
    """Every subject compared: a bar in a terminal, elsewhere a line as soon as each is done."""
    quiet = quiet or sys.stdout.isatty()
    width = max(len(each.row.name) for each in subjects)
    if not quiet:
        print(line(HEADINGS, width), flush=True)
    entries = []
    ours = [each.row for each in subjects if not each.own]
    found = comparisons(ours, how, processes=os.cpu_count() or 1)
    with counting(len(subjects)) as advance:
        for each in subjects:
            entries.append((each.row, each.compare(how) if each.own else next(found)))
            if not quiet:
                print(line(cells(*entries[-1]), width), flush=True)
            advance(each.row.name)
    return Table(tuple(entries))


def line(parts: Sequence[str], width: int) -> str:
    """Cells under the headings, of which the first column is `width` wide."""
    widths = (width, *map(len, HEADINGS[1:]))
    padded = (part.ljust(size) for part, size in zip(parts, widths, strict=True))
    return "  ".join(padded).rstrip()


def cost(table: Table) -> Costs | None:
    """What the right gradients cost; the cost of a wrong one would prove nothing."""
    rows = [row for row, comparison in table.entries if comparison.ok]
    if not rows:
        return None
    with counting(len(rows)) as advance:
        return profile_rows(rows, lambda row: advance(row.name))


def show(report: object) -> None:
    """Printed with colors in a terminal, and without control codes elsewhere."""
    if sys.stdout.isatty():
        require("rich", "train").print(report)
    else:
        print(report, flush=True)
