"""Lasting changes of level."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.calendar import Event, event_flags
from forecasting.core.shifts import on_todays_level
from forecasting.core.timeline import Timeline

DAYS = 42
HOUR = np.arange(24 * DAYS)
OFFICE = (HOUR // 24 % 7 < 5) & (HOUR % 24 >= 8) & (HOUR % 24 < 18)
TIMELINE = Timeline(datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=1), len(HOUR), 24)


def office(n_series: int, *, seed: int = 0) -> np.ndarray:
    """Busy in office hours, with noise of a third."""
    noise = np.random.default_rng(seed).gamma(9.0, 1 / 9, (n_series, len(HOUR)))
    return noise * (0.5 + 3.0 * OFFICE)


@pytest.mark.parametrize("factor", [0.3, 4.0])
@pytest.mark.parametrize("days", [3, 4, 7, 10])
def test_the_past_is_brought_to_the_new_level(days, factor):
    history = office(5)
    changed = history.copy()
    changed[2, -24 * days :] *= factor
    result = on_todays_level(changed, TIMELINE)
    old = slice(0, 24 * (DAYS - days))
    assert np.median(result[2, old] / history[2, old]) == pytest.approx(factor, rel=0.1)
    assert np.array_equal(result[2, -24 * days :], changed[2, -24 * days :])
    others = [0, 1, 3, 4]
    assert np.array_equal(result[others], history[others])


def test_rhythm_and_noise_are_no_change():
    history = office(400, seed=3)
    unchanged = (on_todays_level(history, TIMELINE) == history).all(axis=1)
    assert unchanged.mean() > 0.99


def test_two_days_are_not_a_role():
    history = office(5)
    history[:, -48:] *= 10
    assert np.array_equal(on_todays_level(history, TIMELINE), history)


def test_a_change_shows_through_missing_hours():
    history = office(1)
    history[:, -24 * 6 :] *= 4
    history[np.random.default_rng(1).random(history.shape) < 0.3] = np.nan
    result = on_todays_level(history, TIMELINE)
    assert np.nanmedian(result[:, : 24 * 35] / history[:, : 24 * 35]) > 3
    assert np.array_equal(np.isnan(result), np.isnan(history))


def test_what_has_no_size_stays_as_it_is():
    negative, never = office(1) - 1.0, np.full((1, len(HOUR)), np.nan)
    negative[:, -24 * 6 :] *= 4
    history = np.vstack([negative, never, np.zeros((1, len(HOUR)))])
    assert np.array_equal(on_todays_level(history, TIMELINE), history, equal_nan=True)


def test_days_off_are_neither_the_level_of_today_nor_that_of_before():
    history = office(3)[:, : 24 * 40]  # Monday to Friday night
    history[:2, -24 * 3 :] *= 0.2
    history[2, -24 * 5 :] *= 4
    at = TIMELINE.start + timedelta(days=37)
    off = Event("bridge", at, at + timedelta(days=3), is_day_off=True)
    timeline = Timeline(TIMELINE.start, TIMELINE.step, 24 * 40, 24)
    flags = event_flags([[off], []], timeline=timeline, calendar=np.array([0, 1, 1]))
    result = on_todays_level(history, timeline, flags)
    assert np.array_equal(result[0], history[0])
    assert np.nanmean(result[1]) < 0.4 * np.nanmean(history[1])
    assert np.nanmean(result[2]) > 2 * np.nanmean(history[2])


def test_holidays_before_do_not_hide_a_change():
    history = office(1)
    history[:, 24 * 14 : 24 * 19] *= 0.1
    history[:, -24 * 5 :] *= 4
    at = TIMELINE.start + timedelta(days=14)
    off = Event("fair", at, at + timedelta(days=5), is_day_off=True)
    result = on_todays_level(history, TIMELINE, event_flags([[off]], timeline=TIMELINE))
    assert np.median(result[0, : 24 * 35] / history[0, : 24 * 35]) == pytest.approx(4, rel=0.1)


def test_an_idle_day_is_low_not_unseen():
    history = office(3)
    history[0, -24 * 5 :] *= 4
    history[0, -48:-24] = 0.0
    history[1, -24 * 5 :] *= 0.3
    history[1, -48:-24] = 0.0
    history[2, -24 * 5 :] = 0.0  # what became nothing has no rhythm to be brought to
    result = on_todays_level(history, TIMELINE)
    assert np.array_equal(result[[0, 2]], history[[0, 2]])
    old = slice(0, 24 * 37)
    assert np.median(result[1, old] / history[1, old]) == pytest.approx(0.3, rel=0.2)


def test_a_weekday_that_is_always_idle_says_nothing():
    history = office(1)
    weekend = HOUR // 24 % 7 >= 5
    history[:, weekend] = 0.0
    history[:, -24 * 5 :] *= 4  # Wednesday to Sunday
    result = on_todays_level(history, TIMELINE)
    working = ~weekend[: 24 * 37]
    ratio = (result[:, : 24 * 37] / np.where(working, history[:, : 24 * 37], 1.0))[:, working]
    assert np.median(ratio) == pytest.approx(4, rel=0.1)
