"""What every forecast engine is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, Self, runtime_checkable

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays


class Engine(Protocol):
    """A way to forecast demand. The same input gives the same forecast."""

    @property
    def name(self) -> str:
        """As recorded with each forecast, `prophet_batched` for example."""

    @property
    def version(self) -> str:
        """Changes whenever the same input would give another forecast."""

    def forecast(
        self,
        history: FloatArray,
        *,
        start: datetime,
        step: timedelta,
        horizon: int,
        levels: Sequence[float],
        holidays: Holidays | None = None,
    ) -> FloatArray:
        """Quantiles of the slots after the last, shape (n_series, horizon, n_levels).

        history : shape (n_series, n_slots), NaN where missing
        start : aware beginning of slot 0; step : length of a slot
        """


@dataclass(frozen=True)
class Observed:
    """Series on one clock to learn from.

    history : shape (n_series, n_slots), NaN where missing
    start : aware beginning of slot 0
    holidays : of these slots and of the horizon after them
    """

    history: FloatArray
    start: datetime
    holidays: Holidays | None = None


@runtime_checkable
class Trainable(Engine, Protocol):
    """An engine that can learn once and then forecast from many origins.

    Without, it learns from the history of every single call.
    """

    def train(
        self,
        past: Sequence[Observed],
        *,
        step: timedelta,
        horizon: int,
        progress: Callable[[int, int], None] = ...,
    ) -> Self:
        """This engine, having learnt; it then forecasts up to `horizon` slots of length `step`.

        past : groups of series, all with the same slots; progress : told steps done of how many
        """
