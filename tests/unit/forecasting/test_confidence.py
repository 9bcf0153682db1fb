"""How sure forecasts of whereabouts are, and should be."""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.core.confidence import Confidence, Told, fit_confidence


def told_by(random: np.random.Generator, *, power: float, n_cases: int = 4000) -> Told:
    """Cases of three places and elsewhere, whose chances were raised to 1 / power when told."""
    chance = random.dirichlet([2.0, 1.0, 0.5, 0.3], n_cases)
    outcome = (random.random(n_cases)[:, None] > np.cumsum(chance, axis=1)).sum(axis=1)
    told = chance ** (1 / power)
    told /= told.sum(axis=1, keepdims=True)
    return Told(
        case=np.repeat(np.arange(n_cases), 3),
        probability=told[:, :3].ravel(),
        elsewhere=told[:, 3],
        happened=(outcome[:, None] == np.arange(3)).ravel(),
        lead_h=random.uniform(1, 168, n_cases),
        importance=np.ones(n_cases),
    )


@pytest.mark.parametrize("power", [0.6, 1.0, 1.6])
def test_the_power_that_was_lacking_is_found(power: float) -> None:
    told = told_by(np.random.default_rng(1), power=power)
    found = fit_confidence([told]).power(np.array([6.0, 24.0, 168.0]))
    assert found == pytest.approx(np.full(3, power), rel=0.12)


def test_lessons_count_together() -> None:
    random = np.random.default_rng(2)
    some = [told_by(random, power=1.5, n_cases=1500) for _ in range(3)]
    assert fit_confidence(some).power(np.array([24.0])) == pytest.approx([1.5], rel=0.12)


def test_with_nothing_to_learn_from_nothing_changes() -> None:
    confidence = fit_confidence([])
    case, probability = np.array([0, 0, 1]), np.array([0.5, 0.2, 0.9])
    elsewhere = np.array([0.3, 0.1])
    some, away = confidence.apply(case, probability, elsewhere, np.array([1.0, 100.0]))
    assert some == pytest.approx(probability)
    assert away == pytest.approx(elsewhere)


def test_answers_sum_to_one_and_the_impossible_stays_so() -> None:
    case, probability = np.array([0, 0, 1, 1]), np.array([0.5, 0.0, 0.9, 0.0])
    some, away = Confidence(level=0.5).apply(case, probability, np.array([0.3, 0.1]), np.zeros(2))
    assert np.bincount(case, some) + away == pytest.approx([1.0, 1.0])
    assert some[[1, 3]].tolist() == [0.0, 0.0]
    assert some[0] > 0.5 / 0.8
