"""Announced travel, on one map and in a fitted model; and the clocks on people's walls."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.core.announced import Trips, with_trip
from forecasting.core.location import LocationModel, fit_locations
from forecasting.errors import InvalidHistory

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


# ---- in a fitted model

MONDAY = datetime(2026, 1, 5, tzinfo=UTC)
UNTIL = MONDAY + timedelta(weeks=8)


def at_home(people: int = 6, *, hours: range = range(8, 18)) -> tuple[np.ndarray, ...]:
    """Everybody in the office every day, seen at these hours."""
    when = np.array(
        [(MONDAY + timedelta(days=d, hours=h)).timestamp() for d in range(56) for h in hours]
    )
    user = np.repeat(np.arange(people), len(when))
    return user, np.tile(when, people), np.full(len(user), "office", dtype=object)


def trips(*rows: tuple[int, str, float, float]) -> Trips:
    """Of person, place, first and last day after UNTIL."""
    user, place, first, last = zip(*rows, strict=True)
    day = UNTIL.timestamp()
    return Trips(
        np.array(user),
        np.array(place, dtype=object),
        day + 86_400 * np.array(first, dtype=float),
        day + 86_400 * np.array(last, dtype=float),
    )


def fitted(*rows: tuple[int, str, float, float], extra: Any = None) -> LocationModel:
    user, when, place = extra or at_home()
    return fit_locations(user, when, place, until=UNTIL, trips=trips(*rows) if rows else None)


def on_day(model: LocationModel, person: int, day: float) -> dict[str, float]:
    (told,) = model.predict(person, UNTIL.timestamp() + 86_400 * day)
    assert sum(told.values()) == pytest.approx(1)
    return told


def test_a_trip_counts_alike_in_predictions_maps_and_paths() -> None:
    model = fitted((0, "lyon", 2, 4))
    assert on_day(model, 0, 3)["lyon"] > 0.9, "nobody was ever seen there"
    assert 0.65 < on_day(model, 0, 2.1)["lyon"] < 0.8, "they may be on their way"
    assert "lyon" not in on_day(model, 0, 5) and "lyon" not in on_day(model, 1, 3)
    places, maps = model.maps([0, 1], UNTIL, 168)
    assert maps.sum(axis=2) == pytest.approx(np.ones((2, 168)))
    lyon = places.index("lyon")
    assert maps[0, 72, lyon] == pytest.approx(on_day(model, 0, 3)["lyon"])
    assert maps[1, :, lyon] == pytest.approx(np.zeros(168))
    hours = UNTIL.timestamp() + 3600.0 * np.arange(168)
    paths = model.sample_paths([0, 1], hours, n=400, seed=1)
    assert (paths[0, :, 72] == "lyon").mean() == pytest.approx(maps[0, 72, lyon], abs=0.04)
    assert not (paths[1] == "lyon").any()


def test_of_two_trips_at_one_time_the_later_announced_counts() -> None:
    model = fitted((0, "lyon", 2, 6), (0, "rome", 3, 4))
    both = on_day(model, 0, 3.5)
    assert both["rome"] > 0.6 and both.get("lyon", 0) < 0.3
    assert on_day(model, 0, 5)["lyon"] > 0.9


def test_who_is_on_a_trip_is_home_again_when_it_ends() -> None:
    user, when, place = at_home()
    away = (user == 0) & (when >= UNTIL.timestamp() - 2 * 86_400)
    place[away] = "lyon"
    announced, silent = (fitted(*rows, extra=(user, when, place)) for rows in ([TRIP], []))
    assert on_day(announced, 0, 0.5)["lyon"] > 0.9
    back, lingering = on_day(announced, 0, 2.5), on_day(silent, 0, 2.5)
    assert back["lyon"] < lingering["lyon"] / 2 and back["office"] > 0.9


TRIP = (0, "lyon", -2.0, 1.5)


@pytest.mark.parametrize(("kept", "least", "most"), [(True, 0.96, 0.995), (False, 0.0, 0.1)])
def test_how_far_announcements_are_trusted_is_learned(
    kept: bool, least: float, most: float
) -> None:
    user, when, place = at_home(20)
    past = [(person, "lyon", -20.0, -16.0) for person in range(20)]
    start, end = (UNTIL.timestamp() + 86_400 * day for day in (-20, -16))
    if kept:
        place[(when >= start) & (when < end)] = "lyon"
    model = fitted(*past, (0, "lyon", 2, 6), extra=(user, when, place))
    assert model.announced is not None
    assert least < model.announced.trust[1] <= most


def test_a_trip_on_which_somebody_is_seen_at_home_is_hardly_believed() -> None:
    user, when, place = at_home(20)
    past = [(person, "lyon", -20.0, -16.0) for person in range(1, 20)]
    start, end = (UNTIL.timestamp() + 86_400 * day for day in (-20, -16))
    place[(user > 0) & (when >= start) & (when < end)] = "lyon"
    under_way = [(person, "lyon", -2.0, 3.0) for person in (0, 1)]
    place[(user == 1) & (when >= UNTIL.timestamp() - 2 * 86_400)] = "lyon"
    model = fitted(*past, *under_way, (0, "rome", 5, 7), extra=(user, when, place))
    assert on_day(model, 0, 0.5)["lyon"] < 0.3 < 0.95 < on_day(model, 1, 0.5)["lyon"]
    assert on_day(model, 0, 6)["rome"] > 0.9, "that one is yet to come"


def test_a_newcomers_trip_counts_and_is_theirs_alone() -> None:
    model = fitted((99, "lyon", 2, 4))
    assert on_day(model, 99, 3)["lyon"] > 0.9 and "lyon" not in on_day(model, 99, 5)
    assert "lyon" not in on_day(model, 0, 3) and "lyon" not in on_day(model, 98, 3)
    places, maps = model.maps([99, 98], UNTIL, 168)
    assert maps.sum(axis=2) == pytest.approx(np.ones((2, 168)))
    assert maps[:, 72, places.index("lyon")] == pytest.approx([0.95, 0.0])
    paths = model.sample_paths([99], UNTIL.timestamp() + 86_400 * np.arange(2.0, 4.0), n=9, seed=1)
    assert (paths[0, :, 1] == "lyon").mean() > 0.5


def test_a_trip_that_ends_before_it_begins_makes_no_sense() -> None:
    with pytest.raises(InvalidHistory, match="ends before it begins"):
        trips((0, "lyon", 4, 2))


# ---- by the clock on the wall


def test_habits_follow_the_wall_clock_over_a_change_to_summer_time() -> None:
    paris = ZoneInfo("Europe/Paris")
    first = datetime(2026, 1, 26, tzinfo=paris)
    moments = [(first + timedelta(days=d)).replace(hour=h) for d in range(63) for h in range(6, 22)]
    when = np.array([moment.timestamp() for moment in moments])
    place = np.array(["office" if 9 <= m.hour < 17 else "home" for m in moments], dtype=object)
    people = 6
    user = np.repeat(np.arange(people), len(when))
    seen = (user, np.tile(when, people), np.tile(place, people))
    until = datetime(2026, 3, 28, tzinfo=paris)  # a day before the clocks change
    by_wall = fit_locations(*seen, until=until, zones=dict.fromkeys(range(people), paris))
    by_utc = fit_locations(*seen, until=until)
    nine, eight = (datetime(2026, 3, 31, hour, 30, tzinfo=paris) for hour in (9, 8))
    assert (
        by_wall.predict(0, nine)[0]["office"] > 0.8 > 0.2 > by_wall.predict(0, eight)[0]["office"]
    )
    assert by_utc.predict(0, nine)[0]["office"] < 0.2, "by UTC everybody would be an hour late"


def test_everybody_lives_by_a_clock_of_their_own() -> None:
    zones = {0: ZoneInfo("Asia/Tokyo"), 1: ZoneInfo("America/New_York")}
    rows = [
        (person, moment.timestamp(), "office" if 9 <= moment.hour < 17 else "home")
        for person, zone in zones.items()
        for d in range(42)
        for moment in [
            datetime(2026, 1, 5, h, 30, tzinfo=zone) + timedelta(days=d) for h in range(24)
        ]
    ]
    user, when, place = (np.array(each) for each in zip(*rows, strict=True))
    until = datetime(2026, 2, 16, tzinfo=UTC)
    model = fit_locations(user, when, place, until=until, zones=zones)
    for person, zone in zones.items():
        at = [datetime(2026, 2, 18, hour, 30, tzinfo=zone) for hour in (4, 11, 20)]
        told = model.predict([person] * 3, np.array(at, dtype=object))
        assert [max(each, key=each.get) for each in told] == ["home", "office", "home"]


def test_a_newcomer_gets_the_fleets_habits_by_a_clock_of_their_own() -> None:
    tokyo = ZoneInfo("Asia/Tokyo")
    rows = [
        (person, moment.timestamp(), "office" if 9 <= h < 17 else "home")
        for person in range(5)
        for d in range(42)
        for h in range(24)
        for moment in [datetime(2026, 1, 5, h, 30, tzinfo=tokyo) + timedelta(days=d)]
    ]
    user, when, place = (np.array(each) for each in zip(*rows, strict=True))
    until = datetime(2026, 2, 16, tzinfo=UTC)
    zones = dict.fromkeys([*range(5), 99], tokyo)
    model = fit_locations(user, when, place, until=until, zones=zones)
    noon = datetime(2026, 2, 18, 12, 30, tzinfo=tokyo)
    assert model.predict(99, noon)[0]["office"] > 0.8
    places, maps = model.maps([99, 0], noon, 24)
    assert (maps[0, :4, places.index("office")] > 0.8).all()
    assert (maps[0, 6:16, places.index("home")] > 0.8).all()
    paths = model.sample_paths([99], noon.timestamp() + 3600.0 * np.arange(4), n=50, seed=1)
    assert (paths == "office").mean() > 0.8
