"""What an announcement says, whatever it came in: a request, a table or a calendar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from desktops.core.zones import is_zone

KINDS = ("travel", "leave", "closed", "busy", "other")
OF_PEOPLE = frozenset({"travel", "leave"})
"""Kinds that are somebody's; what is closed is nobody's, and the others can be either."""

FIELDS = (
    "kind",
    "starts_at",
    "ends_at",
    "person",
    "site",
    "pool",
    "title",
    "uid",
    "time_zone",
    "withdrawn",
)
LONGEST_TEXT = 200
LONGEST_TITLE = 120
LONGEST = timedelta(days=731)
EARLIEST, LATEST = datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)
TRUE_WORDS, FALSE_WORDS = frozenset({"true", "yes", "1"}), frozenset({"", "false", "no", "0"})

Moment = date | datetime
"""A date is a whole day there; a datetime without an offset is the time on the clocks there."""


class InvalidNotice(ValueError):
    """What was announced makes no sense; `reason` is a fixed word, the message a sentence."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Uid(NamedTuple):
    """What a notice is known by where it comes from.

    occurrence : which one of an event that recurs; person : of an event of several
    """

    event: str
    occurrence: str = ""
    person: str = ""


@dataclass(frozen=True, slots=True)
class Announced:
    """Something announced for a time.

    where : for messages, such as `line 3`
    ends : exclusive: the day after the last, or the moment it is over
    person : as they sign in; pool : its name; site : its code or label
    zone : of days and times on the clock; empty: the person's, else the site's, else
        `fallback_zone`
    """

    where: str
    uid: Uid
    kind: str
    starts: Moment
    ends: Moment
    person: str = ""
    site: str = ""
    pool: str = ""
    title: str = ""
    zone: str = ""
    fallback_zone: str = ""

    def span(self, zones: tuple[str, ...]) -> tuple[datetime, datetime]:
        """From when to when, in UTC; raises InvalidNotice.

        zones : of the person and the site, as far as there are any
        """
        zone = next((each for each in (self.zone, *zones, self.fallback_zone) if each), "")
        starts, ends = _instant(self.starts, zone), _instant(self.ends, zone)
        if starts >= ends:
            raise InvalidNotice("bad_time", "it ends before it begins, or when it begins")
        if starts < EARLIEST or ends > LATEST:
            raise InvalidNotice("bad_time", "it lies before 2000 or after 2099")
        if ends - starts > LONGEST:
            raise InvalidNotice("bad_time", f"it lasts longer than {LONGEST.days} days")
        return starts, ends


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """An announcement taken back; an empty part of the uid stands for any."""

    where: str
    uid: Uid


def zone_of(name: str) -> ZoneInfo:
    """Raises InvalidNotice."""
    if not is_zone(name):
        raise InvalidNotice(
            "unknown_zone", f"there is no time zone {name[:60]!r}; Europe/Paris is one"
        )
    return ZoneInfo(name)


def _instant(moment: Moment, zone: str) -> datetime:
    if isinstance(moment, datetime):
        if moment.tzinfo is not None:
            return _in_utc(moment)
        if not zone:
            raise InvalidNotice(
                "no_offset", f"{moment} has no offset from UTC, and nothing tells a time zone"
            )
        return _in_utc(moment.replace(tzinfo=zone_of(zone)))
    return _in_utc(datetime.combine(moment, time(), zone_of(zone or "UTC")))


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise InvalidNotice("bad_time", f"{moment} lies beyond the calendar") from None


def announcement_from(fields: Mapping[str, object], *, where: str) -> Announced | Withdrawn:
    """One row of a table or object of a request, named by FIELDS; raises InvalidNotice.

    A last day counts: from 2026-03-03 to 2026-03-05 are three days.
    """
    texts = {name: _text(fields, name) for name in FIELDS if name != "withdrawn"}
    uid = Uid(texts["uid"])
    if _is_withdrawn(fields.get("withdrawn")):
        if not uid.event:
            raise InvalidNotice("no_uid", "without its uid nobody knows what is withdrawn")
        return Withdrawn(where, uid)
    kind = texts["kind"].casefold()
    if kind not in KINDS:
        raise InvalidNotice("bad_kind", f"kind is one of {', '.join(KINDS)}")
    if len(texts["title"]) > LONGEST_TITLE:
        raise InvalidNotice("bad_title", f"title is longer than {LONGEST_TITLE} characters")
    ends = _moment("ends_at", texts["ends_at"])
    return Announced(
        where=where,
        uid=uid if uid.event else _uid_of(texts),
        kind=kind,
        starts=_moment("starts_at", texts["starts_at"]),
        ends=ends if isinstance(ends, datetime) else _next_day(ends),
        person=texts["person"],
        site=texts["site"],
        pool=texts["pool"],
        title=texts["title"],
        zone=texts["time_zone"],
    )


def _uid_of(texts: Mapping[str, str]) -> Uid:
    """What has no id is the same when it says the same."""
    names = ("kind", "starts_at", "ends_at", "site", "pool")
    return Uid("\n".join(texts[name] for name in names), person=texts["person"].casefold())


def _next_day(day: date) -> date:
    if day == date.max:
        raise InvalidNotice("bad_time", "ends_at lies beyond the calendar")
    return day + timedelta(days=1)


def _text(fields: Mapping[str, object], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidNotice(f"bad_{name}", f"{name} is a text")
    text = value.strip()
    if len(text) > LONGEST_TEXT or not text.isprintable():
        raise InvalidNotice(
            f"bad_{name}", f"{name} is longer than {LONGEST_TEXT} characters or not printable"
        )
    return text


def _is_withdrawn(value: object) -> bool:
    word = "" if value is None else str(value).strip().casefold()
    if word not in TRUE_WORDS | FALSE_WORDS:
        raise InvalidNotice("bad_withdrawn", "withdrawn is true or false")
    return word in TRUE_WORDS


def _moment(name: str, text: str) -> Moment:
    try:
        return date.fromisoformat(text) if len(text) <= 10 else datetime.fromisoformat(text)
    except ValueError:
        raise InvalidNotice(
            "bad_time",
            f"{name} {text!r} is no day such as 2026-03-02 and no time such as"
            " 2026-03-02T08:00:00Z",
        ) from None
