"""Rolling origins never show an engine what came after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from forecasting.core.backtest import folds
from forecasting.core.evaluation import LEVELS, answers_of, ask_of
from forecasting.engines.prophet_batched import ProphetBatched
from forecasting.engines.prophet_stock import ProphetStock
from forecasting.engines.seasonal import Seasonal
from forecasting.errors import InvalidHistory

# The prophet package drops columns in a way that its own dependency is about to forbid.
pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword:DeprecationWarning")

START = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_folds_hold_what_was_known_and_what_came():
    history = np.arange(20.0)[None]
    (fold,) = folds(history, start=START, step=HOUR, origins=[12], window=5, horizon=3)
    assert fold.start == START + 7 * HOUR
    np.testing.assert_array_equal(fold.history, [[7, 8, 9, 10, 11]])
    np.testing.assert_array_equal(fold.actual, [[12, 13, 14]])


def test_an_origin_without_its_window_is_refused():
    with pytest.raises(InvalidHistory, match="origin 3"):
        list(folds(np.ones((1, 20)), start=START, step=HOUR, origins=[3], window=5, horizon=3))


@pytest.mark.parametrize("engine", [Seasonal(), ProphetBatched(), ProphetStock(samples=50)])
def test_engines_recognise_a_daily_wave(engine):
    hour = np.arange(24 * 18)
    history = 2 + np.sin(2 * np.pi * hour / 24)[None] * [[1], [5]]
    history = np.maximum(history, 0) + np.random.default_rng(0).random(history.shape) / 10
    origins = [16 * 24, 17 * 24]
    questions = ask_of(
        {"cpu": history}, start=START, step=HOUR, origins=origins, window=15 * 24, horizon=24
    )
    median = LEVELS.index(0.5)
    for question, said in zip(questions, answers_of(engine, questions, step=HOUR), strict=True):
        error = np.abs(said[:, :, median] - question.actual).mean(axis=1)
        assert (error < 0.5 * history.std(axis=1)).all()


def test_the_stock_engine_repeats_itself_and_leaves_the_global_generator_alone():
    history = np.random.default_rng(0).random((1, 60))
    ask = {"start": START, "step": HOUR, "horizon": 3, "levels": (0.1, 0.9)}
    np.random.seed(7)
    first = ProphetStock(samples=50).forecast(history, **ask)
    drawn = np.random.random()
    np.random.seed(7)
    assert drawn == np.random.random()
    np.testing.assert_array_equal(first, ProphetStock(samples=50).forecast(history, **ask))
