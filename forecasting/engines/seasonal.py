"""Quantiles of comparable hours before, without a model of how they came about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import numpy as np

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.seasonal import Habit, habit_quantiles
from forecasting.core.timeline import Timeline
from forecasting.core.wall import on_wall_clock

KIND_OF_DAY = Habit("kind of day", 14.0, 1, 1.0, 0.1)


class Seasonal:
    """The same hour on the same kind of day, the last weeks counting most."""

    name = "seasonal"
    version = "2"

    def __init__(self, habit: Habit = KIND_OF_DAY) -> None:
        self.habit = habit

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
        """See `forecasting.core.engines.Engine`. NaN where no comparable slot was observed."""
        timeline = Timeline(start, step, history.shape[1], horizon)
        level = np.asarray(levels, dtype=np.float64)
        quantiles = np.full((len(history), horizon, len(level)), np.nan)
        calendar = holidays.calendar_of(len(history)) if holidays else np.zeros(len(history))
        for each in np.unique(calendar):
            some = np.flatnonzero(calendar == each)
            quantiles[some] = habit_quantiles(
                history[some],
                timeline=timeline,
                habit=self.habit,
                days_off=holidays.days_off(int(each)) if holidays else None,
                leads=np.arange(1, horizon + 1),
                levels=level,
            )[:, 0]
        return quantiles
