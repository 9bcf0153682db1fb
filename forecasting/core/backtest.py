"""Rolling origins: forecast again from where the past stood, and compare with what came."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
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
