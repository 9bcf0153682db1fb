"""What announcements say, in tables and calendars, and what of them makes no sense."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from desktops.core.notices import (
    Announced,
    InvalidNotice,
    Uid,
    Withdrawn,
    announcement_from,
)
from desktops.errors import InvalidFile
from desktops.sources import icalendar_feed, notices_csv
from desktops.sources.announcements import Announcements
from desktops.sources.icalendar_feed import Horizon

HORIZON = Horizon(datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC))
TRIP = {
    "kind": "Travel",
    "person": "ana",
    "site": "lyon",
    "starts_at": "2026-03-03",
    "ends_at": "2026-03-05",
}


def announced(**fields: object) -> Announced:
    entry = announcement_from(TRIP | fields, where="here")
    assert isinstance(entry, Announced)
    return entry


def utc(*moment: int) -> datetime:
    return datetime(*moment, tzinfo=UTC)  # type: ignore[arg-type, misc]


# One announcement


def test_a_last_day_counts_and_days_are_those_of_the_person() -> None:
    assert announced().span(("Europe/Paris", "Asia/Tokyo")) == (
        utc(2026, 3, 2, 23),
        utc(2026, 3, 5, 23),
    )


def test_a_day_of_daylight_saving_has_its_own_length() -> None:
    starts, ends = announced(starts_at="2026-03-29", ends_at="2026-03-29").span(("Europe/Paris",))
    assert ends - starts == timedelta(hours=23)


def test_a_named_zone_counts_before_the_person_s() -> None:
    assert announced(time_zone="Asia/Tokyo").span(("Europe/Paris",))[0] == utc(2026, 3, 2, 15)


def test_days_without_any_zone_are_those_of_utc() -> None:
    assert announced().span(()) == (utc(2026, 3, 3), utc(2026, 3, 6))


def test_times_are_exact_and_may_be_of_the_clock_there() -> None:
    exact = announced(starts_at="2026-03-03T08:00:00+01:00", ends_at="2026-03-03T17:00:00Z")
    assert exact.span(("Asia/Tokyo",)) == (utc(2026, 3, 3, 7), utc(2026, 3, 3, 17))
    clock = announced(starts_at="2026-03-03T08:00", ends_at="2026-03-03 17:00")
    assert clock.span(("Europe/Paris",)) == (utc(2026, 3, 3, 7), utc(2026, 3, 3, 16))


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"kind": "holiday"}, "bad_kind"),
        ({"kind": None}, "bad_kind"),
        ({"kind": 7}, "bad_kind"),
        ({"starts_at": ""}, "bad_time"),
        ({"starts_at": "tomorrow"}, "bad_time"),
        ({"starts_at": "03/03/2026"}, "bad_time"),
        ({"ends_at": "9999-12-31"}, "bad_time"),
        ({"person": "a\0b"}, "bad_person"),
        ({"person": "a" * 201}, "bad_person"),
        ({"site": ["lyon"]}, "bad_site"),
        ({"title": "t" * 121}, "bad_title"),
        ({"withdrawn": "perhaps"}, "bad_withdrawn"),
        ({"withdrawn": True}, "no_uid"),
    ],
)
def test_what_makes_no_sense_has_a_reason(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidNotice) as refused:
        announced(**fields)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"starts_at": "2026-03-06"}, "bad_time"),
        ({"starts_at": "1999-03-06", "ends_at": "1999-03-07"}, "bad_time"),
        ({"ends_at": "2031-03-06"}, "bad_time"),
        ({"starts_at": "2026-03-03T08:00"}, "no_offset"),
        ({"time_zone": "Europe/Atlantis"}, "unknown_zone"),
        ({"time_zone": "../etc/passwd"}, "unknown_zone"),
        ({"starts_at": "0001-01-01T00:00:00+10:00"}, "bad_time"),
    ],
)
def test_a_time_that_cannot_be_has_a_reason(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(InvalidNotice) as refused:
        announced(**fields).span(())
    assert refused.value.reason == reason


def test_withdrawing_takes_an_id_alone() -> None:
    for word in (True, "true", "yes", "1"):
        entry = announcement_from({"uid": "trip-1", "withdrawn": word}, where="here")
        assert entry == Withdrawn("here", Uid("trip-1"))


def test_what_has_no_id_is_known_by_what_it_says() -> None:
    assert announced().uid == announced(title="a word about it").uid
    assert announced().uid != announced(person="ben").uid
    assert announced().uid != announced(ends_at="2026-03-06").uid


TEXT = st.one_of(st.none(), st.text("0129-:TZ+ é\0", max_size=25), st.integers(), st.booleans())


@given(st.dictionaries(st.sampled_from(("kind", *TRIP, "uid", "title", "time_zone")), TEXT))
def test_whatever_comes_is_read_or_refused_with_a_reason(fields: dict[str, object]) -> None:
    try:
        entry = announcement_from(TRIP | fields, where="here")
        assert isinstance(entry, Announced)
        starts, ends = entry.span(("Europe/Paris",))
    except InvalidNotice as error:
        assert error.reason and str(error)
    else:
        assert starts < ends


# Tables


def test_a_table_is_read_with_its_bad_lines(tmp_path: Path) -> None:
    path = tmp_path / "leave.csv"
    path.write_text(
        "\ufeffkind,starts_at,ends_at,person,remark\n"
        "leave,2026-03-02,2026-03-06,ana,away\n"
        "leave,2026-13-02,2026-03-06,ben,\n"
        "leave,2026-03-02\n"
        "leave,2026-03-02,2026-03-06,cho,x,y\n",
        encoding="utf-8",
    )
    read = notices_csv.read(path)
    assert read.rows == 4
    assert [(e.where, e.uid.person) for e in read.entries] == [("line 2", "ana")]
    assert [(p.where, p.reason) for p in read.problems] == [
        ("line 3", "bad_time"),
        ("line 4", "malformed"),
        ("line 5", "malformed"),
    ]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no column ends_at, kind, starts_at"),
        (b"kind,starts_at\n", "no column ends_at"),
        (b'kind,starts_at,ends_at\n"leave', "unexpected end"),
        (b"kind,starts_at,ends_at,person\nleave,2026-03-02,2026-03-02,Andr\xe9\n", "not UTF-8"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "leave.csv"
    path.write_bytes(data)
    with pytest.raises(InvalidFile, match=why):
        notices_csv.read(path)


# Calendars


def calendar(folder: Path, *events: str, header: str = "") -> Announcements:
    """events : their lines, without BEGIN, END, and DTSTAMP"""
    lines = ["BEGIN:VCALENDAR", "VERSION:2.0", "PRODID:-//test//EN", *header.splitlines()]
    for event in events:
        lines += ["BEGIN:VEVENT", *(line.strip() for line in event.strip().splitlines())]
        lines += ["END:VEVENT"]
    path = folder / "feed.ics"
    path.write_text("\r\n".join([*lines, "END:VCALENDAR", ""]), encoding="utf-8", newline="")
    return icalendar_feed.read(path, horizon=HORIZON)


def spans(read: Announcements, zone: str = "Europe/Paris") -> list[tuple[datetime, datetime]]:
    assert not read.problems
    return [entry.span((zone,)) for entry in read.entries if isinstance(entry, Announced)]


def test_an_event_of_a_person(tmp_path: Path) -> None:
    read = calendar(
        tmp_path,
        """UID:trip-1
        CATEGORIES:Internal,Business Trip
        ORGANIZER:mailto:assistant@example.org
        ATTENDEE;CN=Ana:MAILTO:Ana@example.org
        ATTENDEE;PARTSTAT=DECLINED:mailto:ben@example.org
        ATTENDEE;CUTYPE=ROOM:mailto:room@example.org
        ATTENDEE:mailto:cho@example.org
        SUMMARY:Ana sees a customer
        LOCATION:Lyon
        DTSTART:20260303T080000Z
        DURATION:PT9H""",
    )
    entries = read.entries
    assert [e.person for e in entries] == ["Ana@example.org", "cho@example.org"]  # type: ignore[union-attr]
    first = entries[0]
    assert isinstance(first, Announced)
    assert (first.kind, first.site, first.title) == ("travel", "Lyon", "")
    assert first.uid == Uid("trip-1", "", "ana@example.org")
    assert spans(read)[0] == (utc(2026, 3, 3, 8), utc(2026, 3, 3, 17))


def test_without_attendees_it_is_the_organizer_s(tmp_path: Path) -> None:
    read = calendar(
        tmp_path,
        """UID:leave-1
        CATEGORIES:Vacation
        ORGANIZER:mailto:ana@example.org
        LOCATION:A clinic
        DTSTART;VALUE=DATE:20260303
        DTEND;VALUE=DATE:20260306""",
    )
    [entry] = read.entries
    assert isinstance(entry, Announced)
    assert (entry.kind, entry.person) == ("leave", "ana@example.org")
    assert entry.site == "", "where somebody spends their leave is nobody's business"
    assert spans(read) == [(utc(2026, 3, 2, 23), utc(2026, 3, 5, 23))]


def test_an_event_of_the_organisation_keeps_its_title(tmp_path: Path) -> None:
    read = calendar(
        tmp_path,
        """UID:close-1
        CATEGORIES:Public Holiday
        SUMMARY:All Saints'\\nDay
        ATTENDEE:mailto:ana@example.org
        LOCATION:paris
        DTSTART;VALUE=DATE:20261101""",
    )
    [entry] = read.entries
    assert isinstance(entry, Announced)
    assert (entry.kind, entry.person, entry.site) == ("closed", "", "paris")
    assert entry.title == "All Saints' Day"
    assert (entry.starts, entry.ends) == (date(2026, 11, 1), date(2026, 11, 2))


def test_what_is_of_no_known_category_or_outside_the_horizon_is_passed_over(
    tmp_path: Path,
) -> None:
    lunch = """UID:lunch
        CATEGORIES:Food
        DTSTART:20260303T120000Z
        DTEND:20260303T130000Z"""
    old = """UID:old
        CATEGORIES:Busy
        DTSTART;VALUE=DATE:20251201"""
    read = calendar(tmp_path, lunch, old)
    assert (read.rows, read.passed_over, read.entries, read.problems) == (2, 2, [], [])


def test_a_rule_is_followed_by_the_clock_there(tmp_path: Path) -> None:
    read = calendar(
        tmp_path,
        """UID:lyon
        CATEGORIES:Travel
        ATTENDEE:mailto:ana
        DTSTART;TZID=Europe/Paris:20260325T090000
        DTEND;TZID=Europe/Paris:20260325T170000
        RRULE:FREQ=WEEKLY;COUNT=3
        EXDATE;TZID=Europe/Paris:20260408T090000""",
    )
    # Daylight saving begins between the first and the second.
    assert spans(read) == [
        (utc(2026, 3, 25, 8), utc(2026, 3, 25, 16)),
        (utc(2026, 4, 1, 7), utc(2026, 4, 1, 15)),
    ]
    assert [e.uid.occurrence for e in read.entries] == [
        "20260325T080000Z",
        "20260401T070000Z",
        "20260408T070000Z",
    ]
    assert isinstance(read.entries[-1], Withdrawn)


@pytest.mark.parametrize(
    ("start", "rule", "n"),
    [
        ("DTSTART;VALUE=DATE:20260302", "FREQ=WEEKLY;UNTIL=20260316", 3),
        ("DTSTART;VALUE=DATE:20260302", "FREQ=WEEKLY;UNTIL=20260316T000000Z", 3),
        ("DTSTART:20260302T090000Z", "FREQ=WEEKLY;UNTIL=20260316", 3),
        ("DTSTART:20260302T090000Z", "FREQ=WEEKLY;UNTIL=20260316T080000Z", 2),
        ("DTSTART;TZID=Asia/Tokyo:20260302T090000", "FREQ=WEEKLY;UNTIL=20260316T000000Z", 3),
        ("DTSTART:20260302T090000", "FREQ=WEEKLY;UNTIL=20260316T090000", 3),
        ("DTSTART;VALUE=DATE:20200101", "FREQ=YEARLY", 1),
        ("DTSTART;VALUE=DATE:20260302", "FREQ=WEEKLY;BYDAY=MO,WE", 88),
        ("DTSTART;VALUE=DATE:20261228", "FREQ=DAILY", 4),
    ],
)
def test_rules_end_where_they_say_or_at_the_horizon(
    tmp_path: Path, start: str, rule: str, n: int
) -> None:
    length = "DURATION:P1D" if "VALUE=DATE" in start else "DURATION:PT1H"
    read = calendar(tmp_path, f"UID:close\nCATEGORIES:Closed\n{start}\n{length}\nRRULE:{rule}")
    assert len(spans(read, "UTC")) == n


def test_added_dates_count(tmp_path: Path) -> None:
    read = calendar(
        tmp_path,
        """UID:close
        CATEGORIES:Closed
        DTSTART;VALUE=DATE:20260302
        RDATE;VALUE=DATE:20260310,20280310""",
    )
    assert [starts for starts, _ in spans(read, "UTC")] == [utc(2026, 3, 2), utc(2026, 3, 10)]


def test_one_occurrence_can_be_moved_or_cancelled(tmp_path: Path) -> None:
    read = calendar(
        tmp_path,
        """UID:close
        CATEGORIES:Closed
        DTSTART;VALUE=DATE:20260302
        RRULE:FREQ=WEEKLY;COUNT=3""",
        """UID:close
        CATEGORIES:Closed
        RECURRENCE-ID;VALUE=DATE:20260309
        DTSTART;VALUE=DATE:20260310""",
        """UID:close
        STATUS:CANCELLED
        RECURRENCE-ID;VALUE=DATE:20260316
        DTSTART;VALUE=DATE:20260316""",
    )
    assert [
        (type(e).__name__, e.uid.occurrence, getattr(e, "starts", None)) for e in read.entries
    ] == [
        ("Announced", "20260302", date(2026, 3, 2)),
        ("Announced", "20260309", date(2026, 3, 10)),
        ("Withdrawn", "20260316", None),
    ]


def test_a_cancelled_event_takes_back_all_of_it(tmp_path: Path) -> None:
    read = calendar(tmp_path, "UID:close\nSTATUS:CANCELLED\nDTSTART;VALUE=DATE:20260302")
    assert read.entries == [Withdrawn("UID close", Uid("close"))]


def test_times_on_the_clock_are_the_calendar_s_where_nobody_has_a_zone(tmp_path: Path) -> None:
    read = calendar(
        tmp_path,
        "UID:busy\nCATEGORIES:Busy\nDTSTART:20260302T090000\nDTEND:20260302T100000",
        header="X-WR-TIMEZONE:Asia/Tokyo",
    )
    [entry] = read.entries
    assert isinstance(entry, Announced)
    assert entry.span(())[0] == utc(2026, 3, 2)
    assert entry.span(("Europe/Paris",))[0] == utc(2026, 3, 2, 8)


def test_zones_of_windows_and_of_the_calendar_itself_are_known(tmp_path: Path) -> None:
    zone = """BEGIN:VTIMEZONE
