"""Pipelines: in what order a stage does the forwards and backwards of its microbatches.

A model cut into stages, each on its own device, works on several microbatches at once. A schedule
says in which order; the rest follows from who waits for whom, and is simulated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from funcprop.doors import door

ScheduleName = Literal["GPipe", "1F1B", "interleaved", "ZB-H1", "ZB-H2"]


class StageTimes(NamedTuple):
    """What a stage takes for one microbatch, in any unit of time: numbers of Python.

    forward       F
    input_half    B, the half of backward that the stage before waits for
    weight_half   W, the other

    source  the letters: Qi et al. 2023, arXiv:2401.10241

    >>> import funcprop as fp
    >>> fp.pipelines.StageTimes(forward=1.0, input_half=1.0, weight_half=1.0)
    StageTimes(forward=1.0, input_half=1.0, weight_half=1.0)
    """

    forward: float
    input_half: float
    weight_half: float


class Step(NamedTuple):
    """A stage's unit of work."""

    kind: str  # "F" forward, "B" backward (the input half where it is split), "W" the weight half
    microbatch: int
    chunk: int = 0  # which of the stage's parts of the model


class Span(NamedTuple):
    """A step, and when it ran."""

    step: Step
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """What every stage of a pipeline did when: a simulated training step. It prints itself.

    schedule   the name that `simulate_pipeline` was given
    stages     for each stage its spans, (step, start, end), in order

    source  the bubble rate: Qi et al. 2023, arXiv:2401.10241

    >>> import funcprop as fp
    >>> times = [fp.pipelines.StageTimes(1.0, 1.0, 1.0)] * 3
    >>> timeline = fp.pipelines.simulate_pipeline("ZB-H1", times, microbatches=4)
    >>> print(timeline)
    FFF··BWFBWBWBW
    ·FF·BFBWFBWBWW
    ··FBFBFBWFBWWW
    >>> timeline.cost, timeline.bubble, timeline.peak_memory()
    (14.0, 2.0, (3.0, 3.0, 3.0))
    """

    schedule: ScheduleName
    stages: tuple[tuple[Span, ...], ...]

    @property
    def makespan(self) -> float:
        """From the first start to the last end."""
        return max(spans[-1].end for spans in self.stages)

    @property
    def cost(self) -> float:
        """The longest that a stage takes from its first start to its last end.

        That is what a training step takes among many: a stage that is ready begins the next one.
        """
        return max(spans[-1].end - spans[0].start for spans in self.stages)

    @property
    def bubble(self) -> float:
        """The time that a stage stands idle within the cost, in the mean over the stages."""
        busy = [span.end - span.start for spans in self.stages for span in spans]
        return self.cost - sum(busy) / len(self.stages)

    @property
    def bubble_fraction(self) -> float:
        """Idle time over cost (Qi et al., 2023, call it the bubble rate)."""
        return self.bubble / self.cost

    def peak_memory(self, residuals: float = 1, kept: float = 1) -> tuple[float, ...]:
        """The most that each stage holds at once.

        residuals   of one microbatch and stage, from its forward to its backward
        kept        from the input half to the weight half (`bytes_between`)

        With ones: microbatches.
        """
        split = any(span.step.kind == "W" for spans in self.stages for span in spans)
        change = {"F": residuals, "B": (kept if split else 0) - residuals, "W": -kept}
        peaks = []
        for spans in self.stages:
            chunks = 1 + max(span.step.chunk for span in spans)
            held = peak = 0.0
            for span in spans:
                held += change[span.step.kind] / chunks
                peak = max(peak, held)
            peaks.append(peak)
        return tuple(peaks)

    def __str__(self) -> str:
        """A row for each stage: F forward, B backward or its input half, W weight half, · idle."""
        shortest = min(span.end - span.start for spans in self.stages for span in spans)
        columns = min(96, round(self.makespan / shortest))
        rows = []
        for spans in self.stages:
            row = ["·"] * columns
            for span in spans:
                first, last = (round(t * columns / self.makespan) for t in span[1:])
                row[first:last] = span.step.kind * (last - first)
            rows.append("".join(row))
        return "\n".join(rows)


