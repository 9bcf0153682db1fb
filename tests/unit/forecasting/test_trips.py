"""One announced trip on one person's map."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.trips import with_trip

START = datetime(2026, 3, 2, 8, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def location() -> dict[str, np.ndarray]:
    return {"paris": np.full(168, 0.75, np.float32), "elsewhere": np.full(168, 0.25, np.float32)}


@pytest.mark.parametrize("place", ["lyon", "paris"])
def test_the_place_is_likely_during_the_trip_and_as_before_otherwise(
    location: dict[str, np.ndarray], place: str
) -> None:
    trip = {"start": START + 24 * HOUR, "end": START + 72 * HOUR, "trust": (0.7, 0.95)}
    told = with_trip(location, starts_at=START, place=place, **trip)
    before = 0.75 if place == "paris" else 0.0
    expected = np.full(168, before)
    for hours, trust in ((slice(24, 72), 0.7), (slice(36, 61), 0.95)):
        expected[hours] = trust + (1 - trust) * before
    assert told[place] == pytest.approx(expected)
    assert sum(told.values()) == pytest.approx(np.ones(168))
    assert {p.dtype for p in told.values()} == {np.dtype(np.float32)}
    assert (location["paris"] == 0.75).all() and "lyon" not in location


def test_a_trip_outside_the_week_and_a_map_of_nothing_change_nothing(
    location: dict[str, np.ndarray],
) -> None:
    over = {"start": START - 9 * HOUR, "end": START}
    told = with_trip(location, starts_at=START, place="paris", **over)
    assert told["paris"] == pytest.approx(location["paris"])
    assert with_trip({}, starts_at=START, place="paris", **over) == {}