TZID:Our own
BEGIN:STANDARD
DTSTART:19700101T000000
TZOFFSETFROM:+0300
TZOFFSETTO:+0300
END:STANDARD
END:VTIMEZONE"""
    read = calendar(
        tmp_path,
        """UID:a
        CATEGORIES:Busy
        DTSTART;TZID=W. Europe Standard Time:20260302T090000
        DURATION:PT1H""",
        """UID:b
        CATEGORIES:Busy
        DTSTART;TZID=Our own:20260302T090000
        DURATION:PT1H""",
        header=zone,
    )
    assert [starts for starts, _ in spans(read)] == [utc(2026, 3, 2, 8), utc(2026, 3, 2, 6)]


GOOD = "UID:x\nCATEGORIES:Busy\nDTSTART:20260302T090000Z\nDTEND:20260302T100000Z"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("CATEGORIES:Busy\nDTSTART;VALUE=DATE:20260302", "no_uid"),
        ("UID:x\nCATEGORIES:Busy", "no_time"),
        ("UID:x\nCATEGORIES:Busy\nDTSTART:20260302T090000Z", "no_time"),
        ("UID:x\nCATEGORIES:Busy\nDTSTART:monday\nDURATION:PT1H", "malformed"),
        (
            "UID:x\nCATEGORIES:Busy\nDTSTART;VALUE=DATE:20260302\nDTEND:20260302T100000Z",
            "malformed",
        ),
        (f"{GOOD}\nDTSTART:20260303T090000Z", "malformed"),
        ("UID:x\nCATEGORIES:Travel\nDTSTART;VALUE=DATE:20260302", "no_person"),
        (
            "UID:x\nCATEGORIES:Travel\nDTSTART;VALUE=DATE:20260302\nATTENDEE:urn:uuid:1234",
            "no_person",
        ),
        (
            "UID:x\nCATEGORIES:Travel\nORGANIZER:mailto:a\nDTSTART;VALUE=DATE:20260302\n"
            "ATTENDEE;PARTSTAT=DECLINED:mailto:a",
            "no_person",
        ),
        (
            "UID:x\nCATEGORIES:Busy\nDTSTART;TZID=Atlantis:20260302T090000\nDURATION:PT1H",
            "unknown_zone",
        ),
        ("UID:x\nCATEGORIES:Busy\nDTSTART;VALUE=DATE:20260302\nDURATION:-P1D", "bad_time"),
        ("UID:x\nCATEGORIES:Busy\nDTSTART;VALUE=DATE:20260302\nDURATION:P900D", "bad_time"),
        ("UID:x\nCATEGORIES:Busy\nDTSTART;VALUE=DATE:19020302", "bad_time"),
        ("UID:x\nCATEGORIES:Busy\nDTSTART;VALUE=DATE:99991231", "bad_time"),
        (f"{GOOD}\nRRULE:FREQ=SECONDLY", "unsupported"),
        (f"{GOOD}\nRRULE:FREQ=DAILY;BYHOUR=1,2,3", "unsupported"),
        (f"{GOOD}\nRRULE:FREQ=DAILY;INTERVAL=0", "malformed"),
        (f"{GOOD}\nRRULE:FREQ=DAILY;COUNT=many", "malformed"),
        (f"{GOOD}\nRRULE:FREQ=DAILY\nRRULE:FREQ=WEEKLY", "malformed"),
        (f"{GOOD}\nRECURRENCE-ID;RANGE=THISANDFUTURE:20260302T090000Z", "unsupported"),
        (f"{GOOD}\nRDATE;VALUE=PERIOD:20260310T090000Z/PT1H", "unsupported"),
        (f"{GOOD}\nRDATE;VALUE=DATE:20260310", "malformed"),
        (f"{GOOD}\nRECURRENCE-ID:99991231T235959Z\nNONSENSE", "malformed"),
        ("UID:x\nCATEGORIES:Busy\nDTSTART;VALUE=DATE:20260302\nDURATION:20260303", "malformed"),
    ],
)
def test_an_event_that_makes_no_sense_has_a_reason_and_costs_no_other(
    tmp_path: Path, event: str, reason: str
) -> None:
    other = "UID:other\nCATEGORIES:Closed\nDTSTART;VALUE=DATE:20260302"
    read = calendar(tmp_path, event, other)
    assert [problem.reason for problem in read.problems] == [reason]
    assert [entry.uid.event for entry in read.entries] == ["other"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "END:VCALENDAR"),
        (b"hello", "END:VCALENDAR"),
        (b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:a\r\n", "truncated"),
        (b"BEGIN:VCALENDAR\r\nBEGIN:VEVENT\r\nUID:a\r\nEND:VCALENDAR\r\n", "feed.ics"),
        (b"BEGIN:VCALENDAR\r\n\xff\xfe\r\nEND:VCALENDAR\r\n", "line 2: is not UTF-8"),
        (b"END:VCALENDAR\r\n", "feed.ics"),
        (b"BEGIN:VCALENDAR\r\nTZID:x\r\nEND:VTIMEZONE\r\nEND:VCALENDAR\r\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_calendar_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "feed.ics"
    path.write_bytes(data)
    with pytest.raises(InvalidFile, match=why):
        icalendar_feed.read(path, horizon=HORIZON)


def test_people_may_sign_in_with_the_part_before_the_at(tmp_path: Path) -> None:
    path = tmp_path / "feed.ics"
    calendar(tmp_path, f"{GOOD.replace('Busy', 'Leave')}\nATTENDEE:mailto:ana@example.org")
    [entry] = icalendar_feed.read(path, horizon=HORIZON, is_local_part=True).entries
    assert isinstance(entry, Announced) and entry.person == "ana"
