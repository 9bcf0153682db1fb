"""How well an engine forecasts a set of machines: rolling origins, held against naive methods.

Each resource at each origin is one question; every engine is asked the same ones and its answers
are scored on the same hours. Losses are relative to the seasonal-naive forecast of yesterday, so
resources with different units can be averaged (geometrically), and once more relative to each
series' own naive loss, because a few huge machines decide a weighted loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby

import numpy as np

from forecasting.core.arrays import BoolArray, FloatArray
from forecasting.core.backtest import Fold, folds
from forecasting.core.calendar import Holidays
from forecasting.core.engines import Engine
from forecasting.core.naive import persistence, seasonal_naive
from forecasting.core.scores import covered_share, pinball_loss
from forecasting.errors import InvalidHistory

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
INTERVALS = (0.5, 0.8, 0.9)
N_DECILES = 10
DAY, WEEK = timedelta(days=1), timedelta(weeks=1)

Series = tuple[str, str]  # resource and group


@dataclass(frozen=True)
class Question:
    """One resource at one origin, and what the naive methods make of it.

    group : which series; the questions of one resource and group hold the same ones in order
    comparable : shape (n_series, horizon), hours that were observed and that the seasonal-naive
        forecast has something to say about; only these are scored
    naive : shape (n_series, horizon, n_levels), seasonal-naive of yesterday
    naive_losses : shape (3, n_series), pinball loss summed over hours and levels: of yesterday's
        value, of last week's, of the last one seen
    """

    resource: str
    group: str
    fold: Fold
    comparable: BoolArray
    naive: FloatArray
    naive_losses: FloatArray

    @property
    def actual(self) -> FloatArray:
        """What happened, NaN where it is not scored."""
        return np.where(self.comparable, self.fold.actual, np.nan)


@dataclass(frozen=True)
class Scores:
    """Of one engine on one set of questions. Ratios without unit; lower losses are better.

    wql : by resource, weighted quantile loss relative to the seasonal-naive forecast's
    relative_wql : their geometric mean
    scaled_loss : mean over series of its loss relative to its own naive loss
    coverage : by interval, share of observations inside, ties counted fractionally
    decile_coverage : by interval, the same for each tenth of the series by volatility (standard
        deviation over mean), calmest first
    share_beating_naive : of the series with any loss, those better than the best of the three
        naive methods, which is chosen for each series in hindsight
    share_beating_usual_naive : those better than the one of the three that loses least on the
        whole resource, chosen once for all its series
    share_beating_seasonal_naive : those better than yesterday's value
    silent_share : of hours the engine had nothing to say about; the naive forecast was scored
    """

    wql: dict[str, float]
    relative_wql: float
    scaled_loss: float
    coverage: dict[float, float]
    decile_coverage: dict[float, tuple[float, ...]]
    share_beating_naive: float
    share_beating_usual_naive: float
    share_beating_seasonal_naive: float
    silent_share: float


def spread_origins(n_slots: int, *, horizon: int, step: timedelta, count: int) -> list[int]:
    """Origins evenly spread over the last three weeks, the latest with its horizon just observed.

    Whole days apart, and in steps that are no multiple of a week, so that weekdays differ.
    """
    per_day = round(DAY / step)
    days = np.linspace(0, 20, count).round().astype(int)
    origins = [n_slots - horizon - int(each) * per_day for each in days[::-1]]
    if origins[0] < 2 * per_day:
        raise InvalidHistory(
            f"{n_slots} slots are too few: the first of {count} origins over the last three weeks"
            " needs two days of history"
        )
    return origins


def ask_of(
    histories: Mapping[str, FloatArray],
    *,
    start: datetime,
    step: timedelta,
    origins: Sequence[int],
    window: int,
    horizon: int,
    levels: Sequence[float] = LEVELS,
    holidays: Holidays | None = None,
    group: str = "",
) -> list[Question]:
    """The questions: every resource at every origin.

    histories : by resource, shape (n_series, n_slots), NaN where missing
    origins : first slots to be forecast; one with less than `window` slots before it gets all
        there are
    holidays : of all slots; every resource holds the same subjects
    """
    return [
        _question(resource, group, fold, step=step, levels=np.asarray(levels))
        for origin in origins
        for resource, history in histories.items()
        for fold in folds(
            history,
            start=start,
            step=step,
            origins=[origin],
            window=min(window, origin),
            horizon=horizon,
            holidays=holidays,
        )
    ]


def _question(
    resource: str, group: str, fold: Fold, *, step: timedelta, levels: FloatArray
) -> Question:
    horizon = fold.actual.shape[1]
    day, week = round(DAY / step), round(WEEK / step)
    yesterday = seasonal_naive(fold.history, lag=day, horizon=horizon, levels=levels)
    last_week = seasonal_naive(fold.history, lag=week, horizon=horizon, levels=levels)
    last_seen = persistence(fold.history, horizon=horizon, levels=levels)
    comparable: BoolArray = np.isfinite(fold.actual) & np.isfinite(yesterday).all(axis=2)
    actual = np.where(comparable, fold.actual, np.nan)
    losses = [
        _loss(actual, np.where(np.isfinite(each), each, yesterday), levels)
        for each in (yesterday, last_week, last_seen)
    ]
    return Question(resource, group, fold, comparable, yesterday, np.stack(losses))


def answers_of(
    engine: Engine,
    questions: Sequence[Question],
    *,
    step: timedelta,
    levels: Sequence[float] = LEVELS,
    is_together: bool = False,
    progress: Callable[[int], object] = lambda answered: None,
) -> list[FloatArray]:
    """What an engine says to each question.

    is_together : ask about all resources of an origin in one call, as the product does; else one
        by one. The questions of one group must hold the same subjects.
    progress : told after each call how many questions it answered
    """
    answers: list[FloatArray] = []
    for asked in _at_once(questions) if is_together else [[each] for each in questions]:
        fold = asked[0].fold
        subjects = np.tile(np.arange(len(fold.history)), len(asked))
        said = engine.forecast(
            np.concatenate([question.fold.history for question in asked]),
            start=fold.start,
            step=step,
            horizon=fold.actual.shape[1],
            levels=levels,
            holidays=fold.holidays.take(subjects) if fold.holidays else None,
        )
        answers += np.split(said, len(asked))
        progress(len(asked))
    return answers


def _at_once(questions: Sequence[Question]) -> list[list[Question]]:
    """Neighbouring questions of one group and origin."""
    same = groupby(
        questions, key=lambda each: (each.group, each.fold.start, each.fold.history.shape)
    )
    return [list(some) for _, some in same]


def score(
    questions: Sequence[Question],
    answers: Sequence[FloatArray],
    *,
    levels: Sequence[float] = LEVELS,
) -> Scores:
    """Score answers, one to each question, in order."""
    level = np.asarray(levels)
    loss: dict[Series, FloatArray] = {}
    naive: dict[Series, FloatArray] = {}
    inside: dict[Series, list[list[FloatArray]]] = {}
    silent = asked = 0
    for question, answer in zip(questions, answers, strict=True):
        spoken: BoolArray = np.asarray(np.isfinite(answer).all(axis=2))
        silent += int((question.comparable & ~spoken).sum())
        asked += int(question.comparable.sum())
        said = np.where(spoken[:, :, None], answer, question.naive)
        of = (question.resource, question.group)
        loss[of] = loss.get(of, 0.0) + _loss(question.actual, said, level)
        naive[of] = naive.get(of, 0.0) + question.naive_losses
        inside.setdefault(of, []).append(
            [covered_share(question.actual, said, levels=level, interval=i) for i in INTERVALS]
        )
    wql = _relative(loss, {of: each[0] for of, each in naive.items()})
    # (n_intervals, n_series of all resources, hours of all origins)
    covered = np.concatenate(
        [np.concatenate(np.array(each), axis=2) for each in inside.values()], axis=1
    )
    calmest_first = np.argsort(_volatility(questions), kind="stable")
    tenths = np.array_split(calmest_first, N_DECILES)
    all_loss = np.concatenate(list(loss.values()))
    all_naive = np.concatenate(list(naive.values()), axis=1)
    usual = [each[_usual(naive, of[0])] for of, each in naive.items()]
    return Scores(
        wql=wql,
        relative_wql=_geometric_mean(list(wql.values())),
        scaled_loss=_mean(all_loss / _positive(all_naive[0])),
        coverage={i: _mean(covered[n]) for n, i in enumerate(INTERVALS)},
        decile_coverage={
            i: tuple(_mean(covered[n][some]) for some in tenths) for n, i in enumerate(INTERVALS)
        },
        share_beating_naive=_share_below(all_loss, all_naive.min(axis=0)),
        share_beating_usual_naive=_share_below(all_loss, np.concatenate(usual)),
        share_beating_seasonal_naive=_share_below(all_loss, all_naive[0]),
        silent_share=silent / max(asked, 1),
    )


def _relative(
    loss: Mapping[Series, FloatArray], naive: Mapping[Series, FloatArray]
) -> dict[str, float]:
    """By resource, the losses of all its series against the naive forecast's."""
    resources = list(dict.fromkeys(resource for resource, _ in loss))
    return {
        name: _ratio(
            sum(each.sum() for (resource, _), each in loss.items() if resource == name),
            sum(each.sum() for (resource, _), each in naive.items() if resource == name),
        )
        for name in resources
    }


