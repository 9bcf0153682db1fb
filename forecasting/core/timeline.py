"""The regular grid of slots a history and its forecast lie on."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property

import numpy as np

from forecasting.core.arrays import FloatArray, IntArray
from forecasting.errors import InvalidHistory

QUARTER_S, DAY_S = 900, 86_400
WEEK_S = 7 * DAY_S


@dataclass(frozen=True)
class Timeline:
    """Slots `0 .. n_slots - 1` were observed, the next `horizon` slots are to be forecast.

    start : aware beginning of slot 0. Rhythms follow the wall clock of its zone, so a start in
        `ZoneInfo("Europe/Paris")` keeps nine o'clock at nine o'clock over a change to summer time.
    step : length of a slot
    """

    start: datetime
    step: timedelta
    n_slots: int
    horizon: int

    def __post_init__(self) -> None:
        if self.start.utcoffset() is None:
            raise InvalidHistory(f"start {self.start.isoformat()} has no time zone")
        if self.step <= timedelta(0):
            raise InvalidHistory(f"step {self.step} is not positive")
        if self.n_slots < 0 or self.horizon < 0:
            raise InvalidHistory(f"{self.n_slots} slots and horizon {self.horizon}: both are >= 0")

    @property
    def step_s(self) -> float:
        return self.step.total_seconds()

    @property
    def slots_per_day(self) -> int:
        """Whole slots in a day; 0 when a day is not a whole number of slots."""
        slots = DAY_S / self.step_s
        return round(slots) if slots >= 1 and abs(slots - round(slots)) < 1e-9 else 0

    @cached_property
    def unix_s(self) -> FloatArray:
        """Start of every slot, past and future, seconds since 1970 UTC; (n_slots + horizon,)."""
        first = self.start.timestamp()
        return first + self.step_s * np.arange(self.n_slots + self.horizon, dtype=np.float64)

    @cached_property
    def wall_s(self) -> FloatArray:
        """As `unix_s`, on the wall clock of the start's zone."""
        return wall_seconds(self.unix_s, self.start.tzinfo)

    @cached_property
    def weekday(self) -> IntArray:
        """Day of the week of every slot, Monday 0; (n_slots + horizon,)."""
        return ((self.wall_s // DAY_S + 3) % 7).astype(np.int64)


def wall_seconds(unix_s: FloatArray, zone: tzinfo | None) -> FloatArray:
    """Seconds since 1970 UTC as a wall clock in the zone counts them, same shape."""
    # Clocks change at a quarter of an hour, not always at an hour of UTC.
    quarters, quarter_of = np.unique(unix_s // QUARTER_S, return_inverse=True)
    offsets = [
        datetime.fromtimestamp(quarter * QUARTER_S, UTC).astimezone(zone).utcoffset()
        for quarter in quarters
    ]
    offset_s = np.array([offset.total_seconds() if offset else 0.0 for offset in offsets])
    return unix_s + offset_s[quarter_of] if len(offset_s) else unix_s
