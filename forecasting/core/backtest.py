"""Rolling origins: forecast again from where the past stood, and compare with what came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.engines import Engine
from forecasting.errors import InvalidHistory


@dataclass(frozen=True)
class Fold:
    """One origin: what was known there, and what then happened.

    start : beginning of slot 0 of `history`
    history : shape (n_series, window); actual : shape (n_series, horizon)
    """

    start: datetime
    history: FloatArray
    actual: FloatArray
    holidays: Holidays | None


def rolling_origins(
    n_slots: int, *, horizon: int, window: int, every: int, count: int
) -> list[int]:
    """The last `count` origins, `every` slots apart, the latest with its horizon just observed.

    An origin is the first slot to be forecast. Those with less than a full window are left out.
    """
    last = n_slots - horizon
    return [o for o in range(last - every * (count - 1), last + 1, every) if o >= window]


def folds(
    history: FloatArray,
    *,
    start: datetime,
    step: timedelta,
    origins: Sequence[int],
    window: int,
    horizon: int,
    holidays: Holidays | None = None,
) -> Iterator[Fold]:
    """Cut a history at each origin; nothing at or after an origin is in its fold's history."""
    for origin in origins:
        if origin < window or origin + horizon > history.shape[1]:
            raise InvalidHistory(
                f"origin {origin} needs slots {origin - window} to {origin + horizon}, "
                f"the history has {history.shape[1]}"
            )
        first = origin - window
        yield Fold(
            start=(start.astimezone(UTC) + first * step).astimezone(start.tzinfo),
            history=history[:, first:origin],
            actual=history[:, origin : origin + horizon],
            holidays=holidays.between(first, origin + horizon) if holidays else None,
        )


def backtest(
    engine: Engine,
    cuts: Sequence[Fold],
    *,
    step: timedelta,
    levels: Sequence[float],
    score: Callable[[FloatArray, FloatArray], FloatArray],
) -> FloatArray:
    """Score of an engine at each fold, stacked; `score(actual, quantiles)` says how."""
    return np.stack(
        [
            score(
                cut.actual,
                engine.forecast(
                    cut.history,
                    start=cut.start,
                    step=step,
                    horizon=cut.actual.shape[1],
                    levels=levels,
                    holidays=cut.holidays,
                ),
            )
            for cut in cuts
        ]
    )
