"""Ticks are the simulator's, in no more slots than it says, of which none is written over."""

import itertools

import numpy as np
import pytest

import funcprop as fp
from funcprop.pipelines.cutting import balanced_cuts, even_cuts, pieces_of
from funcprop.pipelines.ticks import ticks

NAMES = ("GPipe", "1F1B", "interleaved", "ZB-H1", "ZB-H2")
KINDS = {"F": 1, "B": 2, "W": 3}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p, m", [(1, 3), (2, 2), (4, 8), (3, 6)])
def test_what_is_read_was_written_for_it(name, p, m):
    """Every stage's slots by name, played tick by tick, as the devices do."""
    chunks = 2 if name == "interleaved" else 1
    table = ticks(name, p, m, chunks)
    last, places = p * chunks - 1, p * chunks
    held = [{kind: {} for kind in table.sizes} for _ in range(p)]
    done = []
    for t in range(table.kind.shape[1]):
        sent = []
        written = []
        for s in range(p):
            kind, number = table.kind[s, t], int(table.microbatch[s, t])
            place = int(table.chunk[s, t]) * p + s
            work, slots = held[s], {name: getattr(table, name)[s, t] for name in table.sizes}
            if kind == KINDS["F"]:
                if place:
                    assert work["x"][slots["x"]] == (number, place)
                written.append((s, "residuals", slots["residuals"], (number, place)))
                if place != last:
                    sent.append(((s + 1) % p, "x", (number, place + 1)))
            elif kind == KINDS["B"]:
                assert work["residuals"][slots["residuals"]] == (number, place)
                if place != last:
                    assert work["dy"][slots["dy"]] == (number, place)
                written.append((s, "kept", slots["kept"], (number, place)))
                if place:
                    sent.append(((s - 1) % p, "dy", (number, place - 1)))
            elif kind == KINDS["W"]:
                assert work["kept"][slots["kept"]] == (number, place)
            if kind:
                done.append((kind, number, place))
        for to, what, value in sent:
            slot = getattr(table, f"{what}_arrives")[to, t]
            assert slot < table.sizes[what]
            written.append((to, what, slot, value))
        for s, what, slot, value in written:
            held[s][what][slot] = value
    assert len(done) == len(set(done)) == 3 * m * places


@pytest.mark.parametrize("name", NAMES)
def test_the_table_is_the_simulation_with_even_times(name):
    p, m = 4, 8
    chunks = 2 if name == "interleaved" else 1
    table = ticks(name, p, m, chunks)
    simulated = fp.pipelines.simulate_pipeline(
        name, [fp.pipelines.StageTimes(1, 1, 1)] * p, m, chunks=chunks
    )
    assert table.kind.shape == (p, round(simulated.makespan * chunks))
    idle = [np.trim_zeros(row).tolist().count(0) for row in table.kind]  # within its cost
    assert max(idle) == pytest.approx(simulated.bubble * chunks)
    if chunks == 1:  # of what a stage holds at once, for one thing or the other
        assert table.sizes["residuals"] == max(simulated.peak_memory(1, 0))
        assert str(table).replace("W", "B") == str(simulated).replace("W", "B")


def test_pieces_are_children_and_steps():
    block = fp.Skip(fp.Dense(4))
    model = fp.Serial(fp.Dense(4), fp.Serial(fp.Tanh(), fp.Repeat(block, 4)), fp.Dense(2))
    pieces = pieces_of(model)
    assert [piece.path for piece in pieces] == [(0,), (1, 0), *[(1, 1)] * 4, (2,)]
    assert [piece.step for piece in pieces] == [0, 0, 0, 1, 2, 3, 0]
    assert str(pieces[3]).startswith("[1][1] Skip") and str(pieces[3]).endswith("step 1")
    assert even_cuts(pieces, 2) == (4,) and even_cuts(pieces, 4) == (3, 4, 5)
    assert even_cuts(pieces, 3) is None and even_cuts(pieces[:2], 2) is None


@pytest.mark.parametrize(("costs", "places", "cuts"), [
    ([1, 1, 1, 1], 2, (2,)),
    ([5, 1, 1, 1], 2, (1,)),
    ([1, 1, 1, 5], 3, (1, 3)),
    ([1, 2, 3], 3, (1, 2)),
    ([1.0], 1, ()),
], ids=str)  # fmt: skip
def test_cuts_leave_the_dearest_part_cheap(costs, places, cuts):
    found = balanced_cuts(costs, places)
    ends, wanted = (0, *found, len(costs)), (0, *cuts, len(costs))

    def dearest(ends):
        return max(sum(costs[a:b]) for a, b in itertools.pairwise(ends))

    assert all(a < b for a, b in itertools.pairwise(ends))
    assert dearest(ends) == dearest(wanted)
