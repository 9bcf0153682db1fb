"""Holidays and events laid onto slots."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from forecasting.core.calendar import Event, Holidays, country_holidays, event_flags
from forecasting.core.timeline import Timeline
from forecasting.errors import InvalidCalendar

HOUR = timedelta(hours=1)
PARIS = ZoneInfo("Europe/Paris")


def test_public_holidays_of_a_country_within_a_window():
    events = country_holidays(
        "FR",
        start=datetime(2024, 7, 1, tzinfo=UTC),
        end=datetime(2024, 8, 20, tzinfo=UTC),
        zone=PARIS,
    )
    assert [event.starts_at.date().isoformat() for event in events] == ["2024-07-14", "2024-08-15"]
    assert all(event.is_day_off for event in events)
    assert events[0].starts_at == datetime(2024, 7, 14, tzinfo=PARIS)


def test_holidays_of_a_part_of_a_country():
    window = {
        "start": datetime(2024, 8, 1, tzinfo=UTC),
        "end": datetime(2024, 8, 31, tzinfo=UTC),
    }
    assert country_holidays("DE", **window) == []
    assert len(country_holidays("DE-SL", **window)) == 1


def test_an_unknown_country_is_named():
    with pytest.raises(InvalidCalendar, match="XX"):
        country_holidays("XX", start=datetime(2024, 1, 1, tzinfo=UTC), end=datetime.now(UTC))


def test_flags_cover_the_local_day_of_the_event():
    timeline = Timeline(datetime(2024, 7, 13, tzinfo=UTC), HOUR, 24, 48)
    events = country_holidays(
        "FR", start=timeline.start, end=timeline.start + 72 * HOUR, zone=PARIS
    )
    flags = event_flags([events], timeline=timeline)
    on = np.flatnonzero(flags.days_off(0))
    # 14 July in Paris begins at 22:00 UTC the day before.
    assert (on[0], on[-1], len(on)) == (22, 45, 24)


def test_each_series_follows_its_own_calendar():
    start = datetime(2024, 1, 1, tzinfo=UTC)
    close = Event("close", start, start + 2 * HOUR)
    flags = event_flags(
        [[], [close]], timeline=Timeline(start, HOUR, 3, 1), calendar=np.array([1, 0, 1])
    )
    assert flags.names == ("close",)
    np.testing.assert_array_equal(flags.flags[1, :, 0], [True, True, False, False])
    assert not flags.flags[0].any()
    assert not flags.days_off(1).any()
    np.testing.assert_array_equal(flags.take(np.array([1])).calendar_of(1), [0])


def test_calendars_nobody_is_assigned_to_are_refused():
    with pytest.raises(InvalidCalendar, match="no series says which"):
        Holidays((), np.zeros((2, 4, 0), dtype=bool), np.zeros(0, dtype=bool))
    one_each = Holidays((), np.zeros((2, 4, 0), bool), np.zeros(0, bool), np.array([0, 1]))
    with pytest.raises(InvalidCalendar, match="there are 3 series"):
        one_each.calendar_of(3)
