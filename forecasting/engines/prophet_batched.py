"""Prophet's default model for a whole fleet in one batch: the house model."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.prophet import fit_prophet
from forecasting.core.timeline import Timeline


class ProphetBatched:
    """Trend, weekly and daily rhythm and holidays, as `forecasting.core.prophet` fits them."""

    name = "prophet_batched"
    version = "1"

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
        """See `forecasting.core.engines.Engine`. Not below zero where the history is not."""
        timeline = Timeline(start, step, history.shape[1], horizon)
        quantiles = fit_prophet(history, timeline=timeline, holidays=holidays).quantiles(levels)
        never_negative = ~(history < 0).any(axis=1)
        quantiles[never_negative] = np.maximum(quantiles[never_negative], 0.0)
        return quantiles
