"""The fleet's boosted model alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.pooled import clock_of, fit_pooled
from forecasting.core.timeline import Timeline
from forecasting.core.wall import on_wall_clock


class Pooled:
    """Gradient-boosted quantiles, learned from all series given; see `forecasting.core.pooled`."""

    name = "pooled"
    version = "3"

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
        """See `forecasting.core.engines.Engine`; NaN throughout with too little to learn from."""
        result = np.full((len(history), horizon, len(levels)), np.nan)
        known = np.flatnonzero(np.isfinite(history).any(axis=1))
        if not len(known):
            return result
        timeline = Timeline(start, step, history.shape[1], horizon)
        clock = clock_of(timeline, holidays, len(history)).take(known)
        model = fit_pooled(history[known], clock=clock, holdout_days=0)
        if model:
            leads = np.arange(1, horizon + 1)
            result[known] = model.quantiles(
                history[known],
                clock=clock,
                days_back=(0,),
                leads=leads,
                levels=np.asarray(levels),
            ).mean(axis=0)[:, 0]
        return result
