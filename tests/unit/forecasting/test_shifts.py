"""Lasting changes of level."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

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
