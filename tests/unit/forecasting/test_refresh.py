"""Bringing the last hours into a standing forecast, on data whose dependence is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri

from forecasting.core.profiles import LEVELS
from forecasting.core.refresh import (
    LEADS_H,
    Memory,
    condition,
    learn_memory,
    learn_persistence,
    normal_scores,
    pairs_ahead,
)

LEVEL = np.array(LEVELS)
DAY = 24
PEOPLE = 1500


def fleet(rho: float, *, missing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Three days of log-normal demand whose hours go together by `rho`, and its quantiles as
    somebody forecasts them who does not know of that."""
    rng = np.random.default_rng(3)
    score = np.empty((PEOPLE, 3 * DAY))
    score[:, 0] = rng.normal(size=PEOPLE)
    for hour in range(1, 3 * DAY):
        fresh = rng.normal(size=PEOPLE)
        score[:, hour] = rho * score[:, hour - 1] + np.sqrt(1 - rho**2) * fresh
    actual = np.exp(1 + 0.5 * score)
    actual[rng.random(actual.shape) < missing] = np.nan
    quantiles = np.broadcast_to(np.exp(1 + 0.5 * ndtri(LEVEL)), (*actual.shape, len(LEVEL)))
    return actual, quantiles


def refreshed(actual: np.ndarray, quantiles: np.ndarray, *, now: int) -> np.ndarray:
    scores = normal_scores(actual[:, :now], quantiles[:, :now], levels=LEVEL)
    memory = learn_memory([scores[:, :DAY], scores[:, DAY:now]])
    return condition(quantiles[:, now:], scores, levels=LEVEL, memory=memory)


def loss(actual: np.ndarray, quantiles: np.ndarray) -> float:
    above = actual[..., None] - quantiles
    return float(np.nanmean(np.where(above > 0, LEVEL * above, (LEVEL - 1) * above)))


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_where_hours_go_together_the_next_ones_are_better_known(missing: float) -> None:
    actual, standing = fleet(0.8, missing=missing)
    now = 2 * DAY + 8
    new = refreshed(actual, standing, now=now)
    ahead, was = actual[:, now:], standing[:, now:]
    assert loss(ahead[:, :1], new[:, :1]) < 0.75 * loss(ahead[:, :1], was[:, :1])
    assert loss(ahead[:, :4], new[:, :4]) < 0.9 * loss(ahead[:, :4], was[:, :4])
    assert loss(ahead[:, 12:], new[:, 12:]) < 1.02 * loss(ahead[:, 12:], was[:, 12:])
    for i, level in enumerate(LEVEL):
        known = np.isfinite(ahead[:, :6])
        assert abs((ahead[:, :6] <= new[:, :6, i])[known].mean() - level) < 0.035
    assert (np.diff(new, axis=2) >= 0).all()


def test_noise_leaves_the_forecast_as_it_was() -> None:
    actual, standing = fleet(0.0)
    now = 2 * DAY + 8
    assert np.array_equal(refreshed(actual, standing, now=now), standing[:, now:])


def test_nothing_observed_leaves_the_forecast_as_it_was() -> None:
    _, standing = fleet(0.5)
    scores = np.full((PEOPLE, 5), np.nan)
    memory = Memory(np.array([0.5, 0.2, 0.1]))
    new = condition(standing, scores, levels=LEVEL, memory=memory)
    assert np.array_equal(new, standing)
    assert not learn_memory([scores]).weights.any()


def test_a_few_hours_of_a_few_series_teach_nothing() -> None:
    scores = np.random.default_rng(1).normal(size=(3, 6))
    assert not learn_memory([scores]).weights.any()


def test_scores_of_idle_and_certain_hours() -> None:
    half_idle = np.array([0, 0, 0, 0, 1.0, 2, 3])
    certain = np.full(7, 4.0)
    quantiles = np.stack([half_idle, half_idle, half_idle, certain, certain, certain])[None]
    actual = np.array([[0.0, 1.5, 99, 4, 5, 3]])
    scores = normal_scores(actual, quantiles, levels=LEVEL)[0]
    assert scores[0] == pytest.approx(ndtri(0.05) / 2), "in the middle of what is zero"
    assert ndtri(0.75) < scores[1] < ndtri(0.9)
    assert list(scores[2:]) == pytest.approx([3, 0, 3, -3])


def test_demand_is_never_moved_below_zero_and_idle_hours_stay_idle() -> None:
    standing = np.tile([0, 0, 0, 0.1, 1, 2, 3.0], (1, DAY, 1))
    scores = np.full((1, 4), -3.0)
    memory = Memory(np.array([0.3, 0.3, 0.3]))
    new = condition(standing, scores, levels=LEVEL, memory=memory)
    assert (new >= 0).all() and new[0, 0, 3] == 0


def test_staying_is_learned_as_often_as_it_happens() -> None:
    """A state that is drawn anew with one chance in five every hour."""
    rng = np.random.default_rng(5)
    state = np.empty((500, 2 * DAY))
    state[:, 0] = rng.random(500) < 0.4
    for hour in range(1, 2 * DAY):
        anew = rng.random(500) < 0.2
        state[:, hour] = np.where(anew, rng.random(500) < 0.4, state[:, hour - 1])
    lead, same, chance, _ = pairs_ahead(state, np.where(state > 0, 0.4, 0.6))
    learned = learn_persistence(lead, same, chance)
    assert np.allclose(learned.weights[:5], 0.8 ** LEADS_H[:5], atol=0.05)
    assert learned.weights[-1] < 0.05
    assert learned.at(np.array([100]))[0] == 0


def test_hours_that_were_sure_anyway_teach_nothing_of_staying() -> None:
    """Nights, in which nobody works and nobody expects it, beside days that are drawn anew."""
    state = np.zeros((500, 2 * DAY))
    chance = np.full(state.shape, 0.999)
    days = np.random.default_rng(8).random((500, 8)) < 0.5
    state[:, 9:17], chance[:, 9:17] = days, 0.5
    lead, same, likely, first = pairs_ahead(state, chance)
    idle = first == 0
    assert (learn_persistence(lead[idle], same[idle], likely[idle]).weights < 0.1).all()


def test_what_is_drawn_anew_every_hour_does_not_stay() -> None:
    state = (np.random.default_rng(6).random((500, DAY)) < 0.4).astype(float)
    lead, same, chance, _ = pairs_ahead(state, np.where(state > 0, 0.4, 0.6))
    assert (learn_persistence(lead, same, chance).weights < 0.05).all()


def test_without_a_pair_of_sightings_nothing_stays() -> None:
    unseen = np.full((4, 6), -1)
    lead, same, chance, _ = pairs_ahead(unseen, np.zeros((4, 6)))
    assert not learn_persistence(lead, same, chance).weights.any()
