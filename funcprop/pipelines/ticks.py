"""Ticks: a schedule as a table that devices in step read, one row a tick, one column a stage.

Every tick each stage does one thing: F a forward, B the input half of a backward, W the weight
half, or nothing. A backward that the schedule does not split is a B and the W right after it. What
a stage sends at the end of a tick its neighbor can read from the next one on; it waits in a slot,
as does what is kept from F to B and from B to W. Which slot is decided here, so that there are no
more of them than ever wait at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from funcprop.pipelines.schedule import ScheduleName, StageTimes, simulate_pipeline

KINDS = "·FBW"  # what a stage does in a tick: its number in the table


class Ticks(NamedTuple):
    """Whole numbers [stages, ticks] each. It prints itself.

    A slot is where something waits; the last one, `sizes` of its kind, is where nobody looks.
    """

    kind: np.ndarray  # 0 nothing, 1 F, 2 B, 3 W
    chunk: np.ndarray  # which of the stage's parts of the model
    microbatch: np.ndarray
    x: np.ndarray  # the slot that F reads its input from
    dy: np.ndarray  # the slot that B reads its cotangent from
    residuals: np.ndarray  # the slot that F writes and B reads
    kept: np.ndarray  # the slot that B writes and W reads
    x_arrives: np.ndarray  # the slot for what the stage before has sent in this tick
    dy_arrives: np.ndarray  # the slot for what the stage after has sent in this tick
    sizes: dict[str, int]  # how many slots there are of x, dy, residuals, kept

    def __str__(self) -> str:
        """A row for each stage, as `Timeline` has it, with W where a backward is not split."""
        return "\n".join("".join(KINDS[kind] for kind in row) for row in self.kind)

    def actions(self) -> np.ndarray:
        """int [stages, 4]: how often each stage does nothing, F, B and W."""
        return np.stack([(self.kind == number).sum(1) for number in range(len(KINDS))], 1)


def ticks(schedule: ScheduleName, stages: int, microbatches: int, chunks: int) -> Ticks:
    """The table of a schedule: that of `simulate_pipeline` where F, B and W take a tick each.

    raises  what `simulate_pipeline` raises
    """
    even = [StageTimes(1, 1, 1)] * stages
    timeline = simulate_pipeline(schedule, even, microbatches, chunks=chunks)
    chunks = chunks if schedule == "interleaved" else 1
    split = any(span.step.kind == "W" for span in timeline.stages[0])
    # (kind, microbatch, place in the model) -> tick
    when: dict[tuple[str, int, int], int] = {}
    for stage, spans in enumerate(timeline.stages):
        for (kind, number, chunk), start, _ in spans:
            place, tick = chunk * stages + stage, round(start * chunks)
            when[kind, number, place] = tick
            if kind == "B" and not split:
                when["W", number, place] = tick + 1
    return table(when, stages, chunks)


def table(when: dict[tuple[str, int, int], int], stages: int, chunks: int) -> Ticks:
    """The table of what happens when."""
    length, places = 1 + max(when.values()), stages * chunks
    zeros = np.zeros((stages, length), np.int32)
    kind, chunk, microbatch = zeros.copy(), zeros.copy(), zeros.copy()
    waits: dict[str, list[Wait]] = {"x": [], "dy": [], "residuals": [], "kept": []}
    for (name, number, place), tick in when.items():
        stage = place % stages
        kind[stage, tick] = KINDS.index(name)
        chunk[stage, tick], microbatch[stage, tick] = place // stages, number
        if name == "F":
            waits["residuals"].append(Wait(stage, tick, when["B", number, place]))
            if place:
                waits["x"].append(Wait(stage, when["F", number, place - 1], tick))
        elif name == "B":
            waits["kept"].append(Wait(stage, tick, when["W", number, place]))
            if place + 1 < places:
                waits["dy"].append(Wait(stage, when["B", number, place + 1], tick))
    columns, sizes = {}, {}
    for name, given in waits.items():
        slots, size = slots_of(given)
        written, read = np.full_like(zeros, size), np.full_like(zeros, size)
        for wait, slot in slots:
            written[wait.stage, wait.start], read[wait.stage, wait.end] = slot, slot
        if name in ("x", "dy"):
            columns[name], columns[f"{name}_arrives"] = read, written
        else:  # what is written and what is read are of different ticks
            columns[name] = np.minimum(written, read)
        sizes[name] = size
    return Ticks(kind, chunk, microbatch, **columns, sizes=sizes)


class Wait(NamedTuple):
    """Something that waits on a stage: written at the end of one tick, read in a later one."""

    stage: int
    start: int
    end: int


def slots_of(waits: Iterable[Wait]) -> tuple[list[tuple[Wait, int]], int]:
    """A slot for each, free again from the tick that reads it; and how many slots that takes."""
    free: dict[int, list[int]] = {}  # stage -> the tick from which each of its slots is free
    found = []
    for wait in sorted(waits, key=lambda wait: wait.start):
        ends = free.setdefault(wait.stage, [])
        slot = next((i for i, end in enumerate(ends) if end <= wait.start), len(ends))
        ends[slot : slot + 1] = [wait.end]
        found.append((wait, slot))
    return found, max(map(len, free.values()), default=0)
