"""The second stage against every possible course of action."""

from itertools import product

import numpy as np
import pytest

from migration.core.recourse import best_response, follow


def draw(rng: np.random.Generator, *, hours: int, variants: int, desktops: int, paths: int) -> dict:
    cost = rng.integers
    return {
        "path_a": cost(0, 50, (hours, desktops, paths)),
        "path_b": cost(0, 50, (hours, desktops, paths)),
        "hour_a": cost(0, 20, (hours, variants, desktops)),
        "hour_b": cost(0, 20, (hours, variants, desktops)),
        "go": cost(0, 80, (hours, variants, desktops)),
        "back": cost(0, 80, (hours, variants, desktops)),
        "can_go": rng.random((hours, desktops, paths)) < 0.6,
        "can_return": rng.random((hours, desktops, paths)) < 0.6,
        "end_in_b": cost(0, 40, (variants, desktops)),
    }


def cost_of(case: dict, states: tuple[int, ...], v: int, d: int, k: int) -> float:
    total, was = 0, 0
    for t, state in enumerate(states):
        if state > was:
            total += case["go"][t, v, d] if case["can_go"][t, d, k] else np.inf
        if state < was:
            total += case["back"][t, v, d] if case["can_return"][t, d, k] else np.inf
        at = "b" if state else "a"
        total += case[f"path_{at}"][t, d, k] + case[f"hour_{at}"][t, v, d]
        was = state
    return total + (case["end_in_b"][v, d] if was else 0)


@pytest.mark.parametrize("seed", range(12))
def test_no_course_of_action_is_cheaper(seed):
    rng = np.random.default_rng(seed)
    hours, variants, desktops, paths = 7, 2, 3, 3
    case = draw(rng, hours=hours, variants=variants, desktops=desktops, paths=paths)
    found = best_response(**case)
    for v, d in product(range(variants), range(desktops)):
        best = sum(
            min(cost_of(case, s, v, d, k) for s in product((0, 1), repeat=hours))
            for k in range(paths)
        )
        assert found.value[v, d] == best


@pytest.mark.parametrize("seed", range(6))
def test_following_the_decisions_costs_what_was_promised(seed):
    rng = np.random.default_rng(seed)
    hours, desktops, paths = 30, 4, 5
    case = draw(rng, hours=hours, variants=1, desktops=desktops, paths=paths)
    found = best_response(**case)
    course = follow(found.goes[:, 0], found.returns[:, 0])
    for d in range(desktops):
        walked = sum(
            cost_of(case, tuple(course.in_b[:, d, k].astype(int).tolist()), 0, d, k)
            for k in range(paths)
        )
        assert walked == found.value[0, d]


def test_on_equal_cost_nothing_moves():
    same = np.full((5, 1, 1), 10)
    free = np.zeros((5, 1, 1), dtype=np.int64)
    yes = np.ones((5, 1, 1), dtype=bool)
    found = best_response(
        path_a=same,
        path_b=same,
        hour_a=free,
        hour_b=free,
        go=free,
        back=free,
        can_go=yes,
        can_return=yes,
        end_in_b=np.zeros((1, 1), dtype=np.int64),
    )
    assert not found.goes.any()
    assert not follow(found.goes[:, 0], found.returns[:, 0]).in_b.any()


def test_the_first_cut_of_a_path_is_counted_once():
    goes = np.zeros((6, 1, 1), dtype=bool)
    returns = np.zeros((6, 1, 1), dtype=bool)
    goes[[1, 4]] = True
    returns[2] = True
    course = follow(goes, returns)
    assert course.in_b[:, 0, 0].tolist() == [False, True, False, False, True, True]
    assert course.cut_over.sum() == 2
    assert np.nonzero(course.first_cut[:, 0, 0])[0].tolist() == [1]
