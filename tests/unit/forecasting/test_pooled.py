"""One model for the whole fleet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.pooled import Clock, clock_of, fit_pooled
from forecasting.core.timeline import Timeline

LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])
DAYS = 28
N_SLOTS = 24 * DAYS
TIMELINE = Timeline(datetime(2024, 1, 1, tzinfo=UTC), timedelta(hours=1), N_SLOTS, 24)


def office(n_series: int, *, seed: int = 0) -> np.ndarray:
    hour = np.arange(N_SLOTS + 24)
    busy = (hour // 24 % 7 < 5) & (hour % 24 >= 8) & (hour % 24 < 18)
    noise = np.random.default_rng(seed).gamma(9.0, 1 / 9, (n_series, len(hour)))
    return noise * (0.5 + 3.0 * busy)


def ahead(history: np.ndarray, *, levels: np.ndarray = LEVELS) -> np.ndarray:
    """By amounts and by departures, shape (2, n_series, 24, n_levels)."""
    clock = clock_of(TIMELINE, None, len(history))
    model = fit_pooled(history, clock=clock)
    assert model is not None
    return model.quantiles(
        history, clock=clock, days_back=(0,), leads=np.arange(1, 25), levels=levels
    )[:, :, 0]


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    return office(12)


@pytest.fixture(scope="module")
def said(series: np.ndarray) -> np.ndarray:
    return ahead(series[:, :N_SLOTS])


def test_an_office_is_recognised_with_its_spread(series, said):
    actual = series[:, N_SLOTS:]
    assert (np.diff(said, axis=-1) >= 0).all()
    for each in said:
        assert 0.4 < ((each[..., 1] < actual) & (actual <= each[..., 3])).mean() < 0.6
        assert each[:, 9:17, 2].mean() > 4 * each[:, :7, 2].mean()


def test_neither_order_nor_size_nor_origin_of_the_series_matters(series, said):
    past = series[:, :N_SLOTS]
    factor, move = np.linspace(0.3, 70.0, 12)[:, None], np.linspace(0.0, 9.0, 12)[:, None]
    order = np.random.default_rng(0).permutation(12)
    other = ahead((past * factor + move)[order])
    expected = said * factor[:, None] + move[:, None]  # of either kind
    assert np.allclose(other, expected[:, order], rtol=1e-6)


def test_levels_between_those_learned_lie_between(series, said):
    fine = ahead(series[:, :N_SLOTS], levels=np.arange(1, 20) / 20)
    assert np.allclose(fine[..., [0, 4, 9, 14, 18]], said)
    assert (np.diff(fine, axis=-1) >= 0).all()


def test_departures_follow_a_job_at_three_sharp_that_few_others_have():
    series = office(40, seed=1)
    busy = np.arange(40) < 2
    series[busy] = 0.5 * office(2, seed=2)
    series[busy, 3::24] += 40.0
    amounts, departures = ahead(series[:, :N_SLOTS])[..., 2][:, busy]
    around = np.delete(np.arange(24), 3)
    assert (departures[:, 3] > 35).all()
    assert departures[:, around].max() < 5
    assert np.abs(departures[:, 3] - 40.5).max() < np.abs(amounts[:, 3] - 40.5).max()


def test_nothing_is_said_beyond_what_a_series_had_shown_until_then(series):
    past = series[:, :N_SLOTS].copy()
    past[:, -36] = 1000.0
    clock = clock_of(TIMELINE, None, len(past))
    model = fit_pooled(past, clock=clock)
    assert model is not None
    asked = {"clock": clock, "leads": np.arange(1, 25), "levels": np.array([0.5, 0.999])}
    by_origin = model.quantiles(past, days_back=(5, 2, 1), **asked)
    for number, back in enumerate((5, 2, 1)):
        shown = past[:, : N_SLOTS - 24 * back].max(axis=1)
        assert (by_origin[:, :, number] <= shown[:, None, None]).all()


def test_what_is_usual_leaves_days_off_out():
    """A week off must not make idleness the usual thing on the first day back."""
    off = np.zeros((1, N_SLOTS + 24), dtype=np.bool_)
    off[:, N_SLOTS - 7 * 24 : N_SLOTS] = True
    past = office(12, seed=3)[:, :N_SLOTS]
    past[:, N_SLOTS - 7 * 24 :] = 0.5
    clock = Clock(TIMELINE, off, np.zeros(12, dtype=np.int64))
    model = fit_pooled(past, clock=clock, holdout_days=0)
    assert model is not None
    monday = model.quantiles(
        past, clock=clock, days_back=(0,), leads=np.arange(10, 18), levels=LEVELS
    )[1, :, 0, :, 2]
    assert 2.8 < np.median(monday) < 4.2


def test_the_last_days_are_not_learned_from(series):
    past = series[:, :N_SLOTS]
    clock = clock_of(TIMELINE, None, len(past))
    model = fit_pooled(past, clock=clock)
    assert model is not None and model.holdout_from == N_SLOTS - 5 * 24
    poisoned = past.copy()
    poisoned[:, model.holdout_from :] *= 50
    other = fit_pooled(poisoned, clock=clock)
    asked = {"clock": clock, "days_back": (5,), "leads": np.arange(1, 25), "levels": LEVELS}
    assert other is not None
    assert np.array_equal(other.quantiles(past, **asked), model.quantiles(past, **asked))


def test_too_little_to_learn_from_makes_no_model(series):
    assert fit_pooled(series[:1, :N_SLOTS], clock=clock_of(TIMELINE, None, 1)) is None
    short = Timeline(TIMELINE.start, TIMELINE.step, 5 * 24, 24)
    assert fit_pooled(series[:, : 5 * 24], clock=clock_of(short, None, 12)) is None
