"""Yesterday's values with the spread of their own past errors: what every engine must beat."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.naive import seasonal_naive
from forecasting.core.wall import on_wall_clock

DAY = timedelta(days=1)


class SeasonalNaive:
    """`forecasting.core.naive.seasonal_naive`, by default of a day before."""

    name = "seasonal_naive"
    version = "2"

    def __init__(self, lag: timedelta = DAY) -> None:
        self.lag = lag

    @on_wall_clock
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
        """See `forecasting.core.engines.Engine`. NaN where no whole lag before was observed."""
        lag = max(round(self.lag / step), 1)
        return seasonal_naive(history, lag=lag, horizon=horizon, levels=np.asarray(levels))
