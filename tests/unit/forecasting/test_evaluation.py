"""Engines are held against naive methods, on the same hours, and never see what came after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.evaluation import LEVELS, answers_of, ask_of, score, spread_origins
from forecasting.core.naive import persistence, row_quantiles, seasonal_naive
from forecasting.engines import registry
from forecasting.errors import EngineUnavailable, InvalidHistory

# The prophet package drops columns in a way that its own dependency is about to forbid.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def days_of(n_series: int, days: int, *, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    hour = np.arange(24 * days)
    day = 2 + np.sin(2 * np.pi * hour / 24)
    return (
        day * random.gamma(20, 1 / 20, (n_series, len(hour))) * random.uniform(1, 9, (n_series, 1))
    )


def questions_on(history: np.ndarray, *, count: int = 2, **resources: np.ndarray):
    return ask_of(
        {"cpu": history, **resources},
        start=START,
        step=HOUR,
        origins=spread_origins(history.shape[1], horizon=24, step=HOUR, count=count),
        window=42 * 24,
        horizon=24,
    )


def test_origins_cover_three_weeks_and_end_with_the_last_horizon():
    origins = spread_origins(91 * 24, horizon=24, step=HOUR, count=5)
    assert [(91 * 24 - origin) / 24 for origin in origins] == [21, 16, 11, 6, 1]


def test_a_trace_too_short_for_its_origins_is_refused():
    with pytest.raises(InvalidHistory, match="two days of history"):
        spread_origins(22 * 24, horizon=24, step=HOUR, count=5)


def test_an_origin_with_less_history_gets_what_there_is():
    lengths = {q.fold.history.shape[1] for q in questions_on(days_of(2, 45))}
    assert lengths == {42 * 24, 24 * 24}


def test_the_naive_forecast_is_as_good_as_itself():
    questions = questions_on(days_of(12, 30))
    scores = score(questions, [question.naive for question in questions])
    assert scores.wql == {"cpu": 1.0}
    assert scores.relative_wql == scores.scaled_loss == 1.0
    assert scores.share_beating_naive == scores.share_beating_seasonal_naive == 0.0
    assert scores.silent_share == 0.0


def test_the_usual_naive_method_is_one_for_all_series_of_a_resource():
    daily = np.tile(np.random.default_rng(0).uniform(1, 9, (7, 24)), 30 * 24 // 24)
    level = np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.1, (7, 30)), axis=1))
    daily = daily * np.repeat(level, 24, axis=1)
    steps = np.repeat(10.0 * np.arange(1, 31), 24) + np.random.default_rng(2).random((2, 30 * 24))
    steps = np.roll(steps, -2, axis=1)  # a new level every day, two hours before the origin
    questions = questions_on(np.concatenate([daily, steps]))
    nearer = [0.9 * q.naive + 0.1 * q.fold.actual[:, :, None] for q in questions]
    scores = score(questions, nearer)
    assert scores.share_beating_usual_naive == scores.share_beating_seasonal_naive == 1.0
    assert scores.share_beating_naive < 1.0, "steps are better left where they are"


def test_knowing_the_future_loses_nothing_and_beats_everybody():
    questions = questions_on(days_of(12, 30))
    told = [np.repeat(q.fold.actual[:, :, None], len(LEVELS), axis=2) for q in questions]
    scores = score(questions, told)
    assert scores.relative_wql == 0.0
    assert scores.share_beating_naive == 1.0
    assert scores.coverage[0.5] == pytest.approx(0.5)


def test_resources_count_alike_whatever_their_size():
    history = days_of(6, 30)
    small = questions_on(history, memory=days_of(6, 30, seed=1))
    large = questions_on(history, memory=1e9 * days_of(6, 30, seed=1))
    answers = [0.9 * question.naive for question in small]
    scaled = [
        a * (1e9 if q.resource == "memory" else 1) for q, a in zip(small, answers, strict=True)
    ]
    assert score(large, scaled).relative_wql == pytest.approx(score(small, answers).relative_wql)


def test_series_in_groups_are_scored_as_if_they_were_asked_together():
    history = days_of(10, 30)
    together = questions_on(history)
    apart = [
        question
        for group, rows in (("a", slice(0, 3)), ("b", slice(3, 10)))
        for question in ask_of(
            {"cpu": history[rows]},
            start=START,
            step=HOUR,
            origins=spread_origins(history.shape[1], horizon=24, step=HOUR, count=2),
            window=42 * 24,
            horizon=24,
            group=group,
        )
    ]
    one = score(together, [1.1 * q.naive for q in together])
    other = score(apart, [1.1 * q.naive for q in apart])
    assert other.relative_wql == pytest.approx(one.relative_wql)
    assert other.coverage == pytest.approx(one.coverage)
    assert other.decile_coverage[0.5] == pytest.approx(one.decile_coverage[0.5])


def test_resources_asked_about_together_get_the_answers_they_get_one_by_one():
    questions = questions_on(days_of(3, 30), memory=days_of(3, 30, seed=1))
    engine = registry.load("seasonal")
    calls: list[int] = []
    apart = answers_of(engine, questions, step=HOUR)
    together = answers_of(engine, questions, step=HOUR, is_together=True, progress=calls.append)
    assert calls == [2, 2]
    for one, other in zip(apart, together, strict=True):
        np.testing.assert_allclose(one, other)


def test_where_an_engine_is_silent_the_naive_forecast_counts_and_the_share_is_told():
    questions = questions_on(days_of(4, 30))
    silent = [np.full_like(question.naive, np.nan) for question in questions]
    scores = score(questions, silent)
    assert scores.relative_wql == 1.0
    assert scores.silent_share == 1.0


def test_hours_nobody_observed_are_not_scored():
    history = days_of(4, 30)
    whole = questions_on(history)
    history[:, -10:] = np.nan
    holed = questions_on(history)
    assert holed[-1].comparable.sum() == whole[-1].comparable.sum() - 40
    wrong = [q.naive.copy() for q in holed]
    wrong[-1][:, -10:] = 1e9
    assert score(holed, wrong).relative_wql == 1.0


def test_tenths_by_volatility_show_what_the_mean_hides():
    calm, wild = days_of(10, 30), days_of(10, 30, seed=1)
    wild = wild * np.random.default_rng(2).lognormal(0, 1, wild.shape)
    questions = questions_on(np.concatenate([calm, wild]))
    answers = [q.naive.copy() for q in questions]
    for answer in answers:
        answer[:10] = answer[:10, :, 9:10]  # certain, hence wrong
    scores = score(questions, answers)
    assert max(scores.decile_coverage[0.8][:5]) < 0.1 < 0.6 < min(scores.decile_coverage[0.8][5:])


def test_seasonal_naive_takes_the_latest_day_that_was_observed():
    history = np.arange(96.0)[None]
    history[0, 72:75] = np.nan
    told = seasonal_naive(history, lag=24, horizon=30, levels=np.array([0.5]))[0, :, 0]
    np.testing.assert_allclose(told[:4], [72, 73, 74, 99])
    np.testing.assert_allclose(told[24:27], told[:3])


def test_persistence_grows_less_certain_with_time():
    walk = np.cumsum(np.random.default_rng(0).normal(size=(1, 2000)), axis=1) + 1e3
    told = persistence(walk, horizon=24, levels=np.array([0.1, 0.5, 0.9]))[0]
    assert told[23, 2] - told[23, 0] > 3 * (told[0, 2] - told[0, 0])
    assert abs(told[0, 1] - walk[0, -1]) < 0.2


def test_row_quantiles_are_numpys():
    values = np.random.default_rng(0).random((5, 40))
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    levels = np.array([0.05, 0.5, 0.9])
    np.testing.assert_allclose(
        row_quantiles(values, levels), np.nanquantile(values, levels, axis=1).T
    )
    assert np.isnan(row_quantiles(np.full((1, 4), np.nan), levels)).all()


# Enough for the pooled model to learn anything at all; the package itself takes its time for each.
N_SERIES = {"prophet_stock": 3}
MANY = 24


# An engine to be fitted at length is asked at a single origin; those that take minutes are long.
SLOW = {"lstm", "transformer"}
ENGINES = [
    pytest.param(name, marks=[pytest.mark.long, pytest.mark.timeout(900)] if name in SLOW else [])
    for name in registry.installed()
]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("poison", [np.nan, 1e6])
def test_nothing_after_an_origin_is_used(name, poison):
    history = days_of(N_SERIES.get(name, MANY), 30, seed=3)
    (origin,) = origins = [24 * 24]
    asked = {"start": START, "step": HOUR, "origins": origins, "window": 21 * 24, "horizon": 24}
    poisoned = history.copy()
    poisoned[:, origin:] = poison
    answers = [
        answers_of(registry.load(name), ask_of({"cpu": some}, **asked), step=HOUR)[0]
        for some in (history, poisoned)
    ]
    assert np.isfinite(answers[0]).all()
    np.testing.assert_array_equal(answers[0], answers[1])


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_leaves_the_history_as_it_is_and_keeps_to_the_protocol(name):
    n_series = N_SERIES.get(name, MANY)
    history = days_of(n_series, 22, seed=4)
    history[2, 40:90] = np.nan
    kept = history.copy()
    engine = registry.load(name)
    told = engine.forecast(history, start=START, step=HOUR, horizon=12, levels=(0.1, 0.5, 0.9))
    np.testing.assert_array_equal(history, kept)
    assert engine.name == name and engine.version
    assert told.shape == (n_series, 12, 3)
    assert (np.diff(told, axis=2) >= -1e-9).all()
    assert (told >= 0).all()


def test_an_engine_that_cannot_be_had_says_what_is_missing(monkeypatch):
    with pytest.raises(EngineUnavailable, match="No engine 'oracle'; there are: product"):
        registry.load("oracle")
    entry = registry.Entry("nowhere", "Nothing", "no_such_package", "requirements-none.txt")
    monkeypatch.setattr(registry, "ENGINES", {"nothing": entry})
    assert registry.installed() == []
    with pytest.raises(EngineUnavailable, match="no_such_package"):
        registry.load("nothing")
