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
from forecasting.core.posterior import LAPLACE_SCALE, NOISE_SCALE, SEASONAL_SCALE, TREND_SCALE
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
        model, frame = fit_stock(
            values,
            timeline,
            holidays,
            calendar,
            uncertainty_samples=self.samples,
            **self.settings,
        )
        draws: FloatArray = model.predictive_samples(frame[timeline.n_slots :])["yhat"]
        return draws


def fit_stock(
    values: FloatArray,
    timeline: Timeline,
    holidays: Holidays | None,
    calendar: int = 0,
    **settings: Any,
) -> tuple[Any, Any]:
    """A fitted `prophet.Prophet`, and the frame of all slots with its regressors."""
    # Imported late: loading Prophet takes seconds that a web process need not spend.
    import pandas as pd
    from prophet import Prophet

    for name in ("cmdstanpy", "prophet"):
        logging.getLogger(name).setLevel(logging.WARNING)
    model = Prophet(**settings)
    frame = pd.DataFrame({"ds": pd.to_datetime(timeline.wall_s, unit="s")})
    if holidays:
        for column, name in enumerate(holidays.names):
            frame[name] = holidays.flags[calendar, :, column].astype(float)
            model.add_regressor(name, prior_scale=10.0, standardize=False)
    known = frame[: timeline.n_slots].assign(y=values)
    model.fit(known.dropna(subset=["y"]))
    return model, frame


def log_posterior(model: Any) -> float:
    """Density of Prophet's Stan model at its own estimate, constants left out.

    model : fitted, with default priors; what `ProphetFit.log_posterior` is compared with
    """
    features = model.make_all_seasonality_features(model.history)[0].to_numpy()
    t, y = model.history["t"].to_numpy(), model.history["y_scaled"].to_numpy()
    slope, offset = model.params["k"][0, 0], model.params["m"][0, 0]
    changes, effects = model.params["delta"][0], model.params["beta"][0]
    noise = model.params["sigma_obs"][0, 0]
    trend = slope * t + offset + np.maximum(t[:, None] - model.changepoints_t, 0) @ changes
    error = y - trend - features @ effects
    return float(
        -len(y) * np.log(noise)
        - (error**2).sum() / (2 * noise**2)
        - (slope**2 + offset**2) / (2 * TREND_SCALE**2)
        - np.abs(changes).sum() / LAPLACE_SCALE
        - noise**2 / (2 * NOISE_SCALE**2)
        - (effects**2).sum() / (2 * SEASONAL_SCALE**2)
    )
