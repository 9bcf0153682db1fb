"""Slots of elapsed time laid onto the wall clock, and back.

People come at nine by the clock on the wall. Engines step back by whole days, and a day in which
the clock changed is an hour longer or shorter than the others. So they are shown a grid on which
every day has the same slots: what the clock skips in spring is a missing slot, the hours it repeats
in autumn are one. What they say of a slot of the grid is then said of every real slot at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, TypeVar, cast

import numpy as np

from forecasting.core.arrays import AnyArray, FloatArray, IntArray
from forecasting.core.calendar import Holidays
from forecasting.core.related import Related
from forecasting.core.timeline import Timeline

Forecast = TypeVar("Forecast", bound=Callable[..., FloatArray])


@dataclass(frozen=True)
class WallClock:
    """Where each slot of a timeline lies on the grid; `of` makes one.

    timeline : the grid. Its zone never changes its clock, so days of elapsed time are days of the
        wall clock. The timeline given itself where no clock changes within it, or where the change
        is not a whole number of slots: everything then stays as it is, to the last bit.
    ahead : shape (horizon,), which slot of the grid's horizon each slot to forecast is
    first, last : shape (n_slots + horizon of the grid,), first and last of the real slots at each
        time; the slot before where there is none
    """

    timeline: Timeline
    ahead: IntArray | None = None
    first: IntArray | None = None
    last: IntArray | None = None

    @classmethod
    def of(cls, timeline: Timeline) -> WallClock:
        n_slots, n_all = timeline.n_slots, timeline.n_slots + timeline.horizon
        since = (timeline.wall_s - timeline.wall_s[:1]) / timeline.step_s
        where = np.rint(since).astype(np.int64)
        if (where == np.arange(n_all)).all() or np.abs(since - where).max(initial=0.0) > 1e-6:
            return cls(timeline)
        begin = where.argmin()
        where -= where[begin]
        # An hour begun that will come again counts as still to come.
        n_past = int(where[n_slots:].min(initial=where[:n_slots].max(initial=-1) + 1))
        if not n_past:
            return cls(timeline)
        first, last = np.full((2, where.max() + 1), -1, dtype=np.int64)
        first[where[::-1]], last[where] = np.arange(n_all)[::-1], np.arange(n_all)
        skipped = first < 0
        before = np.maximum.accumulate(np.where(skipped, 0, np.arange(len(first))))
        grid = Timeline(
            start=datetime.fromtimestamp(float(timeline.wall_s[begin]), UTC),
            step=timeline.step,
            n_slots=n_past,
            horizon=len(first) - n_past,
        )
        return cls(grid, where[n_slots:] - n_past, first[before], last[before])

    def history(self, values: FloatArray) -> FloatArray:
        """Series on the grid: (n_series, n_slots) to those of the grid, NaN at a time skipped.

        A repeated slot is the mean of what was observed. Who was observed in nothing but an hour
        that is still to come again keeps that in the slot before.
        """
        if self.first is None:
            return values
        past = self._past(values)
        lost = np.isfinite(values).any(axis=1) & ~np.isfinite(past).any(axis=1)
        if lost.any():
            past[lost, -1] = np.nanmean(values[lost], axis=1)
        return past

    def holidays(self, holidays: Holidays | None) -> Holidays | None:
        """Events on the grid; one that touches either of two repeated slots touches both."""
        if holidays is None or self.first is None:
            return holidays
        return replace(holidays, flags=holidays.flags[:, self.first] | holidays.flags[:, self.last])

    def related(self, related: Related | None) -> Related | None:
        """Related observations on the grid, as `history` does."""
        if related is None or self.first is None:
            return related
        return replace(related, values=self._past(related.values))

    def back(self, quantiles: FloatArray) -> FloatArray:
        """Of the grid's horizon, shape (n_series, horizon of the grid, ...), to the real slots."""
        return quantiles if self.ahead is None else quantiles[:, self.ahead]

    def _past(self, values: AnyArray) -> AnyArray:
        assert self.first is not None and self.last is not None
        first, last = (each[: self.timeline.n_slots] for each in (self.first, self.last))
        whole = values if values.dtype.kind == "f" else values.astype(np.float64)
        past: AnyArray = whole[:, first]
        twice = np.flatnonzero(first != last)
        once, again = past[:, twice], whole[:, last[twice]]
        both = np.where(np.isnan(again), once, once + (again - once) / 2)
        past[:, twice] = np.where(np.isnan(once), again, both)
        # A time that was skipped points where the slot before it does.
        past[:, 1:][:, first[1:] == first[:-1]] = np.nan
        return past


def on_wall_clock(forecast: Forecast) -> Forecast:
    """An engine's `forecast` that steps in whole days, made to step in days of the wall clock."""

    @wraps(forecast)
    def laid_out(
        engine: Any,
        history: FloatArray,
        *,
        start: datetime,
        step: timedelta,
        horizon: int,
        levels: Sequence[float],
        holidays: Holidays | None = None,
    ) -> FloatArray:
        wall = WallClock.of(Timeline(start, step, history.shape[1], horizon))
        quantiles = forecast(
            engine,
            wall.history(history),
            start=wall.timeline.start,
            step=step,
            horizon=wall.timeline.horizon,
            levels=levels,
            holidays=wall.holidays(holidays),
        )
        return wall.back(quantiles)

    return cast(Forecast, laid_out)
