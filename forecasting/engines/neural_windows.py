"""What a neural network sees of a fleet: one window of the past for each series and origin.

Every window is divided by its own mean magnitude and squeezed by asinh, so that one network serves
series of any unit and size, and a spike a thousand times the mean does not drown the rest. Nothing
at or after a window's origin enters it, except what the calendar knows beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Holidays
from forecasting.core.timeline import DAY_S, Timeline

CONTEXT_DAYS = 14
CONTEXT_WEEKS = CONTEXT_DAYS // 7
N_LAGS = CONTEXT_DAYS + CONTEXT_WEEKS  # columns of `Batch.lags`
N_CALENDAR = 6  # columns of `_calendar`
N_PAST = 2 + N_CALENDAR  # columns of `Batch.past`
N_LEAD = 2 * N_LAGS + N_CALENDAR + 4  # columns of `Batch.leads`
# How far back the recent means and spreads of a series reach, in days.
RECENT_DAYS = (1 / 24, 3 / 24, 6 / 24, 0.5, 1.0, 3.0, 7.0)
N_STATE = 2 * len(RECENT_DAYS) + 4  # columns of `Batch.state`


@dataclass(frozen=True)
class Batch:
    """Windows of b series at origins of their own; c slots of context, h leads to forecast.

    past : (b, c, N_PAST), squeezed value (0 where missing), whether it was seen, the calendar
    leads : (b, h, N_LEAD), what is known of each lead: its lags, the calendar, how far ahead it is,
        mean and spread of the days before
    lags, lag_seen : (b, h, N_LAGS), squeezed values at the lead's time of day on each day before,
        latest first, then at its time of the week in each week before; whether they were seen
    spread : (b, h), standard deviation of the lags by day
    state : (b, N_STATE), level, volatility and sparseness of the series at the origin
    scale : (b,), what values are divided by before they are squeezed; 0 where all were zero
    target : (b, h), squeezed value, NaN where missing or not yet known
    """

    past: Tensor
    leads: Tensor
    lags: Tensor
    lag_seen: Tensor
    spread: Tensor
    state: Tensor
    scale: Tensor
    target: Tensor

    def to(self, device: torch.device) -> Batch:
        return Batch(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})


class Windows:
    """All windows of series on one timeline, cut when asked for.

    history : shape (n_series, n_slots), NaN where missing; it takes six times its memory
    """

    def __init__(
        self, history: FloatArray, *, timeline: Timeline, holidays: Holidays | None
    ) -> None:
        self.n_series, self.n_slots = history.shape
        self.horizon = timeline.horizon
        self.per_day = timeline.slots_per_day or 1
        self.context = CONTEXT_DAYS * self.per_day
        # In front of the history lies a context of nothing, behind it a horizon of nothing.
        blank = ((0, 0), (self.context, self.horizon))
        self._values = torch.from_numpy(np.pad(history, blank, constant_values=np.nan))
        values = np.nan_to_num(history)
        self._sums = _running(values)
        self._magnitudes = _running(np.abs(values))
        self._squares = _running(values**2)
        self._zeros = _running(history == 0)
        self._counts = _running(np.isfinite(history))
        n_calendars = len(holidays.flags) if holidays else 1
        calendars = [_calendar(timeline, holidays, each) for each in range(n_calendars)]
        before = ((0, 0), (self.context, 0), (0, 0))
        self._calendars = torch.from_numpy(np.pad(np.stack(calendars), before)).float()
        which = holidays.calendar_of(self.n_series) if holidays else np.zeros(self.n_series)
        self._calendar_of = torch.from_numpy(which.astype(np.int64))

    @property
    def observed(self) -> Tensor:
        """How many slots of each series were observed; (n_series,)."""
        return self._counts[:, -1]

    @property
    def first(self) -> int:
        """The first slot in which any series was observed; 0 where none was."""
        has_begun = self._counts.sum(0) > 0
        return max(int(has_begun.long().argmax()) - 1, 0)

    def cut(self, series: Tensor, origin: Tensor, leads: Tensor) -> Batch:
        """Windows of `series` at `origin`, the first slot to forecast; both (b,).

        leads : (h,), slots after the origin, from 0
        """
        scale = self._scale(series, origin)
        inverse = torch.where(scale > 0, 1 / scale.clamp_min(1e-300), 0.0)[:, None]
        row = series[:, None]
        before = origin[:, None] + torch.arange(self.context)
        ahead = origin[:, None] + self.context + leads
        squeezed = torch.asinh(self._values[row, before] * inverse).float()
        seen = torch.isfinite(squeezed)
        known = torch.nan_to_num(squeezed)
        calendar = self._calendars[self._calendar_of[row], before]
        lags, lag_seen = self._lags(known, leads), self._lags(seen, leads)
        daily, weight = lags[..., :CONTEXT_DAYS], lag_seen[..., :CONTEXT_DAYS].float()
        count = weight.sum(-1).clamp_min(1)
        mean = (daily * weight).sum(-1) / count
        spread = (((daily - mean[..., None]) * weight) ** 2).sum(-1).div(count).sqrt()
        far = torch.stack([leads / self.per_day, torch.log1p(leads)], -1).float()
        about_lead = [
            *(lags, lag_seen.float(), self._calendars[self._calendar_of[row], ahead]),
            *(far.expand(len(series), -1, -1), mean[..., None], spread[..., None]),
        ]
        return Batch(
            past=torch.cat([torch.stack([known, seen.float()], -1), calendar], -1),
            leads=torch.cat(about_lead, -1),
            lags=lags,
            lag_seen=lag_seen,
            spread=spread,
            state=self._state(series, origin, inverse[:, 0]),
            scale=scale,
            target=torch.asinh(self._values[row, ahead] * inverse).float(),
        )

    def _lags(self, context: Tensor, leads: Tensor) -> Tensor:
        """(b, c) → (b, h, N_LAGS)."""
        days = torch.arange(1, CONTEXT_DAYS + 1)
        weeks = torch.arange(1, CONTEXT_WEEKS + 1)
        by_day = (leads % self.per_day)[:, None] - self.per_day * days
        by_week = (leads % (7 * self.per_day))[:, None] - 7 * self.per_day * weeks
        return context[:, self.context + torch.cat([by_day, by_week], -1)]

    def _scale(self, series: Tensor, origin: Tensor) -> Tensor:
        """Mean magnitude in the context; where that is next to nothing, in all that came before."""
        near = self._mean(self._magnitudes, series, origin - self.context, origin)
        ever = self._mean(self._magnitudes, series, torch.zeros_like(origin), origin)
        return torch.where(near > 1e-3 * ever, near, ever)

    def _state(self, series: Tensor, origin: Tensor, inverse: Tensor) -> Tensor:
        columns = []
        for days in RECENT_DAYS:
            start = origin - max(round(days * self.per_day), 1)
            mean = self._mean(self._sums, series, start, origin) * inverse
            square = self._mean(self._squares, series, start, origin) * inverse**2
            columns += [torch.asinh(mean), torch.asinh((square - mean**2).clamp_min(0).sqrt())]
        start = (origin - self.context).clamp_min(0)
        ever = self._mean(self._sums, series, torch.zeros_like(origin), origin) * inverse
        square = self._mean(self._squares, series, start, origin) * inverse**2
        seen = self._counts[series, origin] - self._counts[series, start]
        columns += [
            *(torch.asinh(ever), torch.asinh(square.sqrt())),
            *(self._mean(self._zeros, series, start, origin), seen / self.context),
        ]
        return torch.stack(columns, -1).float()

    def _mean(self, sums: Tensor, series: Tensor, first: Tensor, end: Tensor) -> Tensor:
        """Mean of the observed slots in [first, end), 0 where there are none."""
        first = first.clamp_min(0)
        total = sums[series, end] - sums[series, first]
        return total / (self._counts[series, end] - self._counts[series, first]).clamp_min(1)


def _running(values: np.ndarray) -> Tensor:
    """Sums of all slots before each; (n_series, n_slots + 1)."""
    sums = np.cumsum(values, axis=1, dtype=np.float64)
    return torch.from_numpy(np.pad(sums, ((0, 0), (1, 0))))


def _calendar(timeline: Timeline, holidays: Holidays | None, calendar: int) -> FloatArray:
    """Where in day and week each slot lies, whether people are off then; (slots, N_CALENDAR)."""
    day = timeline.wall_s / DAY_S
    of_day, of_week = 2 * np.pi * day, 2 * np.pi * (day + 3) / 7
    off = holidays.days_off(calendar) if holidays else np.zeros(len(day))
    columns = [
        *(np.sin(of_day), np.cos(of_day), np.sin(of_week), np.cos(of_week)),
        *((timeline.weekday >= 5).astype(np.float64), off.astype(np.float64)),
    ]
    return np.stack(columns, axis=-1)
