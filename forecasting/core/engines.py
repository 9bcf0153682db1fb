"""What every forecast engine is asked, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Protocol

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
