"""What a sequence engine reads: stays told without names, and nothing of what comes after."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from forecasting.core.stays import (
    N_CONTEXT,
    N_PLACE_FACTS,
    N_STAY_FACTS,
    N_STAYS,
    Questions,
    Stays,
)
from forecasting.core.whereabouts import Knowledge, Sightings

HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
COUNT, SAME_AS_LAST, FIRST_VISIT = 3, 10, 14


def seen_at(places: list[int], *, n_places: int = 5) -> Sightings:
    """One person, seen once a day."""
    return Sightings.of(
        np.zeros(len(places), dtype=np.int64),
        np.array(places, dtype=np.int64),
        DAY_S * np.arange(len(places)),
        n_users=1,
        n_places=n_places,
    )


def stays_of(seen: Sightings, moment_s: float) -> tuple[Knowledge, Stays]:
    known = Knowledge.of(seen, moment_s)
    return known, Stays.of(seen, known)


def test_a_stay_lasts_until_another_place_and_the_newest_is_the_last():
    _, stays = stays_of(seen_at([2, 2, 2, 4, 2, 2]), 6 * DAY_S)
    assert stays.facts.shape == (1, N_STAYS, N_STAY_FACTS)
    assert stays.place[0].tolist() == [-1] * (N_STAYS - 3) + [0, 1, 0]
    assert not stays.facts[0, : N_STAYS - 3].any()
    newest = stays.facts[0, -3:]
    np.testing.assert_allclose(newest[:, COUNT], np.log1p([2, 0, 1]) / 5, rtol=1e-6)
    assert newest[:, SAME_AS_LAST].tolist() == [1, 0, 1]
    assert newest[:, FIRST_VISIT].tolist() == [1, 1, 0]


def test_of_many_stays_the_newest_are_kept():
    _, stays = stays_of(seen_at([0, 1] * N_STAYS), 3 * N_STAYS * DAY_S)
    assert (stays.place >= 0).all()
    assert stays.place[0, -2:].tolist() == [0, 1]


def test_stays_of_one_person_are_not_of_the_next():
    one, other = seen_at([1, 1]), seen_at([1, 3])
    both = Sightings(
        np.repeat([0, 1], 2),
        np.concatenate([one.place, other.place]),
        np.concatenate([one.at_s, other.at_s]),
        n_users=2,
        n_places=5,
    )
    _, stays = stays_of(both, 2 * DAY_S)
    assert (stays.place >= 0).sum(axis=1).tolist() == [1, 2]
    np.testing.assert_array_equal(stays.facts[0], stays_of(one, 2 * DAY_S)[1].facts[0])


def test_places_have_no_names_and_the_future_is_not_read():
    seen = seen_at([2, 2, 4, 2, 3, 3, 2, 4])
    moment_s = 5.5 * DAY_S
    renamed = replace(seen, place=np.array([0, 0, 4, 1, 3])[seen.place])
    poisoned = replace(seen, place=np.where(seen.at_s > moment_s, 0, seen.place))
    user, at_s = np.zeros(2, dtype=np.int64), moment_s + HOUR_S * np.array([1.0, 30.0])
    known, stays = stays_of(seen, moment_s)
    asked = Questions.of(known, stays, user, at_s)
    assert asked.context.shape == (2, N_CONTEXT)
    assert asked.places.shape == (6, N_PLACE_FACTS)
    assert np.abs(asked.places).max() < 2
    for other in (renamed, poisoned):
        known, stays_then = stays_of(other, moment_s)
        then = Questions.of(known, stays_then, user, at_s)
        np.testing.assert_array_equal(stays_then.facts, stays.facts)
        np.testing.assert_array_equal(then.context, asked.context)
        assert np.sort(then.places, axis=0) == pytest.approx(np.sort(asked.places, axis=0))


def test_nobody_and_nothing_seen_has_no_stays():
    _, stays = stays_of(seen_at([1, 2]), -DAY_S)
    assert (stays.place == -1).all()
