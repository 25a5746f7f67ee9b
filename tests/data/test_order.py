"""The order of an epoch: a permutation of any size, even, and blocks that stay together."""

import numpy as np
import pytest

from funcprop.data.order import Order, mixed_numbers, permuted


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 100, 101, 4099])
def test_every_number_comes_once(n):
    found = permuted(np.arange(n), n, 3)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(np.sort(found), np.arange(n))


def test_any_part_of_it_can_be_asked_for():
    n = 10**12
    places = np.array([0, 5, n - 1])
    assert (
        permuted(places, n, 9) == [permuted(places[k : k + 1], n, 9)[0] for k in range(3)]
    ).all()
    assert len(set(permuted(np.arange(10_000), n, 9))) == 10_000


def test_orders_of_few_are_equally_likely():
    counts = {}
    for key in range(600):
        order = tuple(permuted(np.arange(3), 3, mixed_numbers(0, key)))
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 6
    assert min(counts.values()) > 60 and max(counts.values()) < 140  # 100 expected, 4 deviations


def test_neighbors_do_not_stay_neighbors():
    n = 100_000
    found = permuted(np.arange(n), n, 5)
    for other in (np.arange(n), np.roll(found, 1), permuted(np.arange(n), n, 6)):
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.015
    assert abs(np.abs(np.diff(found)).mean() / n - 1 / 3) < 0.005


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = {tuple(Order(50, seed)(epoch, 0, 50)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16
    assert tuple(Order(50, 0, shuffle=False)(7, 10, 13)) == (10, 11, 12)


def test_a_window_of_blocks_is_read_before_the_next():
    blocks = np.array([0, 10, 10, 25, 30, 50, 57])
    order = Order(57, 1, blocks=blocks, window=2)
    found = np.concatenate([order(0, start, min(start + 4, 57)) for start in range(0, 57, 4)])
    np.testing.assert_array_equal(np.sort(found), np.arange(57))
    group = np.searchsorted(blocks, found, "right") - 1
    first = {g: np.argmax(group == g) for g in set(group)}
    last = {g: 56 - np.argmax(group[::-1] == g) for g in set(group)}
    for place in range(57):
        assert sum(first[g] <= place <= last[g] for g in first) <= 2  # no more are open at once
    assert (np.diff(found) == 1).mean() < 0.2
    assert not np.array_equal(found, order(1, 0, 57))
