from __future__ import annotations

from datetime import UTC, datetime, timedelta

from desktops.clouds.simulator.journal import Entry, Gap, doubles, gaps, sessions_of

START = datetime(2026, 3, 2, 8, tzinfo=UTC)


def entries(*course: tuple[str, tuple[str, ...] | None]) -> list[Entry]:
    """One entry a second: what happened, and who accepts sessions from then on."""
    return [
        Entry(
            seq=n + 1,
            at=START + timedelta(seconds=n),
            wall_at=START,
            kind=kind,
            region="east",
            resource_id="a",
            desktop_key="ana",
            detail={},
            accepting=accepting,
        )
        for n, (kind, accepting) in enumerate(course)
    ]


def test_a_gap_in_a_hold_is_told_from_one_without() -> None:
    course = entries(
        ("server.building", ()),
        ("server.active", ("a",)),
        ("session.held", None),
        ("server.fenced", ()),
        ("server.unfenced", ("b",)),
        ("session.pointed", None),
        ("server.fenced", ()),
    )
    assert gaps(course, desktop_key="ana") == [
        Gap(START + timedelta(seconds=3), START + timedelta(seconds=4), was_held=True),
        Gap(START + timedelta(seconds=6), None, was_held=False),
    ]
    assert gaps(course, desktop_key="ben") == []


def test_a_gap_that_began_before_the_hold_was_not_held() -> None:
    course = entries(
        ("server.active", ("a",)),
        ("server.fenced", ()),
        ("session.held", None),
        ("server.unfenced", ("a",)),
    )
    (gap,) = gaps(course, desktop_key="ana")
    assert not gap.was_held
    assert gap.length == timedelta(seconds=2)


def test_doubles_are_the_entries_that_leave_two_copies_open() -> None:
    course = entries(
        ("server.active", ("a",)),
        ("server.unfenced", ("a", "b")),
        ("session.held", None),
        ("server.fenced", ("b",)),
    )
    assert [entry.seq for entry in doubles(course)] == [2]


def test_the_course_of_a_session() -> None:
    course = entries(
        ("session.connected", None), ("session.held", None), ("session.disconnected", None)
    )
    assert sessions_of(course, desktop_key="ana") == [
        (START, "a"),
        (START + timedelta(seconds=2), ""),
    ]
