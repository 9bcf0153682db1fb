"""The prophet package itself, one series at a time: the reference the batch is held against.

Also the way to settings the batch does not cover (logistic growth, multiplicative seasonality,
sampling). It takes a tenth of a second and more for a series.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.timeline import Timeline


class ProphetStock:
    """Stock Prophet with any of its own settings.

    seed : of the simulated trend changes its intervals come from
    settings : keyword arguments of `prophet.Prophet`
    """

    name = "prophet_stock"
    version = "1"

    def __init__(self, *, seed: int = 0, samples: int = 1000, **settings: Any) -> None:
        self.seed = seed
        self.samples = samples
        self.settings = settings

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
        """See `forecasting.core.engines.Engine`. NaN for series with fewer than two observations.

        Sampling draws from numpy's global generator, as Prophet does; its state is put back.
        """
        timeline = Timeline(start, step, history.shape[1], horizon)
        calendar = holidays.calendar_of(len(history)) if holidays else np.zeros(len(history))
        quantiles = np.full((len(history), horizon, len(levels)), np.nan)
        state = np.random.get_state()
        np.random.seed(self.seed)
        try:
            for number, values in enumerate(history):
                if np.isfinite(values).sum() >= 2:
                    draws = self._draw(values, timeline, holidays, int(calendar[number]))
                    quantiles[number] = np.quantile(draws, levels, axis=1).T
        finally:
            np.random.set_state(state)
        never_negative = ~(history < 0).any(axis=1)
        quantiles[never_negative] = np.maximum(quantiles[never_negative], 0.0)
        return quantiles

    def _draw(
        self, values: FloatArray, timeline: Timeline, holidays: Holidays | None, calendar: int
    ) -> FloatArray:
        """Predictive draws of the future slots, shape (horizon, samples)."""
        # Imported late: loading Prophet takes seconds that a web process need not spend.
        import pandas as pd
        from prophet import Prophet

        logging.getLogger("cmdstanpy").setLevel(logging.WARNING)
        times = pd.to_datetime(timeline.wall_s, unit="s")
        model = Prophet(uncertainty_samples=self.samples, **self.settings)
        frame = pd.DataFrame({"ds": times})
        if holidays:
            for column, name in enumerate(holidays.names):
                frame[name] = holidays.flags[calendar, :, column].astype(float)
                model.add_regressor(name, prior_scale=10.0, standardize=False)
        known = frame[: timeline.n_slots].assign(y=values)
        model.fit(known.dropna(subset=["y"]))
        draws: FloatArray = model.predictive_samples(frame[timeline.n_slots :])["yhat"]
        return draws
