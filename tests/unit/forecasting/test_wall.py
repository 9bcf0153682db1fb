"""Elapsed time laid onto the wall clock, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.core.calendar import Event, event_flags
from forecasting.core.fleet import forecast_fleet
from forecasting.core.related import Related
from forecasting.core.timeline import Timeline
from forecasting.core.wall import WallClock
from forecasting.engines import registry

PARIS, LORD_HOWE = ZoneInfo("Europe/Paris"), ZoneInfo("Australia/Lord_Howe")
HOUR, QUARTER = timedelta(hours=1), timedelta(minutes=15)
SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=PARIS), datetime(2026, 10, 25, tzinfo=PARIS)
NAN = np.nan


def later(start: datetime, elapsed: timedelta) -> datetime:
    return (start.astimezone(UTC) + elapsed).astimezone(start.tzinfo)


def hour_of_day(timeline: Timeline) -> np.ndarray:
    return timeline.wall_s / 3600 % 24


@pytest.mark.parametrize(
    ("start", "step", "horizon"),
    [
        (datetime(2026, 3, 1, tzinfo=UTC), HOUR, 24 * 40),
        (datetime(2026, 3, 1, tzinfo=PARIS), HOUR, 24),
        (datetime(2026, 3, 29, 3, tzinfo=PARIS), HOUR, 24),
        (datetime(2026, 3, 1, tzinfo=PARIS), timedelta(days=1), 20),
        (datetime(2026, 3, 1, tzinfo=PARIS), timedelta(hours=2), 240),
        (datetime(2026, 3, 1, tzinfo=PARIS), timedelta(hours=7), 80),
        (datetime(2026, 4, 1, tzinfo=LORD_HOWE), HOUR, 240),
    ],
)
def test_without_a_change_by_whole_slots_everything_stays_as_it_is(start, step, horizon):
    timeline = Timeline(start, step, 100, horizon)
    wall = WallClock.of(timeline)
    history, quantiles = np.random.default_rng(0).random((2, 3, 100))
    flags = event_flags([[]], timeline=timeline)
    beside = Related(np.ones((3, 100, 1)), np.arange(3))
    assert wall.timeline is timeline
    assert wall.history(history) is history
    assert wall.holidays(flags) is flags
    assert wall.related(beside) is beside
    assert wall.back(quantiles) is quantiles


def test_the_hour_that_is_skipped_is_missing():
    wall = WallClock.of(Timeline(SPRING, HOUR, 6, 2))
    history = np.array([[0.0, 1.0, 3.0, 4.0, 5.0, 6.0]])
    np.testing.assert_array_equal(wall.history(history), [[0, 1, NAN, 3, 4, 5, 6]])
    np.testing.assert_array_equal(hour_of_day(wall.timeline), np.arange(9))
    assert wall.timeline.weekday[0] == 6
    np.testing.assert_array_equal(wall.back(np.array([[7.0, 8.0]])), [[7, 8]])


def test_the_hour_that_comes_twice_is_one_and_is_told_twice():
    history = np.array([[0.0, 1.0, 2.0, 4.0, 5.0], [0, 1, NAN, 4, 5], [0, 1, 2, NAN, 5]])
    wall = WallClock.of(Timeline(AUTUMN, HOUR, 5, 2))
    merged = [[0, 1, 3, 5], [0, 1, 4, 5], [0, 1, 2, 5]]
    np.testing.assert_array_equal(wall.history(history), merged)
    np.testing.assert_array_equal(hour_of_day(wall.timeline), np.arange(6))
    ahead = WallClock.of(Timeline(AUTUMN, HOUR, 1, 5))
    assert (ahead.timeline.n_slots, ahead.timeline.horizon) == (1, 4)
    np.testing.assert_array_equal(ahead.back(np.array([[1, 2, 3, 4]])), [[1, 2, 2, 3, 4]])


def test_a_skipped_hour_ahead_is_not_told():
    wall = WallClock.of(Timeline(SPRING, HOUR, 2, 3))
    assert (wall.timeline.n_slots, wall.timeline.horizon) == (2, 4)
    np.testing.assert_array_equal(wall.back(np.array([[2, 3, 4, 5]])), [[3, 4, 5]])


def test_years_of_changes_keep_every_hour_at_its_time():
    timeline = Timeline(
        datetime(2023, 6, 1, 7, 30, tzinfo=PARIS), QUARTER, 4 * 24 * 800, 4 * 24 * 200
    )
    wall = WallClock.of(timeline)
    time_of_day = hour_of_day(timeline)
    n_slots = timeline.n_slots
    laid = wall.history(time_of_day[None, :n_slots])[0]
    seen = np.isfinite(laid)
    grid = hour_of_day(wall.timeline)
    np.testing.assert_allclose(laid[seen], grid[: len(laid)][seen])
    assert (~seen).sum() == 2 * 4
    np.testing.assert_allclose(wall.back(grid[None, len(laid) :])[0], time_of_day[n_slots:])


@pytest.mark.parametrize("n_slots", range(1, 20))
@pytest.mark.parametrize(
    "start",
    [
        AUTUMN + HOUR,
        (AUTUMN + 2 * HOUR + 2 * QUARTER),
        datetime(2026, 4, 5, 1, tzinfo=LORD_HOWE),
        datetime(2026, 10, 4, 1, tzinfo=LORD_HOWE),
    ],
)
def test_a_history_may_begin_and_end_anywhere_in_a_repeated_or_skipped_hour(start, n_slots):
    timeline = Timeline(start, QUARTER, n_slots, 12)
    wall = WallClock.of(timeline)
    grid, real = hour_of_day(wall.timeline), hour_of_day(timeline)
    laid = wall.history(real[None, :n_slots])[0]
    assert laid.shape == (wall.timeline.n_slots,)
    assert np.isfinite(laid).any()
    ahead = wall.back(np.arange(wall.timeline.horizon)[None])[0]
    assert (ahead >= 0).all()
    np.testing.assert_allclose(grid[wall.timeline.n_slots :][ahead], real[n_slots:])


def test_a_clock_that_changes_at_half_past_an_hour_of_utc_is_followed():
    midnight = datetime(2026, 10, 4, tzinfo=LORD_HOWE)
    hours = hour_of_day(Timeline(midnight, timedelta(minutes=30), 8, 0))
    np.testing.assert_array_equal(hours, [0, 0.5, 1, 1.5, 2.5, 3, 3.5, 4])


def test_who_was_seen_only_in_an_hour_that_comes_again_is_not_forgotten():
    history = np.array([[NAN, NAN, 2.0], [0.0, 1.0, 2.0]])
    laid = WallClock.of(Timeline(AUTUMN, HOUR, 3, 5)).history(history)
    np.testing.assert_array_equal(laid, [[NAN, 2], [0, 1]])


def test_events_and_what_was_observed_beside_follow():
    timeline = Timeline(AUTUMN, HOUR, 5, 2)
    second = later(AUTUMN, 3 * HOUR)
    flags = event_flags([[], [Event("close", second, second + HOUR)]],
                        timeline=timeline, calendar=np.array([1, 0]))  # fmt: skip
    wall = WallClock.of(timeline)
    laid = wall.holidays(flags)
    np.testing.assert_array_equal(laid.flags[:, :, 0], [[0] * 6, [0, 0, 1, 0, 0, 0]])
    np.testing.assert_array_equal(laid.calendar, [1, 0])
    runs = np.array([[[0], [1], [2], [4], [5]]])
    beside = wall.related(Related(runs, np.array([0, -1])))
    np.testing.assert_array_equal(beside.values[0, :, 0], [0, 1, 3, 5])
    spring = Timeline(SPRING, HOUR, 4, 1)
    day_off = event_flags([[Event("off", SPRING, SPRING + 24 * HOUR)]], timeline=spring)
    assert WallClock.of(spring).holidays(day_off).flags.all()


@pytest.mark.parametrize("name", ["seasonal", "pooled"])
@pytest.mark.parametrize("monday", [SPRING, AUTUMN])
def test_engines_that_step_in_days_keep_office_hours(name, monday):
    monday = monday + timedelta(days=1)
    start = later(monday, -timedelta(days=21))
    timeline = Timeline(start, HOUR, 21 * 24, 24)
    hour = hour_of_day(timeline)
    busy = (hour >= 9) & (hour < 17)
    history = np.tile(np.where(busy, 5.0, 0.1)[: timeline.n_slots], (30, 1))
    history *= np.random.default_rng(1).gamma(100, 0.01, history.shape)
    quantiles = registry.load(name).forecast(
        history, start=start, step=HOUR, horizon=24, levels=[0.5]
    )
    median = np.median(quantiles[:, :, 0], axis=0)
    np.testing.assert_allclose(median, np.where(busy[-24:], 5.0, 0.1), rtol=0.15)


@pytest.mark.parametrize("sunday", [SPRING, AUTUMN])
def test_yesterday_at_nine_is_repeated_at_nine(sunday):
    start = later(sunday, -timedelta(days=3))
    timeline = Timeline(start, HOUR, 72, 48)
    hour = hour_of_day(timeline)
    quantiles = registry.load("seasonal_naive").forecast(
        hour[None, :72], start=start, step=HOUR, horizon=48, levels=[0.5]
    )
    kept = hour[72:] != 2 if sunday is SPRING else slice(None)  # it was skipped: not on Sunday
    np.testing.assert_allclose(quantiles[0, kept, 0], hour[72:][kept])


def test_a_fleet_may_be_forecast_from_within_the_repeated_hour():
    start = later(AUTUMN, timedelta(days=-8))
    history = np.random.default_rng(0).random((3, 8 * 24 + 3))
    history[1, :-1] = np.nan
    quantiles = forecast_fleet(history, start=start, step=HOUR, horizon=30, levels=[0.1, 0.9])
    assert quantiles.shape == (3, 30, 2)
    assert np.isfinite(quantiles).all()
