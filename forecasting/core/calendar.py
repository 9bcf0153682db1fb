"""Public holidays and the organisation's events, in the form a forecast takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo

import holidays as public_holidays
import numpy as np

from forecasting.core.arrays import BoolArray, IntArray
from forecasting.core.timeline import Timeline
from forecasting.errors import InvalidCalendar


@dataclass(frozen=True)
class Event:
    """Something irregular: a holiday, a quarter close. Its slots lie in [starts_at, ends_at).

    is_day_off : people do as on a Sunday; else only the event's own effect is estimated
    """

    name: str
    starts_at: datetime
    ends_at: datetime
    is_day_off: bool = False


@dataclass(frozen=True)
class Holidays:
    """Which slots of which calendar fall into which event.

    names : the events, one per column; a name that comes back is one event happening again
    flags : shape (n_calendars, n_slots + horizon, n_names), past and future slots
    is_day_off : shape (n_names,), which of them people spend as a Sunday
    calendar : shape (n_series,), the calendar each series follows; None when there is only one
    """

    names: tuple[str, ...]
    flags: BoolArray
    is_day_off: BoolArray
    calendar: IntArray | None = None

    def __post_init__(self) -> None:
        if self.flags.ndim != 3 or self.flags.shape[2] != len(self.names):
            raise InvalidCalendar(
                f"flags have shape {self.flags.shape}, expected (calendars, slots, "
                f"{len(self.names)} names)"
            )
        if self.is_day_off.shape != (len(self.names),):
            raise InvalidCalendar(f"is_day_off has shape {self.is_day_off.shape}")
        if self.calendar is None and len(self.flags) != 1:
            raise InvalidCalendar(f"{len(self.flags)} calendars, but no series says which it has")
        if self.calendar is not None and len(self.calendar):
            lowest, highest = self.calendar.min(), self.calendar.max()
            if not 0 <= lowest <= highest < len(self.flags):
                raise InvalidCalendar(
                    f"series follow calendars {lowest} to {highest}, there are {len(self.flags)}"
                )

    def calendar_of(self, n_series: int) -> IntArray:
        """The calendar of each series, shape (n_series,)."""
        if self.calendar is None:
            return np.zeros(n_series, dtype=np.int64)
        if self.calendar.shape != (n_series,):
            raise InvalidCalendar(
                f"calendar has shape {self.calendar.shape}, there are {n_series} series"
            )
        return self.calendar

    def take(self, series: IntArray) -> Holidays:
        """The same for some of the series only."""
        if self.calendar is None:
            return self
        return replace(self, calendar=self.calendar[series])

    def between(self, first: int, end: int) -> Holidays:
        """The same for the slots `first .. end - 1` only."""
        return replace(self, flags=self.flags[:, first:end])

    def days_off(self, calendar: int) -> BoolArray:
        """Which slots are days off in a calendar, shape (n_slots + horizon,)."""
        off: BoolArray = self.flags[calendar][:, self.is_day_off].any(axis=1)
        return off


def country_holidays(
    country: str, *, start: datetime, end: datetime, zone: tzinfo = UTC
) -> list[Event]:
    """Public holidays of a country that touch a window, one event per day, midnight to midnight.

    country : ISO 3166-1 alpha-2 code, or with its subdivision as `DE-BY`
    zone : where the midnights are taken

    Raises InvalidCalendar for a country the `holidays` package does not know.
    """
    code, _, subdivision = country.partition("-")
    first, last = start.astimezone(zone).date(), end.astimezone(zone).date()
    try:
        days = public_holidays.country_holidays(
            code,
            subdiv=subdivision or None,
            years=range(first.year, last.year + 1),
            language="en_US",
        )
    except NotImplementedError as error:
        raise InvalidCalendar(f"no public holidays are known for {country!r}: {error}") from error
    return [
        Event(name, _midnight(day, zone), _midnight(day + timedelta(days=1), zone), is_day_off=True)
        for day, name in sorted(days.items())
        if first <= day <= last
    ]


def _midnight(day: date, zone: tzinfo) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=zone)


def event_flags(
    calendars: Sequence[Iterable[Event]],
    *,
    timeline: Timeline,
    calendar: IntArray | None = None,
) -> Holidays:
    """Lay calendars of events onto the slots of a timeline.

    calendars : one collection of events per calendar (a country, a site, one person)
    calendar : shape (n_series,), which calendar each series follows
    """
    events = [list(each) for each in calendars]
    names = tuple(sorted({event.name for each in events for event in each}))
    column = {name: i for i, name in enumerate(names)}
    starts = timeline.unix_s
    flags = np.zeros((len(events), len(starts), len(names)), dtype=np.bool_)
    for i, each in enumerate(events):
        for event in each:
            inside = (starts >= event.starts_at.timestamp()) & (starts < event.ends_at.timestamp())
            flags[i, inside, column[event.name]] = True
    day_off_names = {event.name for each in events for event in each if event.is_day_off}
    is_day_off = np.array([name in day_off_names for name in names], dtype=np.bool_)
    return Holidays(names, flags, is_day_off, calendar)
