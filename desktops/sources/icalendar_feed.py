"""Announcements in an iCalendar file (RFC 5545): its events, and what each says of whom.

How an event is read stands in docs/sources/notices.md. Titles and descriptions of people's events
are not looked at.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import islice
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from dateutil.rrule import rrulestr
from icalendar import Calendar, vRecur

from desktops.core.notices import (
    LONGEST,
    LONGEST_TITLE,
    OF_PEOPLE,
    Announced,
    InvalidNotice,
    Moment,
    Uid,
    Withdrawn,
    zone_of,
)
from desktops.errors import InvalidFile
from desktops.sources.announcements import Announcements, Problem

MOST_BYTES = 64 << 20
MOST_OCCURRENCES = 4000  # of one event within the horizon: eleven years of days
EARLIEST_START = 1970

# Category → kind. The words of Outlook, Google and German, French or English HR systems differ
# too much to guess at: these are few, and an admin's feed can be made to carry them.
KIND_OF: Mapping[str, str] = {
    "travel": "travel",
    "trip": "travel",
    "business trip": "travel",
    "leave": "leave",
    "vacation": "leave",
    "out of office": "leave",
    "closed": "closed",
    "closure": "closed",
    "public holiday": "closed",
    "company holiday": "closed",
    "busy": "busy",
    "busy period": "busy",
    "quarter close": "busy",
    "other": "other",
}
FREQUENCIES = frozenset({"DAILY", "WEEKLY", "MONTHLY", "YEARLY"})
WITHIN_A_DAY = ("BYHOUR", "BYMINUTE", "BYSECOND")
ONCE = ("UID", "DTSTART", "DTEND", "DURATION", "RRULE", "RECURRENCE-ID", "STATUS", "LOCATION")
NOT_PEOPLE = frozenset({"ROOM", "RESOURCE", "GROUP"})


@dataclass(frozen=True, slots=True)
class Horizon:
    """Occurrences that lie in it even partly are read, no others."""

    since: datetime
    until: datetime


def read(path: Path, *, horizon: Horizon, is_local_part: bool = False) -> Announcements:
    """Every event of the file; raises InvalidFile, OSError.

    is_local_part : people sign in with what stands before the @ of their address
    """
    found = Announcements()
    for calendar in _calendars(path):
        reader = _Reader(calendar, horizon, is_local_part, found)
        for events in _by_uid(calendar).values():
            reader.read_series(events)
    return found


def _calendars(path: Path) -> list[Any]:
    if path.stat().st_size > MOST_BYTES:
        raise InvalidFile(f"{path.name}: is larger than {MOST_BYTES:,} bytes")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InvalidFile(f"{path.name} line {line}: is not UTF-8") from None
    if not text.rstrip().upper().endswith("END:VCALENDAR"):
        raise InvalidFile(f"{path.name}: does not end with END:VCALENDAR; is it truncated?")
    try:
        calendars = Calendar.from_ical(text, multiple=True)
    except Exception as error:  # the library answers damage with whatever it stumbles over
        raise InvalidFile(f"{path.name}: cannot be read ({error})"[:300]) from error
    if not calendars or any(calendar.name != "VCALENDAR" for calendar in calendars):
        raise InvalidFile(f"{path.name}: is no calendar, or an END line is missing")
    return list(calendars)


def _by_uid(calendar: Any) -> dict[str, list[Any]]:
    """An event that recurs, and those that stand for one of its occurrences, have one UID."""
    events: dict[str, list[Any]] = defaultdict(list)
    for number, event in enumerate(calendar.walk("VEVENT"), start=1):
        events[str(event.get("UID", "")).strip() or f"without a UID, number {number}"].append(event)
    return events


class _Reader:
    def __init__(
        self, calendar: Any, horizon: Horizon, is_local_part: bool, found: Announcements
    ) -> None:
        self._horizon = horizon
        self._is_local_part = is_local_part
        self._found = found
        self._zone = str(calendar.get("X-WR-TIMEZONE", ""))

    def read_series(self, events: list[Any]) -> None:
        stand_ins = set()
        for event in events:
            # One that cannot be read is told of when it is its turn.
            with suppress(InvalidNotice, OverflowError):
                stand_ins.add(_occurrence_of(event))
        for event in events:
            self._found.rows += 1
            uid = str(event.get("UID", "")).strip()
            where = f"UID {uid[:60] or '(none)'}"
            try:
                entries = list(self._read(event, uid, where, stand_ins))
            except InvalidNotice as error:
                self._found.problems.append(Problem(where, error.reason, str(error)))
            except OverflowError:
                beyond = Problem(where, "bad_time", "it lies beyond the calendar")
                self._found.problems.append(beyond)
            else:
                self._found.entries += entries
                self._found.passed_over += not entries

    def _read(
        self, event: Any, uid: str, where: str, stand_ins: set[str]
    ) -> Iterator[Announced | Withdrawn]:
        if event.errors:
            name, fault = event.errors[0]
            raise InvalidNotice("malformed", f"{name or 'a line'} cannot be read ({fault})"[:200])
        if not uid:
            raise InvalidNotice("no_uid", "the event has no UID")
        if twice := next((name for name in ONCE if isinstance(event.get(name), list)), None):
            raise InvalidNotice("malformed", f"the event has more than one {twice}")
        occurrence = _occurrence_of(event)
        if str(event.get("STATUS", "")).upper() == "CANCELLED":
            yield Withdrawn(where, Uid(uid, occurrence))
            return
        kind = next((k for c in _categories(event) if (k := KIND_OF.get(c.casefold()))), None)
        if kind is None:
            return
        people = self._people(event) if kind in OF_PEOPLE else [""]
        if not people:
            raise InvalidNotice("no_person", f"{kind} of whom? It has no ATTENDEE or ORGANIZER")
        for key, starts, ends in self._occurrences(event, occurrence, stand_ins):
            for person in people:
                yield Announced(
                    where=where,
                    uid=Uid(uid, key, person.casefold()),
                    kind=kind,
                    starts=starts,
                    ends=ends,
                    person=person,
                    # Where somebody spends their leave is nobody's business.
                    site="" if kind == "leave" else str(event.get("LOCATION", "")).strip(),
                    title="" if person else _title(event),
                    fallback_zone=self._zone,
                )
        for excluded in _listed(event, "EXDATE"):
            yield Withdrawn(where, Uid(uid, _key(excluded)))

    def _people(self, event: Any) -> list[str]:
        """Those who take part; when nobody is named, whose event it is."""
        attendees = [
            attendee
            for attendee in _as_list(event.get("ATTENDEE"))
            if attendee.params.get("PARTSTAT", "").upper() != "DECLINED"
            and attendee.params.get("CUTYPE", "").upper() not in NOT_PEOPLE
        ]
        if "ATTENDEE" not in event:
            attendees = _as_list(event.get("ORGANIZER"))
        people = []
        for attendee in attendees:
            scheme, _, address = str(attendee).strip().partition(":")
            if scheme.lower() == "mailto" and address:
                people.append(address.partition("@")[0] if self._is_local_part else address)
        return list(dict.fromkeys(people))

    def _occurrences(
        self, event: Any, occurrence: str, stand_ins: set[str]
    ) -> Iterator[tuple[str, Moment, Moment]]:
        """Key, start and end of each occurrence in the horizon; raises InvalidNotice."""
        starts, ends = _start_and_end(event)
        length = _clock(ends) - _clock(starts)
        if not timedelta() < length <= LONGEST:
            raise InvalidNotice("bad_time", f"it lasts nothing, or more than {LONGEST.days} days")
        if "RRULE" not in event and "RDATE" not in event:
            if self._is_near(starts, length):
                yield occurrence, starts, ends
            return
        excluded = {_key(moment) for moment in _listed(event, "EXDATE")} | stand_ins
        found = 0
        for moment in self._recurring(event, starts, length):
            key = _key(moment)
            if key in excluded or not self._is_near(moment, length):
                continue
            found += 1
            if found > MOST_OCCURRENCES:
                raise InvalidNotice("too_many", f"it recurs more than {MOST_OCCURRENCES:,} times")
            # By the clock there: what lasts from nine to five does so over daylight saving too.
            yield key, moment, moment + length

    def _recurring(self, event: Any, starts: Moment, length: timedelta) -> Iterator[Moment]:
        moments: dict[str, Moment] = {_key(starts): starts}
        if "RRULE" in event:
            rule = rrulestr(_rule(event["RRULE"], starts), dtstart=_as_datetime(starts))
            for moment in islice(
                rule.xafter(self._bound(self._horizon.since - length, starts), inc=True),
                MOST_OCCURRENCES + 1,
            ):
                if moment > self._bound(self._horizon.until, starts):
                    break
                plain = moment if isinstance(starts, datetime) else moment.date()
                moments[_key(plain)] = plain
        for moment in _listed(event, "RDATE"):
            if type(moment) is not type(starts):
                raise InvalidNotice("malformed", "RDATE and DTSTART are not of one type")
            moments[_key(moment)] = moment
        yield from moments.values()

    def _bound(self, moment: datetime, like: Moment) -> datetime:
        """A day wider where the time zone is not known yet."""
        if isinstance(like, datetime) and like.tzinfo is not None:
            return moment
        towards = timedelta(days=1 if moment == self._horizon.until else -1)
        return (moment + towards).replace(tzinfo=None)

    def _is_near(self, starts: Moment, length: timedelta) -> bool:
        at = _as_datetime(starts)
        if at.tzinfo is None:
            at = at.replace(tzinfo=UTC)
        return at < self._horizon.until and at + length > self._horizon.since


def _categories(event: Any) -> list[str]:
    return [
        str(category).strip()
        for listed in _as_list(event.get("CATEGORIES"))
        for category in getattr(listed, "cats", [listed])
    ]


def _title(event: Any) -> str:
    summary = " ".join(str(event.get("SUMMARY", "")).split())
    return "".join(letter for letter in summary if letter.isprintable())[:LONGEST_TITLE]


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _occurrence_of(event: Any) -> str:
    """Which occurrence an event stands for; empty for one that stands for itself."""
    recurrence = event.get("RECURRENCE-ID")
    if recurrence is None:
        return ""
    if event.errors or isinstance(recurrence, list):
        raise InvalidNotice("malformed", "RECURRENCE-ID cannot be read")
    if recurrence.params.get("RANGE"):
        raise InvalidNotice("unsupported", "RECURRENCE-ID with RANGE is not supported")
    return _key(_moment(recurrence))


def _start_and_end(event: Any) -> tuple[Moment, Moment]:
    if "DTSTART" not in event:
        raise InvalidNotice("no_time", "the event has no DTSTART")
    starts = _moment(event["DTSTART"])
    if starts.year < EARLIEST_START:
        raise InvalidNotice("bad_time", f"it begins before {EARLIEST_START}")
    if "DTEND" in event:
        ends = _moment(event["DTEND"])
        if type(ends) is not type(starts):
            raise InvalidNotice("malformed", "DTSTART and DTEND are not of one type")
        return starts, ends
    if "DURATION" in event:
        length = event["DURATION"].dt
        if not isinstance(length, timedelta):
            raise InvalidNotice("malformed", "DURATION is no duration")
    elif isinstance(starts, datetime):
        raise InvalidNotice("no_time", "the event has neither DTEND nor DURATION")
    else:
        length = timedelta(days=1)
    return starts, starts + length


def _moment(value: Any) -> Moment:
    """A day, a moment, or a time on the clocks there; raises InvalidNotice."""
    moment = value.dt
    if not isinstance(moment, date):
        raise InvalidNotice("malformed", "a day or a time is wanted")
    zone = value.params.get("TZID")
    if zone and isinstance(moment, datetime) and moment.tzinfo is None:
        return moment.replace(tzinfo=zone_of(zone))
    return moment


def _listed(event: Any, name: str) -> list[Moment]:
    moments = []
    for listed in _as_list(event.get(name)):
        for value in listed.dts:
            if not isinstance(value.dt, date):
                raise InvalidNotice("unsupported", f"{name} with periods is not supported")
            moments.append(_moment(value))
    return moments


def _clock(moment: Moment) -> datetime:
    """For the length of an event: by UTC where that is known, else by the clock there."""
    at = _as_datetime(moment)
    return at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at


def _as_datetime(moment: Moment) -> datetime:
    return moment if isinstance(moment, datetime) else datetime.combine(moment, time())


def _key(moment: Moment) -> str:
    """How RECURRENCE-ID, EXDATE and a rule's own occurrence come to mean the same."""
    if not isinstance(moment, datetime):
        return f"{moment:%Y%m%d}"
    if moment.tzinfo is None:
        return f"{moment:%Y%m%dT%H%M%S}"
    return f"{moment.astimezone(UTC):%Y%m%dT%H%M%SZ}"


