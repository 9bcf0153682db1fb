"""The probability of a session."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.activity import forecast_activity
from forecasting.core.calendar import Event, event_flags
from forecasting.core.scores import expected_calibration_error
from forecasting.core.timeline import Timeline
from forecasting.errors import InvalidHistory

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def workers(n_people: int, days: int, *, presence: float = 0.9, seed: int = 0) -> np.ndarray:
    """Present from eight to six on working days, each hour with a given probability."""
    hour = np.arange(24 * days)
    office = (hour // 24 % 7 < 5) & (hour % 24 >= 8) & (hour % 24 < 18)
    here = np.random.default_rng(seed).random((n_people, len(hour))) < presence
    return 0.7 * (office & here)


def test_habits_are_recognised():
    chance = forecast_activity(workers(30, 42), start=START).reshape(30, 7, 24)
    assert chance[:, :5, 9:17].mean() > 0.8
    assert chance[:, 5:].max() < 0.1
    assert chance[:, :, :7].max() < 0.1


def test_probabilities_mean_what_they_say():
    random = np.random.default_rng(1)
    n_people = 150
    presence = random.beta(2, 1, (n_people, 1))
    history = workers(n_people, 49, presence=1.0)
    history *= random.random(history.shape) < presence
    chance = forecast_activity(history[:, : 42 * 24], start=START)
    happened = history[:, 42 * 24 :] > 0
    assert expected_calibration_error(chance.ravel(), happened.ravel()) < 0.02


def test_a_newcomer_gets_the_fleets_habit():
    history = workers(30, 28)
    history[0] = np.nan
    chance = forecast_activity(history, start=START)
    assert chance[0, 10] > 0.6
    assert chance[0, 3] < 0.1


def test_somebody_who_left_is_expected_less_and_less():
    history = workers(40, 42)
    stayed = forecast_activity(history, start=START)[0, :120].mean()
    history[0, 28 * 24 :] = 0
    assert forecast_activity(history, start=START)[0, :120].mean() < 0.5 * stayed


def test_shift_workers_are_not_bent_to_office_hours():
    history = workers(40, 42)
    night = np.arange(42 * 24) % 24 >= 22
    history[0] = night
    chance = forecast_activity(history, start=START)[0].reshape(7, 24)
    assert chance[:, 22:].mean() > 0.7
    assert chance[:, 9:17].mean() < 0.15


def test_a_day_off_is_quiet():
    history = workers(30, 42)
    monday = START + timedelta(days=42)
    flags = event_flags(
        [[Event("holiday", monday, monday + timedelta(days=1), is_day_off=True)]],
        timeline=Timeline(START, HOUR, history.shape[1], 168),
    )
    chance = forecast_activity(history, start=START, holidays=flags)
    assert chance[:, 8:18].max() < 0.15
    assert chance[:, 24 + 9 : 24 + 17].mean() > 0.8


def test_unknown_hours_are_not_taken_for_absence():
    history = workers(30, 42)
    history[:, 10 * 24 : 17 * 24] = np.nan
    history[3, -30:] = np.nan
    chance = forecast_activity(history, start=START).reshape(30, 7, 24)
    assert chance[:, :5, 9:17].mean() > 0.8


def test_nothing_is_claimed_of_a_fleet_never_observed():
    assert np.isnan(forecast_activity(np.full((3, 100), np.nan), start=START)).all()
    assert forecast_activity(np.empty((0, 100)), start=START).shape == (0, 168)


def test_short_histories_are_enough_for_an_answer():
    for hours in (1, 30, 200):
        chance = forecast_activity(np.ones((2, hours)), start=START, horizon=48)
        assert chance.shape == (2, 48)
        assert ((chance > 0) & (chance < 1)).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(InvalidHistory, match="expected"):
        forecast_activity(np.ones(5), start=START)


def test_leave_keeps_people_away_and_says_nothing_of_their_habits():
    history = workers(60, 42)
    absent = np.zeros((60, 42 * 24 + 168), dtype=bool)
    absent[:20, -168:] = True  # leave ahead
    absent[20:40, 28 * 24 : 42 * 24] = True  # leave that is over
    history[20:40, 28 * 24 : 42 * 24] = 0.0
    chance = forecast_activity(history, start=START, absent=absent).reshape(60, 7, 24)
    office = chance[:, :5, 9:17].mean(axis=(1, 2))
    assert office[:20].max() < 0.2
    assert office[20:40].min() > 0.6
    assert office[40:].min() > 0.7


def test_how_many_work_in_their_leave_is_learned():
    history = workers(60, 42)
    absent = np.zeros((60, 42 * 24 + 168), dtype=bool)
    absent[:40, 28 * 24 : 35 * 24] = True  # and they worked as ever
    absent[:40, -168:] = True
    chance = forecast_activity(history, start=START, absent=absent).reshape(60, 7, 24)
    assert chance[:40, :5, 9:17].mean() > 0.7
