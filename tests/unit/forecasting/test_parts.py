"""The parts a fleet forecast is made of: habits, weights, calibration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.calibration import learn_factors, stretch
from forecasting.core.combination import combine, learn_weights
from forecasting.core.scores import coverage
from forecasting.core.seasonal import HABITS, habit_quantiles
from forecasting.core.timeline import Timeline

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


@pytest.mark.parametrize("habit", HABITS, ids=lambda habit: habit.name)
def test_a_past_origin_knows_nothing_of_what_came_after(habit):
    history = np.random.default_rng(0).gamma(1.0, 1.0, (4, 24 * 20))
    history[1, 100:150] = np.nan
    ask = {"habit": habit, "leads": np.array([1, 5, 24, 40]), "levels": LEVELS}
    looking_back = habit_quantiles(
        history, timeline=Timeline(START, HOUR, 24 * 20, 0), days_back=(3,), **ask
    )
    at_the_time = habit_quantiles(
        history[:, : 24 * 17], timeline=Timeline(START, HOUR, 24 * 17, 48), **ask
    )
    np.testing.assert_allclose(looking_back, at_the_time)


def test_every_day_ahead_draws_on_all_that_was_seen_at_its_hour():
    history = np.random.default_rng(3).gamma(1.0, 1.0, (3, 24 * 8))
    week = habit_quantiles(
        history,
        timeline=Timeline(START, HOUR, 24 * 8, 24 * 7),
        habit=HABITS[0],
        leads=np.arange(1, 24 * 7 + 1),
        levels=np.array([0.001, 0.5, 0.999]),
    )[:, 0].reshape(3, 7, 24, 3)
    assert (week == week[:, :1]).all()
    by_hour = history.reshape(3, 8, 24)
    assert (week[:, 6, :, 0] == by_hour.min(axis=1)).all()
    assert (week[:, 6, :, 2] == by_hour.max(axis=1)).all()


def test_what_was_never_seen_cannot_be_compared_with():
    history = np.where(np.arange(24 * 10) % 24 < 12, 1.0, np.nan)[None]
    timeline = Timeline(START, HOUR, 240, 24)
    quantiles = habit_quantiles(
        history, timeline=timeline, habit=HABITS[0], leads=np.arange(1, 25), levels=LEVELS
    )[0, 0]
    assert (quantiles[:12] == 1.0).all()
    assert np.isnan(quantiles[12:]).all()


def cases(n_series: int, n_cases: int, *, seed: int = 0):
    """Observations of a normal, and two members: the truth, and one too high by two."""
    actual = np.random.default_rng(seed).normal(size=(n_series, n_cases))
    truth = np.quantile(np.random.default_rng(99).normal(size=100_000), LEVELS)
    said = np.stack([np.broadcast_to(truth + bias, (*actual.shape, 5)) for bias in (0.0, 2.0)])
    return actual, said.copy()


def test_the_better_member_gets_the_weight():
    actual, said = cases(20, 50)
    weights = learn_weights(actual, said, levels=LEVELS)
    np.testing.assert_allclose(weights.sum(axis=1), 1.0)
    assert (weights[:, 0] > 0.8).all()


def test_a_series_of_its_own_kind_leans_its_own_way():
    actual, said = cases(40, 80)
    actual[0] += 2.0
    weights = learn_weights(actual, said, levels=LEVELS)
    assert weights[0, 1] > 3 * np.median(weights[1:, 1])


def test_with_nothing_to_learn_from_all_members_count_alike():
    actual, said = cases(3, 10)
    np.testing.assert_allclose(learn_weights(actual * np.nan, said, levels=LEVELS), 0.5)


def test_weights_do_not_depend_on_a_series_unit():
    actual, said = cases(10, 30)
    unit = 10.0 ** np.arange(-5, 5)
    weights = learn_weights(actual * unit[:, None], said * unit[None, :, None, None], levels=LEVELS)
    np.testing.assert_allclose(weights, learn_weights(actual, said, levels=LEVELS), rtol=1e-9)


def test_a_silent_member_leaves_the_word_to_the_others():
    said = np.array([[[[1.0]]], [[[np.nan]]]])
    assert combine(said, np.array([[0.3, 0.7]])) == [[[1.0]]]
    assert np.isnan(combine(said * np.nan, np.array([[0.3, 0.7]]))).all()


def test_intervals_that_were_too_narrow_are_stretched_to_what_they_promise():
    actual, said = cases(50, 100)
    narrow = said[0] * 0.6
    factors = learn_factors(actual, narrow, levels=LEVELS)
    fresh, _ = cases(50, 100, seed=7)
    slots = np.repeat(factors[:, None], 100, axis=1)
    fixed = stretch(narrow, slots, at=LEVELS, levels=LEVELS)
    assert coverage(fresh, narrow, levels=LEVELS, interval=0.9) < 0.75
    assert coverage(fresh, fixed, levels=LEVELS, interval=0.9) == pytest.approx(0.9, abs=0.02)
    assert coverage(fresh, fixed, levels=LEVELS, interval=0.5) == pytest.approx(0.5, abs=0.03)


def test_what_is_certain_stays_certain():
    actual, _ = cases(3, 20)
    certain = np.full((3, 20, 5), 4.0)
    factors = learn_factors(actual, certain, levels=LEVELS)
    slots = np.repeat(factors[:, None], 20, axis=1)
    np.testing.assert_array_equal(stretch(certain, slots, at=LEVELS, levels=LEVELS), certain)


def test_nothing_learned_changes_nothing():
    actual, said = cases(3, 20)
    factors = learn_factors(actual * np.nan, said[0], levels=LEVELS)
    np.testing.assert_array_equal(factors, 1.0)
