"""Scores: small enough to check by hand."""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.core.scores import (
    brier_score,
    coverage,
    expected_calibration_error,
    log_loss,
    pinball_loss,
    probability_integral_transform,
    weighted_quantile_loss,
)

LEVELS = np.arange(1, 20) / 20


def test_pinball_loss_weighs_the_two_sides_by_the_level():
    loss = pinball_loss(np.array([10.0, 10.0]), np.array([[8.0], [12.0]]), levels=[0.9])
    np.testing.assert_allclose(loss, [[1.8], [0.2]])


def test_pinball_loss_is_missing_where_the_observation_is():
    assert np.isnan(pinball_loss(np.array([np.nan]), np.array([[1.0]]), levels=[0.5])).all()


def test_pinball_loss_is_least_at_the_true_quantile():
    y = np.random.default_rng(0).exponential(size=20_000)
    guesses = np.quantile(y, [0.6, 0.7, 0.8])
    losses = [pinball_loss(y, np.full((len(y), 1), q), levels=[0.7]).mean() for q in guesses]
    assert np.argmin(losses) == 1


def test_weighted_quantile_loss_of_the_median_is_relative_absolute_error():
    y, q = np.array([1.0, 3.0, np.nan]), np.array([[2.0], [3.0], [9.0]])
    assert weighted_quantile_loss(y, q, levels=[0.5]) == pytest.approx(1 / 4)


def test_weighted_quantile_loss_of_nothing_is_unknown():
    assert np.isnan(weighted_quantile_loss(np.zeros(3), np.ones((3, 1)), levels=[0.5]))


def test_coverage_of_the_truth_is_the_interval():
    y = np.random.default_rng(1).normal(size=(500, 40))
    q = np.broadcast_to(np.quantile(y, LEVELS), (*y.shape, len(LEVELS)))
    for interval in (0.5, 0.8, 0.9):
        assert coverage(y, q, levels=LEVELS, interval=interval) == pytest.approx(interval, abs=0.01)


def test_coverage_counts_ties_fractionally():
    random = np.random.default_rng(2)
    y = np.where(random.random(50_000) < 0.6, 0.0, random.exponential(size=50_000))
    q = np.broadcast_to(np.quantile(y, LEVELS), (*y.shape, len(LEVELS)))
    for interval in (0.5, 0.8, 0.9):
        assert coverage(y, q, levels=LEVELS, interval=interval) == pytest.approx(interval, abs=0.02)


def test_coverage_is_low_where_intervals_are_too_narrow():
    y = np.random.default_rng(3).normal(size=5_000)
    q = np.broadcast_to(np.quantile(y, LEVELS) / 3, (*y.shape, len(LEVELS)))
    assert coverage(y, q, levels=LEVELS, interval=0.9) < 0.5


def test_coverage_needs_the_ends_of_the_interval():
    with pytest.raises(ValueError, match="needs the level"):
        coverage(np.zeros(2), np.zeros((2, 2)), levels=[0.25, 0.75], interval=0.9)


def test_transform_spans_the_levels_a_tie_covers():
    q = np.array([[0.0, 0.0, 0.0, 4.0]])
    low, high = probability_integral_transform(
        np.array([0.0, 2.0, 9.0]), np.repeat(q, 3, axis=0), levels=[0.2, 0.4, 0.6, 0.8]
    )
    np.testing.assert_allclose(low, [0.0, 0.7, 0.8])
    np.testing.assert_allclose(high, [0.7, 0.7, 1.0])


def test_log_loss_has_a_floor():
    assert log_loss(np.array([1.0, 0.0])) == pytest.approx(-np.log(1e-4) / 2)


def test_brier_score_of_certainty_and_of_the_opposite():
    outcome = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert brier_score(outcome, outcome) == 0
    assert brier_score(1 - outcome, outcome) == 2


def test_calibration_error_of_honest_and_boastful_probabilities():
    random = np.random.default_rng(4)
    probability = random.random(40_000)
    happened = random.random(40_000) < probability
    assert expected_calibration_error(probability, happened) < 0.02
    assert expected_calibration_error(np.sqrt(probability), happened) > 0.1
