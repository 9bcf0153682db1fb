"""The one entry point for numbers in, quantiles out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forecasting.core import threads
from forecasting.core.calendar import Event, event_flags
from forecasting.core.fleet import forecast_fleet, forecast_in_detail
from forecasting.core.related import Related
from forecasting.core.scores import coverage
from forecasting.core.timeline import Timeline
from forecasting.errors import InvalidCalendar, InvalidHistory

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


def forecast(history, *, horizon=24, levels=LEVELS, start=START, step=HOUR, **beside):
    return forecast_fleet(
        np.asarray(history, dtype=float),
        start=start,
        step=step,
        horizon=horizon,
        levels=levels,
        **beside,
    )


def office(n_series: int, days: int, *, seed: int = 0) -> np.ndarray:
    """Busy on working days from eight to six, idle else, with noise; Monday first."""
    hour = np.arange(24 * days)
    busy = (hour // 24 % 7 < 5) & (hour % 24 >= 8) & (hour % 24 < 18)
    noise = np.random.default_rng(seed).gamma(9.0, 1 / 9, (n_series, len(hour)))
    return noise * (0.5 + 3.0 * busy)


series_kinds = st.sampled_from(["office", "zeros", "constant", "spikes", "noise", "late", "holes"])


def make_series(kind: str, n_slots: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    noise = random.gamma(1.0, 1.0, n_slots)
    match kind:
        case "office":
            return office(1, n_slots // 24 + 1, seed=seed)[0, :n_slots]
        case "zeros":
            return np.zeros(n_slots)
        case "constant":
            return np.full(n_slots, 3.5)
        case "spikes":
            return np.where(random.random(n_slots) < 0.02, 1e6 * noise, 0.0)
        case "late":
            return np.where(np.arange(n_slots) < n_slots * 0.8, np.nan, noise)
        case "holes":
            return np.where(random.random(n_slots) < 0.6, np.nan, noise)
        case _:
            return noise


@settings(max_examples=12, deadline=None)
@given(
    kinds=st.lists(series_kinds, min_size=1, max_size=4),
    n_slots=st.integers(1, 24 * 12),
    horizon=st.integers(1, 60),
    seed=st.integers(0, 10_000),
)
def test_quantiles_rise_with_level_and_stay_above_zero(kinds, n_slots, horizon, seed):
    history = np.stack([make_series(kind, n_slots, seed + i) for i, kind in enumerate(kinds)])
    quantiles = forecast(history, horizon=horizon)
    assert quantiles.shape == (len(kinds), horizon, len(LEVELS))
    known = np.isfinite(history).any(axis=1)
    assert np.isnan(quantiles[~known]).all()
    assert np.isfinite(quantiles[known]).all()
    assert (np.diff(quantiles[known], axis=2) >= 0).all()
    assert (quantiles[known] >= 0).all()


@settings(max_examples=4, deadline=None)
@given(
    exponents=st.lists(st.integers(-60, 60), min_size=4, max_size=4), seed=st.integers(0, 10_000)
)
def test_multiplying_a_series_multiplies_its_forecast(exponents, seed):
    history = np.stack(
        [make_series(kind, 24 * 16, seed) for kind in ("office", "spikes", "noise", "holes")]
    )
    factor = 10.0 ** np.array(exponents)[:, None]
    plain, scaled = forecast(history), forecast(history * factor)
    size = np.nanmax(history, axis=1)[:, None, None]
    np.testing.assert_allclose(scaled / factor[:, :, None] / size, plain / size, atol=1e-6)


def test_the_order_of_the_series_does_not_matter(monkeypatch):
    monkeypatch.setattr(threads, "SERIES_AT_ONCE", 16)
    history = np.concatenate([office(120, 15), office(30, 15, seed=3) ** 3])
    order = np.random.default_rng(5).permutation(len(history))
    plain, mixed = forecast(history, horizon=6), forecast(history[order], horizon=6)
    np.testing.assert_allclose(plain[order], mixed, rtol=1e-6)


def test_moving_a_series_moves_its_forecast():
    """But for the floor at zero, which stays: here both lie more than their own range above it."""
    history = np.stack(
        [make_series(kind, 24 * 21, 7) for kind in ("office", "spikes", "noise", "holes", "late")]
    )
    span = np.nanmax(history, axis=1, keepdims=True) - np.nanmin(history, axis=1, keepdims=True)
    near, far = (forecast(history + n * span) / span[..., None] - n for n in (2, 64))
    np.testing.assert_allclose(near, far, atol=1e-3)


def test_the_order_of_the_levels_does_not_matter():
    history = office(3, 15)
    np.testing.assert_array_equal(
        forecast(history, levels=(0.9, 0.1)), forecast(history, levels=(0.1, 0.9))[:, :, ::-1]
    )


def test_the_same_input_gives_the_same_forecast():
    history = office(4, 21)
    np.testing.assert_array_equal(forecast(history), forecast(history))


def test_a_series_never_observed_is_unknown_and_harms_nobody():
    history = office(4, 21)
    with_unknown = np.vstack([history, np.full((1, history.shape[1]), np.nan)])
    quantiles = forecast(with_unknown)
    assert np.isnan(quantiles[4]).all()
    np.testing.assert_allclose(quantiles[:4], forecast(history))


@pytest.mark.parametrize("value", [0.0, 7.25, -3.0, 1e300, 1e-300])
def test_a_constant_series_stays_what_it_is(value):
    np.testing.assert_allclose(forecast(np.full((2, 24 * 15), value)), value, rtol=1e-9)


@pytest.mark.parametrize("n_slots", [1, 2, 3, 23, 24, 25, 47, 49, 100])
def test_a_very_short_series_is_forecast_within_its_reach(n_slots):
    history = np.random.default_rng(1).random((3, n_slots)) + 10
    quantiles = forecast(history, horizon=48)
    assert np.isfinite(quantiles).all()
    assert quantiles.min() >= 8 and quantiles.max() <= 13


def test_an_office_week_is_recognised():
    quantiles = forecast(office(10, 42), horizon=7 * 24)
    median = np.median(quantiles[:, :, 3], axis=0).reshape(7, 24)
    assert (median[:5, 9:17] > 3.0).all()
    assert (median[5:] < 1.0).all()
    assert (median[:, :7] < 1.0).all()


def test_intervals_cover_what_they_promise_on_an_office_fleet():
    history = office(40, 42)
    past, future = history[:, : 35 * 24], history[:, 35 * 24 :]
    levels = np.arange(1, 20) / 20
    quantiles = forecast(past, horizon=7 * 24, levels=levels)
    for interval in (0.5, 0.8, 0.9):
        share = coverage(future, quantiles, levels=levels, interval=interval)
        assert abs(share - interval) < 0.06, (interval, share)


def test_a_day_off_is_forecast_like_a_sunday():
    days = 43
    past = office(10, days)[:, : 42 * 24]
    tomorrow = START + timedelta(days=42)
    day_off = Event("Founding day", tomorrow, tomorrow + timedelta(days=1), is_day_off=True)
    flags = event_flags([[day_off]], timeline=Timeline(START, HOUR, past.shape[1], 24))
    assert tomorrow.weekday() == 0
    usual = forecast(past)[:, 9:17, 3].mean()
    off = forecast(past, holidays=flags)[:, 9:17, 3].mean()
    assert usual > 3.0
    assert off < usual / 2


def test_a_recurring_event_is_learned_from_its_past():
    history = office(10, 42)
    events = []
    for day in (7, 14, 21, 28, 35, 42):
        at = START + timedelta(days=day)
        events.append(Event("quarter close", at, at + timedelta(days=1)))
        if day < 42:
            history[:, day * 24 : day * 24 + 24] *= 3
    flags = event_flags([events], timeline=Timeline(START, HOUR, history.shape[1], 24))
    with_event = forecast(history, holidays=flags)[:, :, 3].sum()
    assert with_event > forecast(office(10, 42))[:, :, 3].sum() * 1.2


def test_a_missing_block_neither_breaks_nor_bends_the_forecast():
    history = office(10, 42)
    whole = forecast(history)
    history[:, 20 * 24 : 23 * 24] = np.nan
    history[3, -40:] = np.nan
    holed = forecast(history)
    assert np.isfinite(holed).all()
    assert np.abs(holed[:, :, 3] - whole[:, :, 3]).mean() < 0.15 * whole[:, :, 3].mean()


PARIS = ZoneInfo("Europe/Paris")


@pytest.mark.parametrize(
    ("origin", "day"),
    [
        ("2026-03-27 18:00", "2026-03-30"),  # the change lies ahead
        ("2026-03-30 00:00", "2026-03-30"),
        ("2026-04-06 00:00", "2026-04-06"),  # last week's days count as the same hours
        ("2026-10-26 00:00", "2026-10-26"),
        ("2026-11-02 00:00", "2026-11-02"),
    ],
)
def test_nine_o_clock_stays_nine_o_clock_over_a_change_of_the_clock(origin, day):
    past_days, horizon = 28, 80
    end = datetime.fromisoformat(origin).replace(tzinfo=PARIS)
    start = (end.astimezone(UTC) - timedelta(days=past_days)).astimezone(PARIS)
    wall = Timeline(start, HOUR, past_days * 24, horizon).wall_s
    hour, weekday = wall // 3600 % 24, (wall // 86400 + 3) % 7
    busy = (hour >= 9) & (hour < 17) & (weekday < 5)
    noise = np.random.default_rng(2).gamma(25, 1 / 25, (8, len(wall)))
    past = ((0.1 + 4.9 * busy) * noise)[:, : past_days * 24]
    quantiles = forecast(past, horizon=horizon, start=start, levels=[0.5])
    midnight = datetime.fromisoformat(day).replace(tzinfo=PARIS).timestamp()
    first = past_days * 24 + round((midnight - end.timestamp()) / 3600)
    assert (hour[first], weekday[first]) == (0, 0)
    median = np.median(quantiles[:, first - past_days * 24 :, 0], axis=0)
    np.testing.assert_allclose(median[[9, 16]], 5.0, rtol=0.2)
    np.testing.assert_allclose(median[[8, 17]], 0.1, rtol=0.2)


def test_hours_are_not_the_only_step():
    random = np.random.default_rng(0)
    for step, n_slots in (
        (timedelta(minutes=15), 96 * 10),
        (timedelta(days=1), 200),
        (timedelta(hours=7), 200),
    ):
        quantiles = forecast(random.random((2, n_slots)), step=step, horizon=20)
        assert np.isfinite(quantiles).all()


def test_nothing_to_do_gives_empty_arrays():
    assert forecast(np.empty((0, 100))).shape == (0, 24, 7)
    assert forecast(np.ones((2, 100)), horizon=0).shape == (2, 0, 7)
    assert forecast(np.ones((2, 100)), levels=()).shape == (2, 24, 0)
    assert np.isnan(forecast(np.empty((2, 0)))).all()


def test_bad_arguments_are_named():
    with pytest.raises(InvalidHistory, match="series 1 is infinite at slot 2"):
        forecast([[1, 2, 3], [1, 2, np.inf]])
    with pytest.raises(InvalidHistory, match="expected"):
        forecast([1, 2, 3])
    with pytest.raises(InvalidHistory, match="between 0 and 1"):
        forecast(np.ones((1, 5)), levels=(0.5, 1.0))
    with pytest.raises(InvalidHistory, match="no time zone"):
        forecast(np.ones((1, 5)), start=datetime(2024, 1, 1))
    short = event_flags([[]], timeline=Timeline(START, HOUR, 5, 0))
    with pytest.raises(InvalidCalendar, match="cover 5 slots"):
        forecast(np.ones((1, 5)), holidays=short)
    whole = Timeline(START, HOUR, 5, 24)
    for_two = event_flags([[], []], timeline=whole, calendar=np.array([0, 1]))
    with pytest.raises(InvalidCalendar, match="there are 3 series"):
        forecast(np.ones((3, 5)), holidays=for_two)
    with pytest.raises(InvalidCalendar, match="follow calendars 0 to 2, there are 2"):
        event_flags([[], []], timeline=whole, calendar=np.array([0, 2]))
    beside = Related(np.array([[[0.0]] * 5, [[0.0], [0.0], [np.inf], [0.0], [0.0]]]), np.zeros(1))
    with pytest.raises(InvalidHistory, match="observations of subject 1 is infinite at slot 2"):
        forecast(np.ones((1, 5)), related=beside)


def test_a_change_of_role_is_followed_within_days():
    history = office(20, 42)
    history[0, -5 * 24 :] *= 4  # Monday to Friday
    saturday_on = forecast(history, horizon=96)[:, :, 3]
    monday = saturday_on[:, 57:65].mean(axis=1)
    assert monday[0] > 2.5 * np.median(monday[1:])
    assert monday[1:].max() < 1.5 * np.median(monday[1:])


def test_holidays_until_yesterday_are_no_change_of_role():
    history = office(10, 40)  # to Friday night
    off = slice(37 * 24, 40 * 24)
    history[:, off] = office(10, 47)[:, 41 * 24 : 44 * 24] / 4
    at = START + timedelta(days=37)
    days = [Event("bridge", at, at + timedelta(days=3), is_day_off=True)]
    flags = event_flags([days], timeline=Timeline(START, HOUR, 40 * 24, 96))
    monday = forecast(history, horizon=96, holidays=flags)[:, 48 + 9 : 48 + 17, 3]
    assert 2.3 < np.median(monday) < 4.0


def idle_beside_an_office(days: int = 42) -> np.ndarray:
    """Series 0 rests at zero all the time; the others work."""
    history = office(12, days, seed=5)
    history[0] = 0.0
    return history


def test_one_stray_hour_is_no_habit():
    history = idle_beside_an_office()
    history[0, [-20, -300]] = 50.0
    assert (forecast(history)[0] == 0).all()


def test_a_job_that_began_two_days_ago_is_not_taken_for_a_stray_hour():
    history = idle_beside_an_office()
    history[0, [-45, -21]] = 50.0  # at three, both days
    assert forecast(history)[0, 3, -1] > 0


def test_a_weekly_job_of_an_idle_series_is_not_forgotten():
    history = idle_beside_an_office()
    history[0, 7 * 24 * np.arange(6) + 3] = 50.0  # Mondays; the forecast is of one
    highest = forecast(history)[0, :, -1]
    assert highest[3] > 5 * np.delete(highest, 3).max()


def test_an_event_wakes_an_idle_series():
    history = idle_beside_an_office()
    events = []
    for day in (14, 28, 42):
        at = START + timedelta(days=day, hours=9)
        events.append(Event("month end", at, at + timedelta(hours=4)))
        history[0, day * 24 + 9 : day * 24 + 13] = 30.0
    flags = event_flags([events], timeline=Timeline(START, HOUR, history.shape[1], 24))
    woken = forecast(history, holidays=flags)[0, 9:13]
    assert woken[:, -1].min() > 0
    assert (forecast(history)[0, 9:13] == 0).all()


def test_every_engine_says_what_part_it_had():
    history = office(20, 42)
    history[3] = np.nan
    made = forecast_in_detail(history, start=START, step=HOUR, horizon=24, levels=LEVELS)
    assert made.engines[:3] == ("prophet", "pooled", "pooled departures")
    assert np.isnan(made.weights[3]).all() and np.isnan(made.losses[3]).all()
    known = np.delete(np.arange(20), 3)
    assert np.allclose(made.weights[known].sum(axis=1), 1.0)
    assert (made.losses[known] < 1.2).any(axis=1).all()