@door
def simulate_pipeline(
    schedule: ScheduleName,
    times: Sequence[StageTimes],
    microbatches: int,
    *,
    chunks: int = 2,
    communication: float = 0,
) -> Timeline:
    """What each stage does when -> Timeline.

    schedule        "GPipe": all forwards, then all backwards
                    "1F1B": one forward, one backward, after a warm-up
                    "interleaved": the same, with `chunks` parts of the model on each stage
                    "ZB-H1", "ZB-H2": backward in two halves, the second where a stage would be
                    idle, within the memory of 1F1B and within twice that
    times           StageTimes, one a stage; interleaved, each chunk takes an equal share
    microbatches    how many a training step has
    communication   from the end of a step on one stage until another can read its result

    With equal stages, p of them and m microbatches, the bubble is

        GPipe, 1F1B   (p − 1)(F + B + W)
        interleaved   (p − 1)(F + B + W) / chunks
        ZB-H1         (p − 1)(F + B − W)
        ZB-H2         (p − 1)(F + B − 2W)

    where it is not negative and m fills the pipeline: m ≥ p, for ZB-H2 m ≥ 2p − 1.

    raises  TypeError where times are no StageTimes, ValueError for another schedule, less than one
            stage, microbatch or chunk, or, interleaved, microbatches that p does not divide
    source  GPipe: Huang et al. 2018, arXiv:1811.06965; 1F1B: Narayanan et al. 2019 (PipeDream);
            interleaved: Narayanan et al. 2021, arXiv:2104.04473; ZB-H1, ZB-H2: Qi et al. 2023,
            arXiv:2401.10241

    >>> import funcprop as fp
    >>> times = [fp.pipelines.StageTimes(1.0, 1.0, 1.0)] * 4
    >>> for schedule in ("1F1B", "interleaved", "ZB-H1", "ZB-H2"):
    ...     print(schedule, fp.pipelines.simulate_pipeline(schedule, times, microbatches=8).bubble)
    1F1B 9.0
    interleaved 4.5
    ZB-H1 3.0
    ZB-H2 0.0
    """
    if not all(isinstance(each, StageTimes) for each in times):
        raise TypeError(
            f"times is {times!r}, wanted StageTimes, one a stage: [StageTimes(1.0, 1.0, 1.0)] * 4"
        )
    p = len(times)
    if p < 1 or microbatches < 1 or chunks < 1:
        raise ValueError(
            f"{p} stages, {microbatches} microbatches and {chunks} chunks: wanted at least one each"
        )
    chunks = chunks if schedule == "interleaved" else 1
    if schedule == "interleaved":
        if microbatches % p:
            raise ValueError(
                f"{microbatches} microbatches on {p} stages: interleaved, "
                "the number must be a multiple of the stages"
            )
        queues = [interleaved(stage, p, microbatches, chunks) for stage in range(p)]
    elif schedule == "GPipe":
        queues = [one_by_one(microbatches, microbatches) for _ in range(p)]
    elif schedule == "1F1B":
        queues = [one_by_one(p - stage, microbatches) for stage in range(p)]
    elif schedule == "ZB-H1":
        queues = [one_by_one(p - stage, microbatches, stage) for stage in range(p)]
    elif schedule == "ZB-H2":
        queues = [one_by_one(2 * (p - stage) - 1, microbatches, 2 * stage) for stage in range(p)]
    else:
        raise ValueError(
            f"schedule is {schedule!r}, wanted 'GPipe', '1F1B', 'interleaved', 'ZB-H1' or 'ZB-H2'"
        )
    return Timeline(schedule, run(queues, times, chunks, communication))


# --- orders ---------------------------------------------------------------------------------------


def one_by_one(in_flight: int, microbatches: int, lag: int | None = None) -> list[Step]:
    """One forward, one backward, with at most `in_flight` forwards whose backward is to come.

    The weight half follows `lag` input halves later; None: backward is not split.
    """
    order, forwards, weights = [], 0, 0
    for backwards in range(microbatches):
        while forwards < min(backwards + in_flight, microbatches):
            order.append(Step("F", forwards))
            forwards += 1
        order.append(Step("B", backwards))
        if lag is not None and backwards >= lag:
            order.append(Step("W", weights))
            weights += 1
    if lag is not None:
        order += [Step("W", number) for number in range(weights, microbatches)]
    return order


def interleaved(stage: int, stages: int, microbatches: int, chunks: int) -> list[Step]:
    """1F1B where the model passes every stage `chunks` times, `stages` microbatches at a time."""
    rounds = [
        (chunk, first + i)
        for first in range(0, microbatches, stages)
        for chunk in range(chunks)
        for i in range(stages)
    ]
    forwards = [Step("F", number, chunk) for chunk, number in rounds]
    backwards = [Step("B", number, chunks - 1 - chunk) for chunk, number in rounds]
    warm_up = min(2 * (stages - stage - 1) + (chunks - 1) * stages, len(forwards))
    order = forwards[:warm_up]
    for i, backward in enumerate(backwards):
        order += [*forwards[warm_up + i : warm_up + i + 1], backward]
    return order


# --- the simulation -------------------------------------------------------------------------------


def run(
    queues: Sequence[list[Step]], times: Sequence[StageTimes], chunks: int, communication: float
) -> tuple[tuple[Span, ...], ...]:
    """Every stage takes its steps in order, each as soon as what it reads is there."""
    p, split = len(queues), any(step.kind == "W" for step in queues[0])
    ended: dict[tuple[str, int, int], float] = {}  # kind, microbatch, place in the model
    spans: list[list[Span]] = [[] for _ in queues]
    while any(len(done) < len(queue) for done, queue in zip(spans, queues, strict=True)):
        for stage, queue in enumerate(queues):
            while len(spans[stage]) < len(queue):
                step = queue[len(spans[stage])]
                place = step.chunk * p + stage
                read = inputs(step, place, p * chunks)
                if not ended.keys() >= {key for key, _ in read}:
                    break
                start = spans[stage][-1].end if spans[stage] else 0.0
                for key, sent in read:
                    start = max(start, ended[key] + communication * (sent and p > 1))
                took = duration(step.kind, times[stage], split) / chunks
                ended[step.kind, step.microbatch, place] = start + took
                spans[stage].append(Span(step, start, start + took))
    return tuple(map(tuple, spans))


def inputs(step: Step, place: int, places: int) -> list[tuple[tuple[str, int, int], bool]]:
    """What a step reads, and whether that comes from another stage."""
    kind, number, _ = step
    if kind == "W":
        return [(("B", number, place), False)]
    if kind == "F":
        return [(("F", number, place - 1), True)] if place else []
    arrives = [(("B", number, place + 1), True)] if place + 1 < places else []
    return [(("F", number, place), False), *arrives]


def duration(kind: str, times: StageTimes, split: bool) -> float:
    """What a step takes: a backward that is not split does both halves before it sends dx."""
    if kind == "F":
        return times.forward
    if kind == "W":
        return times.weight_half
    return times.input_half if split else times.input_half + times.weight_half
