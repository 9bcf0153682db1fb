"""What the rest of the product calls, as an engine, so that it is scored like the others."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from forecasting.core import fleet
from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays


class Product:
    """`forecasting.core.fleet.forecast_fleet`: all engines combined and calibrated."""

    name = "product"
    version = fleet.ENGINE_VERSION

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
        """See `forecasting.core.engines.Engine`."""
        return fleet.forecast_fleet(
            history, start=start, step=step, horizon=horizon, levels=levels, holidays=holidays
        )
