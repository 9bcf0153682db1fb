"""Public holidays of the countries people live in, by slot."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np

from forecasting.core.calendar import Event, Holidays, country_holidays, event_flags
from forecasting.core.profiles import HOUR
from forecasting.core.timeline import Timeline
from forecasting.errors import InvalidCalendar
from forecasting.history import Subject


def holidays_of(subjects: Sequence[Subject], start: datetime, hours: int) -> Holidays | None:
    """Public holidays of each subject's country from `start` on, in the zone of `start`.

    Returns one calendar a country, of `hours` slots; None where none are known.
    """
    countries = sorted({subject.country for subject in subjects})
    end = start + hours * HOUR + timedelta(days=1)
    calendars = [_known(country, start, end) for country in countries]
    if not any(calendars):
        return None
    column = {country: i for i, country in enumerate(countries)}
    calendar = np.array([column[subject.country] for subject in subjects], dtype=np.int64)
    return event_flags(calendars, timeline=Timeline(start, HOUR, hours, 0), calendar=calendar)


def _known(country: str, start: datetime, end: datetime) -> list[Event]:
    if not country:
        return []
    try:
        return country_holidays(country, start=start, end=end, zone=start.tzinfo or ZoneInfo("UTC"))
    except InvalidCalendar:
        return []