def _rule(recur: Any, starts: Moment) -> str:
    """A recurrence rule as dateutil reads it; raises InvalidNotice."""
    rule = {str(name).upper(): values for name, values in recur.items()}
    frequency = str(next(iter(_as_list(rule.get("FREQ"))), ""))
    if frequency not in FREQUENCIES or any(name in rule for name in WITHIN_A_DAY):
        raise InvalidNotice("unsupported", "it recurs more often than daily")
    if any(int(interval) < 1 for interval in _as_list(rule.get("INTERVAL"))):
        raise InvalidNotice("malformed", "the INTERVAL of its RRULE is not positive")
    if "UNTIL" in rule:
        rule["UNTIL"] = [_until(_as_list(rule["UNTIL"])[0], starts)]
    text: str = vRecur(rule).to_ical().decode()
    try:
        rrulestr(text, dtstart=_as_datetime(starts))
    except (ValueError, TypeError, KeyError) as error:
        raise InvalidNotice("malformed", f"its RRULE cannot be read ({error})"[:200]) from None
    return text


def _until(until: Moment, starts: Moment) -> Moment:
    """The last moment in the form that the start asks for; many calendars write the other."""
    is_zoned = isinstance(starts, datetime) and starts.tzinfo is not None
    at = until if isinstance(until, datetime) else datetime.combine(until, time.max)
    at = at.replace(microsecond=0)
    if not is_zoned:
        return at.replace(tzinfo=None)
    if at.tzinfo is None:
        assert isinstance(starts, datetime)
        at = at.replace(tzinfo=starts.tzinfo)
    return at.astimezone(ZoneInfo("UTC"))
