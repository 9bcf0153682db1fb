"""The batched fit against the prophet package itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.core.calendar import Event, Holidays, event_flags
from forecasting.core.prophet import ProphetFit, fit_prophet
from forecasting.core.timeline import Timeline
from forecasting.engines.prophet_stock import fit_stock, log_posterior

# The package drops columns in a way that its own dependency is about to forbid.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def rhythmic(n_series: int, n_slots: int, *, seed: int) -> np.ndarray:
    """Day, week, a trend that bends, and noise of different strength."""
    random = np.random.default_rng(seed)
    hour = np.arange(n_slots)
    day = 1 + np.sin(2 * np.pi * (hour / 24 + random.random((n_series, 1))))
    week = 1 + 0.5 * np.sin(2 * np.pi * hour / 168)
    bend = np.maximum(hour - n_slots * random.random((n_series, 1)), 0) / n_slots
    noise = random.gamma(2.0, 1.0, (n_series, n_slots)) * random.random((n_series, 1))
    return 10 ** random.uniform(-2, 6, (n_series, 1)) * (day * week + 2 * bend + noise)


def stock_fit(values: np.ndarray, timeline: Timeline, holidays: Holidays | None = None):
    """Fit the package's model; its log posterior, and its forecast of the future slots."""
    model, frame = fit_stock(values, timeline, holidays, uncertainty_samples=0)
    predicted = model.predict(frame[timeline.n_slots :])["yhat"].to_numpy()
    return log_posterior(model), predicted


def assert_at_least_stan(fit: ProphetFit, i: int, stan: float) -> None:
    assert fit.log_posterior[i] >= stan - 1e-6 * abs(stan), (i, fit.log_posterior[i], stan)


@pytest.mark.parametrize("missing_share", [0.0, 0.3])
def test_log_posterior_is_at_least_stans(missing_share):
    timeline = Timeline(START, HOUR, 24 * 21, 24)
    history = rhythmic(4, timeline.n_slots, seed=1)
    history[np.random.default_rng(2).random(history.shape) < missing_share] = np.nan
    fit = fit_prophet(history, timeline=timeline)
    median = fit.quantiles([0.5])[:, :, 0]
    for i, values in enumerate(history):
        stan, predicted = stock_fit(values, timeline)
        assert_at_least_stan(fit, i, stan)
        # Stan stops a little short of the optimum, so forecasts agree only closely.
        assert np.abs(median[i] - predicted).max() < 0.03 * np.nanmax(values)


def test_log_posterior_is_at_least_stans_with_events():
    timeline = Timeline(START, HOUR, 24 * 21, 48)
    events = [
        Event("close", START + timedelta(days=day), START + timedelta(days=day + 1))
        for day in (4, 11, 18, 21)
    ]
    calendar = event_flags([events], timeline=timeline)
    flags = calendar.flags[0, :, 0]
    history = rhythmic(2, timeline.n_slots, seed=3)
    history *= 1 + flags[: timeline.n_slots]
    fit = fit_prophet(history, timeline=timeline, holidays=calendar)
    for i, values in enumerate(history):
        stan, predicted = stock_fit(values, timeline, calendar)
        assert_at_least_stan(fit, i, stan)
        median = fit.quantiles([0.5])[i, :, 0]
        assert np.abs(median - predicted).max() < 0.03 * np.nanmax(values)


def test_a_series_that_hardly_errs_is_fitted_as_well_as_stan_does():
    timeline = Timeline(START, HOUR, 24 * 21, 24)
    hour = np.arange(timeline.n_slots)
    noise = np.random.default_rng(6).normal(size=(2, len(hour)))
    wave = 5 + np.sin(2 * np.pi * hour / 24) + np.maximum(hour - 200, 0) / 100
    history = wave + noise * [[1e-2], [1e-3]]
    fit = fit_prophet(history, timeline=timeline)
    for i, values in enumerate(history):
        assert_at_least_stan(fit, i, stock_fit(values, timeline)[0])


def test_seasonalities_follow_prophets_rules():
    day = timedelta(days=1)
    for n_slots, step, expected in (
        (30, HOUR, ["trend"]),
        (24 * 5, HOUR, ["trend", "daily"]),
        (24 * 15, HOUR, ["trend", "weekly", "daily"]),
        (100, day, ["trend", "weekly"]),
        (800, day, ["trend", "yearly", "weekly"]),
    ):
        timeline = Timeline(START, step, n_slots, 1)
        fit = fit_prophet(rhythmic(1, n_slots, seed=0), timeline=timeline)
        assert list(fit.columns) == expected


def test_components_add_up_to_the_median():
    timeline = Timeline(START, HOUR, 24 * 21, 48)
    fit = fit_prophet(rhythmic(3, timeline.n_slots, seed=4), timeline=timeline)
    future = np.arange(timeline.n_slots, timeline.n_slots + 48)
    parts = fit.components(future)
    assert set(parts) == {"trend", "weekly", "daily"}
    np.testing.assert_allclose(sum(parts.values()), fit.quantiles([0.5])[:, :, 0])


def test_a_series_is_fitted_alike_alone_and_in_company():
    timeline = Timeline(START, HOUR, 24 * 16, 24)
    history = rhythmic(6, timeline.n_slots, seed=5)
    history[2, 50:90] = np.nan
    together = fit_prophet(history, timeline=timeline).quantiles([0.1, 0.9])
    alone = fit_prophet(history[2:3], timeline=timeline).quantiles([0.1, 0.9])
    np.testing.assert_allclose(together[2], alone[0], rtol=1e-5)


def test_unknown_and_constant_series_are_answered_honestly():
    timeline = Timeline(START, HOUR, 100, 5)
    history = np.stack([np.full(100, np.nan), np.full(100, 4.0), np.zeros(100)])
    quantiles = fit_prophet(history, timeline=timeline).quantiles([0.05, 0.95])
    assert np.isnan(quantiles[0]).all()
    np.testing.assert_allclose(quantiles[1], 4.0)
    np.testing.assert_allclose(quantiles[2], 0.0)


@pytest.mark.parametrize("minutes", [60, 15])
def test_a_series_seen_only_in_the_hour_a_clock_repeats_is_forecast_as_it_was(minutes):
    start = datetime(2026, 10, 25, tzinfo=ZoneInfo("Europe/Paris"))
    per_hour = 60 // minutes
    timeline = Timeline(start, timedelta(minutes=minutes), 8 * per_hour, 24)
    history = np.full((2, timeline.n_slots), np.nan)
    history[:, 2 * per_hour], history[:, 3 * per_hour] = 4.0, [4.0, 6.0]  # two o'clock, twice
    median = fit_prophet(history, timeline=timeline).quantiles([0.5])[:, :, 0]
    np.testing.assert_allclose(median[0], 4.0)
    np.testing.assert_allclose(median[1], 5.0, rtol=0.01)


def test_uncertainty_grows_with_the_distance_where_the_trend_was_restless():
    timeline = Timeline(START, HOUR, 24 * 28, 24 * 14)
    hour = np.arange(timeline.n_slots)
    random = np.random.default_rng(0)
    bends = 50 + np.cumsum(random.normal(size=8) * 20)
    restless = np.interp(hour, np.arange(8) * 96, bends) + random.random(len(hour))
    quantiles = fit_prophet(restless[None], timeline=timeline).quantiles([0.1, 0.9])[0]
    width = quantiles[:, 1] - quantiles[:, 0]
    assert width[-1] > 1.5 * width[0]
