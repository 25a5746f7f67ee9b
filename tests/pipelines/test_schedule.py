"""The simulated schedules have the published bubbles and memory."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.pipelines import schedule as schedules

TIMES = (3.0, 3.5, 2.0)
NAMES = ("GPipe", "1F1B", "interleaved", "ZB-H1", "ZB-H2")


def simulated(name: Any, p=4, m=8, times: Sequence[float] = TIMES, **options):
    return fp.pipelines.simulate_pipeline(name, [fp.pipelines.StageTimes(*times)] * p, m, **options)


@pytest.mark.parametrize("p, m", [(2, 4), (4, 8), (4, 16), (8, 24), (3, 6), (1, 3)])
@pytest.mark.parametrize("times", [TIMES, (1, 1, 1), (2, 1.5, 1.5)])
def test_bubbles_are_the_published_ones(p, m, times):
    f, b, w = times
    wanted = {
        "GPipe": (p - 1) * (f + b + w),
        "1F1B": (p - 1) * (f + b + w),
        "ZB-H1": (p - 1) * (f + b - w),
        "ZB-H2": (p - 1) * (f + b - 2 * w),
    }
    for name, bubble in wanted.items():
        found = simulated(name, p, m, times)
        assert found.bubble == pytest.approx(bubble)
        assert found.cost == pytest.approx(bubble + m * (f + b + w))
        assert found.bubble_fraction == pytest.approx(bubble / found.cost)
    for chunks in (1, 2, 3):  # Narayanan et al., 2021: (p − 1) / (v m) of the work
        found = simulated("interleaved", p, m, times, chunks=chunks)
        assert found.bubble / (m * (f + b + w)) == pytest.approx((p - 1) / (chunks * m))


# Qi et al., 2023: milliseconds of F, B, W and of communication, measured on a stage of models of
# 1.5, 6.2 and 14.6 billion parameters, and the bubble rates that follow from them.
MEASURED = {
    (8, 24, 18.522, 18.086, 9.337, 0.601): {"1F1B": 0.2431, "ZB-H1": 0.1585, "ZB-H2": 0.1083},
    (8, 32, 18.513, 18.086, 9.331, 0.626): {"1F1B": 0.1985, "ZB-H1": 0.1242, "ZB-H2": 0.0837},
    (8, 64, 18.546, 18.097, 9.321, 0.762): {"1F1B": 0.1240, "ZB-H1": 0.0674, "ZB-H2": 0.0444},
    (8, 24, 29.718, 29.444, 19.927, 0.527): {"1F1B": 0.2347, "ZB-H1": 0.1323},
    (8, 32, 29.802, 29.428, 19.530, 0.577): {"1F1B": 0.1898},
    (8, 64, 29.935, 29.621, 19.388, 0.535): {"1F1B": 0.1091},
    (16, 48, 11.347, 11.248, 8.132, 0.377): {"1F1B": 0.2552},
}


@pytest.mark.parametrize("setting", MEASURED)
def test_bubble_rates_are_the_published_ones(setting):
    p, m, *times, communication = setting
    for name, rate in MEASURED[setting].items():
        found = simulated(name, p, m, times, communication=communication)
        assert round(found.bubble_fraction, 4) == rate


@pytest.mark.parametrize("p, m", [(4, 8), (8, 24)])
def test_memory_is_the_published_one(p, m):
    residuals, kept = 5.0, 3.0
    stages = range(p)
    peaks = {name: simulated(name, p, m).peak_memory(residuals, kept) for name in NAMES}
    assert peaks["GPipe"] == (m * residuals,) * p
    assert peaks["1F1B"] == tuple((p - i) * residuals for i in stages)
    assert peaks["ZB-H1"] == tuple((p - i) * residuals + i * kept for i in stages)
    assert peaks["ZB-H2"] == tuple((2 * (p - i) - 1) * residuals + 2 * i * kept for i in stages)
    first = simulated("interleaved", p, m, chunks=4).peak_memory()[0]
    assert first == pytest.approx(p * (1 + (p - 1) / (4 * p)))  # Narayanan et al., 2021


@pytest.mark.parametrize("name", NAMES)
def test_every_step_runs_once_after_what_it_reads(name):
    p, m, chunks, wait = 4, 8, 2 if name == "interleaved" else 1, 0.25
    found = simulated(name, p, m, communication=wait)
    runs = {}
    for stage, spans in enumerate(found.stages):
        assert all(a.end <= b.start for a, b in itertools.pairwise(spans))
        for span in spans:
            kind, microbatch, chunk = span.step
            key = kind, microbatch, chunk * p + stage
            assert key not in runs
            runs[key] = span
    kinds = "FBW" if name.startswith("ZB") else "FB"
    assert len(runs) == len(kinds) * m * p * chunks
    for (kind, microbatch, place), span in runs.items():
        if kind == "F" and place:
            assert runs["F", microbatch, place - 1].end + wait <= span.start
        if kind == "B" and place + 1 < p * chunks:
            assert runs["B", microbatch, place + 1].end + wait <= span.start
        if kind != "F":
            assert runs["F" if kind == "B" else "B", microbatch, place].end <= span.start


def test_stages_may_differ():
    slow = fp.pipelines.StageTimes(2.0, 2.0, 2.0)
    times = [fp.pipelines.StageTimes(1.0, 1.0, 1.0), slow, fp.pipelines.StageTimes(1.0, 1.0, 1.0)]
    found = fp.pipelines.simulate_pipeline("ZB-H1", times, 12)
    assert found.cost >= 12 * 6
    assert found.bubble == pytest.approx(found.cost - 12 * (3 + 6 + 3) / 3)


def test_a_timeline_is_drawn_with_a_row_a_stage():
    assert str(simulated("1F1B", 2, 3, (1, 1, 1))) == "FF··BBFBB·BB\n·FBBFBBFBB··"
    assert str(simulated("ZB-H1", 2, 3, (1, 1, 1))) == "FF·BWFBWBW\n·FBFBWFBWW"


def test_what_cannot_be_simulated_is_told():
    with pytest.raises(ValueError, match="multiple of the stages"):
        simulated("interleaved", 4, 6)
    with pytest.raises(ValueError, match="wanted 'GPipe'"):
        simulated("2F2B")
    with pytest.raises(ValueError, match="at least one"):
        fp.pipelines.simulate_pipeline("1F1B", [], 4)


def test_stage_times_measure_a_layer():
    layer = fp.Repeat(fp.Skip(fp.Dense(4)), 2)
    x = jnp.ones((3, 4))
    params = layer.init(jax.random.key(0), x)
    times = fp.pipelines.stage_times(layer, params, x, runs=3)
    assert isinstance(times, schedules.StageTimes) and min(times) > 0