def _usual(naive: Mapping[Series, FloatArray], resource: str) -> int:
    """Which naive method loses least on a resource, relative to each series' scale."""
    losses = np.concatenate([each for (name, _), each in naive.items() if name == resource], axis=1)
    scale = losses.mean(axis=0)
    return int(np.argmin((losses[:, scale > 0] / scale[scale > 0]).sum(axis=1)))


def _geometric_mean(ratios: Sequence[float]) -> float:
    """Of those that are known; 0 as soon as one is."""
    known = np.array([each for each in ratios if np.isfinite(each)])
    if not len(known):
        return float("nan")
    with np.errstate(divide="ignore"):
        return float(np.exp(np.mean(np.log(known))))


def _loss(actual: FloatArray, said: FloatArray, levels: FloatArray) -> FloatArray:
    """Pinball loss of each series, summed over hours and levels; (n_series,)."""
    total: FloatArray = np.nansum(pinball_loss(actual, said, levels=levels), axis=(1, 2))
    return total


def _volatility(questions: Sequence[Question]) -> FloatArray:
    """Standard deviation over mean of each series, in the history of its latest question."""
    latest = {(each.resource, each.group): each.fold.history for each in questions}
    spreads = []
    for history in latest.values():
        seen = np.isfinite(history)
        count = np.maximum(seen.sum(axis=1), 1)
        mean = np.where(seen, history, 0.0).sum(axis=1) / count
        away = np.where(seen, history - mean[:, None], 0.0)
        spread = np.sqrt((away**2).sum(axis=1) / count)
        spreads.append(np.divide(spread, np.abs(mean), out=0.0 * mean, where=mean != 0))
    return np.concatenate(spreads)


def _share_below(loss: FloatArray, other: FloatArray) -> float:
    decided = (loss > 0) | (other > 0)
    return _ratio((loss < other).sum(), decided.sum())


def _positive(values: FloatArray) -> FloatArray:
    return np.where(values > 0, values, np.nan)


def _mean(values: FloatArray) -> float:
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if seen.size else float("nan")


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
