"""One model for the whole fleet."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.pooled import clock_of, fit_pooled
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
    clock = clock_of(TIMELINE, None, len(history))
    model = fit_pooled(history, clock=clock)
    assert model is not None
    return model.quantiles(
        history, clock=clock, days_back=(0,), leads=np.arange(1, 25), levels=levels
    )[:, 0]


@pytest.fixture(scope="module")
def series() -> np.ndarray:
    return office(12)


@pytest.fixture(scope="module")
def said(series: np.ndarray) -> np.ndarray:
    return ahead(series[:, :N_SLOTS])


def test_an_office_is_recognised_with_its_spread(series, said):
    actual = series[:, N_SLOTS:]
    assert (np.diff(said, axis=2) >= 0).all()
    assert 0.4 < ((said[..., 1] < actual) & (actual <= said[..., 3])).mean() < 0.6
    assert said[:, 9:17, 2].mean() > 4 * said[:, :7, 2].mean()


def test_neither_order_nor_size_nor_origin_of_the_series_matters(series, said):
    past = series[:, :N_SLOTS]
    factor, move = np.linspace(0.3, 70.0, 12)[:, None], np.linspace(0.0, 9.0, 12)[:, None]
    order = np.random.default_rng(0).permutation(12)
    other = ahead((past * factor + move)[order])
    expected = said * factor[:, None] + move[:, None]
    assert np.allclose(other, expected[order], rtol=1e-6)


def test_levels_between_those_learned_lie_between(series, said):
    fine = ahead(series[:, :N_SLOTS], levels=np.arange(1, 20) / 20)
    assert np.allclose(fine[:, :, [0, 4, 9, 14, 18]], said)
    assert (np.diff(fine, axis=2) >= 0).all()


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
