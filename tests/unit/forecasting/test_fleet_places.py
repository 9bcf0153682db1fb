"""How many people are expected where, and what of it may be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from forecasting.core.fleet_places import FleetPlaces, PeopleByPlace


def fleet(people: Sequence[Mapping[str, float]], *, k: int, at_once: int = 1000) -> PeopleByPlace:
    """Everybody the same for two hours, read some at a time."""
    found = FleetPlaces(n_hours=2)
    for first in range(0, len(people), at_once):
        some = people[first : first + at_once]
        rows = [(i, place, p) for i, each in enumerate(some) for place, p in each.items()]
        owner = np.array([i for i, _, _ in rows])
        chance = np.array([[p, p] for _, _, p in rows])
        found.add(owner, [place for _, place, _ in rows], chance)
    return found.shown(k=k)


def expected(told: PeopleByPlace) -> dict[str, float]:
    return dict(zip(told.places, told.expected[0].tolist(), strict=True))


def test_the_expected_number_is_the_sum_of_probabilities() -> None:
    told = fleet([{"paris": 0.75, "lyon": 0.25}] * 6, k=5)
    assert expected(told) == {"paris": 4.5, "lyon": 1.5}
    assert told.others.tolist() == [0, 0] and told.people == 6


@pytest.mark.parametrize("at_once", [1, 4, 100])
def test_it_does_not_matter_how_many_are_read_at_a_time(at_once: int) -> None:
    people = [{"paris": 0.7, "lyon": 0.3}] * 5 + [{"oslo": 0.9, "paris": 0.1}] * 6
    told, whole = fleet(people, k=5, at_once=at_once), fleet(people, k=5)
    assert told.places == whole.places and told.people == whole.people == 11
    assert told.expected == pytest.approx(whole.expected)


def test_a_place_of_few_is_not_shown_alone() -> None:
    people = [{"paris": 1.0}] * 20 + [{"oslo": 1.0}] * 3 + [{"rome": 1.0}] * 4
    told = fleet(people, k=5)
    assert expected(told) == {"paris": 20, "oslo": pytest.approx(np.nan, nan_ok=True)} | {
        "rome": pytest.approx(np.nan, nan_ok=True)
    }
    assert told.others.tolist() == [7, 7]


def test_the_smallest_place_hides_with_those_that_would_be_had_by_subtraction() -> None:
    people = [{"paris": 1.0}] * 20 + [{"lyon": 1.0}] * 6 + [{"oslo": 1.0}]
    told = fleet(people, k=5)
    assert np.isfinite(told.expected[0]).tolist() == [True, False, False]
    assert told.others[0] == 7


def test_the_same_few_people_at_several_places_are_still_few() -> None:
    people = [{"paris": 1.0}] * 20 + [{"oslo": 0.5, "rome": 0.5}] * 3
    told = fleet(people, k=5)
    assert not np.isfinite(told.expected).any()
    assert told.others[0] == 23


def test_too_few_people_in_all_are_not_counted_at_all() -> None:
    told = fleet([{"paris": 0.6, "lyon": 0.4}] * 4, k=5)
    assert not np.isfinite(told.expected).any() and not np.isfinite(told.others).any()


def test_a_place_nobody_would_be_looked_for_hides_no_other() -> None:
    told = fleet([{"paris": 0.97, "oslo": 0.03}] * 9, k=5)
    assert np.isfinite(told.expected[0]).tolist() == [True, False]
    assert told.others[0] == pytest.approx(0.27)


def test_one_person_may_be_shown_where_one_is_enough() -> None:
    assert expected(fleet([{"paris": 0.6, "lyon": 0.4}], k=1)) == {"paris": 0.6, "lyon": 0.4}


def test_nobody_is_nowhere() -> None:
    told = FleetPlaces(n_hours=2).shown(k=5)
    assert told.places == () and told.people == 0 and told.expected.shape == (2, 0)
