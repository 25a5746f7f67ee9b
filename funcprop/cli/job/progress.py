"""What a run shows while it goes: lines, and in a terminal a progress bar below them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from funcprop.cli.job.run import Record
from funcprop.extras import require

Show = Callable[[Record], None]


def line(record: Record) -> str:
    """`Epoch 0: 9124 / 10000`, then the loss and the time."""
    return (
        f"Epoch {record.epoch}: {record.right} / {record.of}"
        f"   loss {record.loss:.4g}   {record.seconds:.3g} s"
    )


def measured(record: Record) -> list[str]:
    """Memory, and the share of the machine's peak."""
    found = record.speed or {}
    words = {"resident_bytes": "resident", "device_bytes": "on the device"}
    said = [f"{found[name] / 1e9:.2f} GB {where}" for name, where in words.items() if name in found]
    if "share_of_peak" in found:
        said.append(f"{100 * found['share_of_peak']:.1f} % of a matmul's peak")
    return said


@contextlib.contextmanager
def progress(epochs: int, done: int = 0, terminal: bool | None = None) -> Iterator[Show]:
    """A function that shows a record: its line, and in a terminal the bar moved on.

    terminal  whether standard output is one; asked where None. Otherwise the output is plain
              lines without control codes, and rich is not needed.
    done      epochs that an earlier run has taken
    """
    if not (sys.stdout.isatty() if terminal is None else terminal):
        yield lambda record: print(line(record), flush=True)
        return
    rich = require("rich.progress", "train")
    bar = rich.Progress(
        rich.TextColumn("epoch"),
        rich.MofNCompleteColumn(),
        rich.BarColumn(),
        rich.TimeRemainingColumn(),
        rich.TextColumn("{task.description}"),
        transient=True,
    )
    with bar:
        task = bar.add_task("compiling", total=epochs, completed=done)

        def show(record: Record) -> None:
            bar.console.print(line(record), markup=False, highlight=False, soft_wrap=True)
            rate = record.examples / record.seconds
            beside = "".join(f"   {words}" for words in measured(record))
            bar.update(
                task,
                advance=1,
                description=f"loss {record.loss:.4g}   accuracy {100 * record.accuracy:.2f} %   "
                f"{rate:,.0f} examples/s{beside}",
            )

        yield show


@contextlib.contextmanager
def counting(total: int, terminal: bool | None = None) -> Iterator[Callable[[str], None]]:
    """A function that is told the name of each thing done; in a terminal it moves a bar."""
    if not (sys.stdout.isatty() if terminal is None else terminal):
        yield lambda name: None
        return
    rich = require("rich.progress", "train")
    with rich.Progress(
        rich.BarColumn(),
        rich.MofNCompleteColumn(),
        rich.TextColumn("{task.description}"),
        transient=True,
    ) as bar:
        task = bar.add_task("compiling", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)
