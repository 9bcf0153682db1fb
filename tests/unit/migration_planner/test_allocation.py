"""Sharing what is scarce."""

from itertools import product

import numpy as np
import pytest

from migration.core.allocation import Limit, allocate


def limit(use, room: float, label: str = "servers") -> Limit:
    return Limit(label, np.asarray(use, dtype=float), room)


def best_total(desktop, gain, shared) -> int:
    owners = [np.append(np.nonzero(desktop == d)[0], -1) for d in np.unique(desktop)]
    totals = []
    for picks in product(*owners):
        taken = [i for i in picks if i >= 0]
        if all(s.use[taken].sum() <= s.room for s in shared):
            totals.append(int(gain[taken].sum()))
    return max(totals)


def test_with_room_for_all_everybody_takes_the_best():
    desktop, gain = np.array([0, 0, 1, 2, 2]), np.array([5, 9, 3, 7, 2])
    assert np.nonzero(allocate(desktop, gain, []).taken)[0].tolist() == [1, 2, 3]


def test_the_second_best_is_taken_where_that_lets_another_in():
    desktop, gain = np.array([0, 0, 1]), np.array([10, 9, 8])
    one_place = limit([1, 0, 1], 1)
    assert np.nonzero(allocate(desktop, gain, [one_place]).taken)[0].tolist() == [1, 2]


@pytest.mark.parametrize("seed", range(20))
def test_with_servers_to_count_the_total_is_the_best_there_is(seed):
    rng = np.random.default_rng(seed)
    desktop = np.sort(rng.integers(0, 5, 10))
    gain = rng.integers(1, 10**7, 10)
    region = rng.integers(0, 3, 10)
    shared = [limit(region == r, float(rng.integers(0, 3)), f"region {r}") for r in range(3)]
    found = allocate(desktop, gain, shared)
    assert gain[found.taken].sum() == best_total(desktop, gain, shared)


@pytest.mark.parametrize("seed", range(20))
def test_with_any_limits_nothing_is_exceeded_and_little_is_lost(seed):
    rng = np.random.default_rng(seed)
    desktop = np.sort(rng.integers(0, 5, 9))
    gain = rng.integers(1, 10**7, 9)
    shared = [limit(rng.integers(0, 9, 9), float(rng.integers(0, 20))) for _ in range(2)]
    found = allocate(desktop, gain, shared)
    assert all(s.use[found.taken].sum() <= s.room for s in shared)
    assert np.bincount(desktop[found.taken]).max(initial=0) <= 1
    missed = best_total(desktop, gain, shared) - int(gain[found.taken].sum())
    assert 0 <= missed <= np.sort(gain)[-2:].sum()


def test_who_gets_nothing_is_told_what_was_short():
    desktop, gain = np.array([0, 1, 2]), np.array([10, 9, 8])
    shared = [limit([1, 1, 0], 1, "servers"), limit([0, 0, 5], 4, "the link")]
    found = allocate(desktop, gain, shared)
    assert found.taken.tolist() == [True, False, False]
    assert found.short.tolist() == [-1, 0, 1]


def test_what_cannot_fit_at_all_is_left_out():
    found = allocate(np.array([0, 1]), np.array([10, 1]), [limit([3, 1], 2)])
    assert found.taken.tolist() == [False, True]


def test_nobody_asks_for_anything():
    found = allocate(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), [])
    assert len(found.taken) == 0
