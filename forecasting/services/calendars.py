"""What is known to be irregular: public holidays, the organisation's notices, people's leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from django.db.models import Q

from desktops.models import Dataset, DesktopUser, Notice
from forecasting.core.announced import Trips
from forecasting.core.arrays import BoolArray
from forecasting.core.calendar import Event, Holidays, country_holidays, event_flags
from forecasting.core.profiles import HOUR
from forecasting.core.timeline import Timeline
from forecasting.errors import InvalidCalendar
from forecasting.history import Subject

OF_ORGANISATION = (Notice.Kind.CLOSED, Notice.Kind.BUSY, Notice.Kind.OTHER)


def read_notices(
    dataset: Dataset, *, start: datetime, hours: int, known_at: datetime
) -> list[Notice]:
    """The organisation's notices, and people's leave and travel, that touch the hours from `start`
    on; in the order in which they came.

    known_at : by the wall clock, as notices are received by it even where the data set
        has a clock of its own. Only what had been received then counts, and as it stood then: a
        notice that was taken back later still held.
    """
    held = Q(withdrawn_at=None) | Q(withdrawn_at__gt=known_at)
    of_whom = Q(desktop_user=None, kind__in=OF_ORGANISATION) | Q(
        desktop_user__isnull=False, kind__in=(Notice.Kind.LEAVE, Notice.Kind.TRAVEL)
    )
    return list(
        Notice.objects.filter(
            held,
            of_whom,
            dataset=dataset,
            received_at__lte=known_at,
            starts_at__lt=start.astimezone(UTC) + hours * HOUR,
            ends_at__gt=start,
        )
        .select_related("site")
        .order_by("received_at", "pk")
    )


def holidays_of(
    subjects: Sequence[Subject], start: datetime, hours: int, notices: Sequence[Notice] = ()
) -> Holidays | None:
    """What each subject's country, pool and home site have on their calendars from `start` on.

    notices : see `read_notices`; whose pool or site is none is about everybody

    Returns one calendar of `hours` slots for all subjects with the same events, midnights being
    those of the zone of `start`; None where nothing is known.
    """
    announced = [notice for notice in notices if notice.desktop_user_id is None]
    home_of = _home_sites(subjects, announced)
    keys = [(subject.country, _concerning(subject, home_of, announced)) for subject in subjects]
    distinct = sorted(set(keys))
    end = start + hours * HOUR + timedelta(days=1)
    known = {country: _public(country, start, end) for country, _ in distinct}
    calendars = [
        [*known[country], *(_event(announced[i]) for i in about)] for country, about in distinct
    ]
    if not any(calendars):
        return None
    number = {key: i for i, key in enumerate(distinct)}
    calendar = np.array([number[key] for key in keys], dtype=np.int64)
    return event_flags(calendars, timeline=Timeline(start, HOUR, hours, 0), calendar=calendar)


def leave_of(
    subjects: Sequence[Subject], start: datetime, hours: int, notices: Sequence[Notice] = ()
) -> BoolArray | None:
    """Hours that begin within announced leave, shape (n_subjects, hours); None without any.

    Travel is no leave: whoever travels works elsewhere.
    """
    rows: dict[int, list[int]] = {}
    for row, subject in enumerate(subjects):
        if subject.desktop_user_id is not None:
            rows.setdefault(subject.desktop_user_id, []).append(row)
    absent = np.zeros((len(subjects), hours), dtype=np.bool_)
    for notice in notices:
        if notice.kind == Notice.Kind.LEAVE:
            first = max(math.ceil((notice.starts_at - start) / HOUR), 0)
            end = max(math.ceil((notice.ends_at - start) / HOUR), 0)
            absent[rows.get(notice.desktop_user_id or 0, []), first:end] = True
    return absent if absent.any() else None


def trips_of(subjects: Sequence[Subject], notices: Sequence[Notice]) -> Trips | None:
    """Announced travel of those who may be located, by primary key and code of the site; None
    without any."""
    located = {s.desktop_user_id for s in subjects if s.desktop_user_id and s.is_located}
    theirs = [
        notice
        for notice in notices
        if notice.kind == Notice.Kind.TRAVEL and notice.site and notice.desktop_user_id in located
    ]
    if not theirs:
        return None
    return Trips(
        np.array([notice.desktop_user_id for notice in theirs]),
        np.array([notice.site.code for notice in theirs if notice.site], dtype=object),
        np.array([notice.starts_at.timestamp() for notice in theirs]),
        np.array([notice.ends_at.timestamp() for notice in theirs]),
    )


def _home_sites(subjects: Sequence[Subject], announced: Sequence[Notice]) -> dict[int, int]:
    """Of those people whose home has something announced."""
    sites = {notice.site_id for notice in announced if notice.site_id}
    people = [s.desktop_user_id for s in subjects if s.desktop_user_id]
    if not sites or not people:
        return {}
    found = DesktopUser.objects.filter(pk__in=people, home_site__in=sites)
    return dict(found.values_list("pk", "home_site_id"))


def _concerning(
    subject: Subject, home_of: dict[int, int], announced: Sequence[Notice]
) -> tuple[int, ...]:
    home = home_of.get(subject.desktop_user_id or 0)
    return tuple(
        i
        for i, notice in enumerate(announced)
        if notice.pool_id in (None, subject.pool_id) and notice.site_id in (None, home)
    )


def _event(notice: Notice) -> Event:
    """One that comes back under the same title is the same event happening again."""
    return Event(
        f"{notice.kind}: {notice.title.strip().casefold()}",
        notice.starts_at,
        notice.ends_at,
        is_day_off=notice.kind == Notice.Kind.CLOSED,
    )


def _public(country: str, start: datetime, end: datetime) -> list[Event]:
    if not country:
        return []
    try:
        return country_holidays(country, start=start, end=end, zone=start.tzinfo or ZoneInfo("UTC"))
    except InvalidCalendar:
        return []
