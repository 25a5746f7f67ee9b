"""Costs: what the catalogue promises of memory and flops, and how they are measured."""

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import pytest

import funcprop as fp
from funcprop.catalogue.costs import profile_row, sizes
from funcprop.catalogue.inputs import Normal
from funcprop.catalogue.row import Row
from funcprop.catalogue.table import ROWS
from funcprop.costs.cost import LARGER, Cost, Costs, Profile, geometric_mean
from funcprop.costs.measuring import by_hand, by_jax, cost_of

LARGE = [row for row in ROWS if row.large is not None]
EACH, TOGETHER = 0.75, 0.4
# XLA of jax 0.12 copies dx of the one, and the scores of the other, once more than that of 0.10
NEWEST = {"OverTime": 1.2, "InfoNCE": 1.15} if jax.__version_info__ >= (0, 11) else {}
MORE_FLOPS = 2.5  # comparisons and selections count as flops too: the time says what they cost

ROW = Row(
    "Tanh",
    fp.Tanh(),
    Normal((5, 7)),
    plain=lambda params, z, context: jnp.tanh(z),
    large=(fp.Tanh(), Normal((32, 64))),
)


def check(row):
    """The row's costs from its compiled programs; time is measured, never asserted."""
    found = sizes(row)
    if found.memory > max(LARGER, NEWEST.get(row.name, 0)):
        assert "time" in row.promise and row.reason.startswith("pays"), "says what it pays"
    if math.isfinite(found.flops) and row.name != "Embedding":  # whose scatter counts as additions
        assert found.flops <= MORE_FLOPS
    return found


@pytest.mark.parametrize("name", [row.name for row in LARGE if "memory" not in row.promise])
def test_no_row_takes_more_memory_than_the_plain_form_without_saying_so(name):
    check(next(row for row in LARGE if row.name == name))


def test_the_rows_that_promise_memory_keep_it():
    found = [check(row) for row in LARGE if "memory" in row.promise]
    assert [f"{p.name}: {p.memory:.2f}" for p in found if p.memory > EACH] == []
    assert len(found) >= 12 and geometric_mean(p.memory for p in found) <= TOGETHER


def test_at_least_twelve_rows_promise_time():
    assert sum("time" in row.promise and row.plain is not None for row in LARGE) >= 12
    assert all(row in LARGE for row in ROWS if {"time", "memory"} & set(row.promise))


def test_a_row_is_measured_against_vjp_and_against_the_plain_form():
    found = profile_row(ROW, seconds=0.01)
    for cost in (found.by_hand, found.automatic, found.plain):
        # z, dy, y and dz, and nothing besides them
        assert cost.seconds > 0 and cost.flops > 0 and 4 * 32 * 64 * 4 <= cost.bytes < 40_000
        assert cost.compiling > 0 and cost.accessed > 0 and cost.temporary >= 0
    assert found.judged and 0 < found.time < math.inf and found.memory == 1
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert written["plain"]["bytes"] == found.plain.bytes
    assert written["memory_over_plain"] == 1


def test_without_a_plain_form_the_peer_is_the_forward_itself():
    found = sizes(dataclasses.replace(ROW, plain=None, large=None))
    assert found.plain is None and not found.judged
    assert found.memory == found.by_hand.bytes / found.automatic.bytes
    assert math.isnan(found.time) and found.as_dict()["time_over_automatic"] is None


def test_a_row_that_jax_cannot_differentiate_has_a_cost_and_no_ratio():
    row = next(row for row in ROWS if row.name == "FixedPoint")
    found = profile_row(row, seconds=0.01)
    assert found.automatic is None and found.by_hand.seconds > 0 and math.isnan(found.time)
    assert "FixedPoint" in str(Costs((found,), "here"))


def test_another_function_is_no_peer():
    row = dataclasses.replace(ROW, plain=lambda params, z, context: jnp.tanh(1.1 * z))
    with pytest.raises(ValueError, match=r"Tanh: the plain form differs by .* be one function"):
        profile_row(row, seconds=0.01)


def test_both_programs_compute_the_same():
    layer = fp.Dense(3)
    x = jax.random.normal(jax.random.key(0), (5, 4))
    params = layer.init(jax.random.key(1), x)
    given = params, x, fp.Context(), jnp.ones((5, 3))
    forward = by_jax(lambda p, x, context: x @ p.w + p.b)
    for ours, theirs in zip(
        *map(jax.tree.leaves, (by_hand(layer)(*given), forward(*given))), strict=True
    ):
        assert jnp.allclose(ours, theirs, atol=1e-6)


def test_a_loop_has_no_flop_count():
    def loop(x):
        return jax.lax.fori_loop(0, 5, lambda i, x: jnp.sin(x @ x), x)

    found = cost_of(jax.jit(loop).lower(jnp.ones((4, 4))).compile())
    assert found.bytes > 0 and math.isnan(found.flops) and math.isnan(found.accessed)


def test_costs_say_what_is_slower_and_what_is_larger():
    def profile(name, promise, time, memory, judged=True):
        cost = Cost(time, memory, 1.0)
        return Profile(name, promise, judged, cost, None, Cost(1.0, 100, 1.0))

    costs = Costs(
        (
            profile("A", ("time",), 0.5, 150),
            profile("B", ("parity",), 1.2, 100),
            profile("C", ("memory",), 1.0, 50),
            profile("D", ("parity",), 1.0, 120),
            profile("E", ("parity",), 9.0, 900, judged=False),
        ),
        "a machine",
    )
    assert [p.name for p in costs.slower] == ["B"] and [p.name for p in costs.larger] == ["D"]
    assert costs.kept("time") == (1, pytest.approx(0.5))
    assert costs.kept("memory") == (1, pytest.approx(0.5))
    text = str(costs)
    assert text.startswith("a machine") and "slower than allowed: B" in text
    assert "larger than allowed: D" in text and "(E)" in text
