"""Local time, weekends, public holidays and month ends at each site of the demo fleet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import holidays
import numpy as np
from numpy.typing import NDArray

HOURS_PER_DAY = 24
DAY_MARGIN = 2  # local dates reach beyond the UTC ones, and a night shift into the next


@dataclass(frozen=True, slots=True)
class Site:
    code: str
    country: str
    time_zone: str
    latitude: float
    longitude: float


@dataclass(frozen=True)
class Calendar:
    """Hours `0 .. hours - 1` from `start` (aware, a whole hour); days are numbered from
    `first_day`, at every site by its own local date."""

    sites: tuple[Site, ...]
    start: datetime
    hours: int

    @cached_property
    def first_day(self) -> date:
        return self.start.astimezone(UTC).date() - timedelta(days=DAY_MARGIN)

    @property
    def days(self) -> int:
        return self.hours // HOURS_PER_DAY + 2 * DAY_MARGIN + 1

    @cached_property
    def _local_minutes(self) -> NDArray[np.int64]:
        """(sites, hours): local minutes since midnight of `first_day`."""
        starts = [self.start + timedelta(hours=h) for h in range(self.hours)]
        midnight = datetime.combine(self.first_day, datetime.min.time())
        return np.array(
            [
                [
                    (t.astimezone(zone).replace(tzinfo=None) - midnight) // timedelta(minutes=1)
                    for t in starts
                ]
                for zone in (ZoneInfo(site.time_zone) for site in self.sites)
            ],
            dtype=np.int64,
        )

    @cached_property
    def day(self) -> NDArray[np.int64]:
        """(sites, hours): number of the local day."""
        return self._local_minutes // (60 * HOURS_PER_DAY)

    @cached_property
    def hour_of_day(self) -> NDArray[np.float64]:
        """(sites, hours): local time at the beginning of the hour, in 0 <= t < 24."""
        return self._local_minutes % (60 * HOURS_PER_DAY) / 60

    @cached_property
    def dates(self) -> tuple[date, ...]:
        return tuple(self.first_day + timedelta(days=n) for n in range(self.days))

    @cached_property
    def weekday(self) -> NDArray[np.int64]:
        """(days,): Monday 0."""
        return np.array([d.weekday() for d in self.dates], dtype=np.int64)

    @cached_property
    def is_holiday(self) -> NDArray[np.bool_]:
        """(sites, days): public holidays of the site's country."""
        years = range(self.dates[0].year, self.dates[-1].year + 1)
        known = {
            country: holidays.country_holidays(country, years=years)
            for country in {site.country for site in self.sites}
        }
        return np.array(
            [[d in known[site.country] for d in self.dates] for site in self.sites], dtype=np.bool_
        )

    @cached_property
    def is_month_end(self) -> NDArray[np.bool_]:
        """(days,): the last three and the first two days of a month."""
        return np.array([d.day <= 2 or (d + timedelta(days=3)).day <= 3 for d in self.dates])
