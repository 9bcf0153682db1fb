"""Reading the simulated cloud's journal: who accepted sessions when, and why nobody did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from desktops.clouds.simulator.driver import instant


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `at` is the simulated instant, `wall_at` the real one it corresponds to.

    accepting : ids of the desktop's servers that accept sessions from here on; None when the
        entry is no change of a desktop's server
    """

    seq: int
    at: datetime
    wall_at: datetime
    kind: str
    region: str
    resource_id: str
    desktop_key: str
    detail: Mapping[str, Any]
    accepting: tuple[str, ...] | None

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Entry:
        accepting = row["accepting"]
        return Entry(
            seq=row["seq"],
            at=instant(row["at_ms"]),
            wall_at=instant(row["wall_ms"]),
            kind=row["kind"],
            region=row["region"],
            resource_id=row["resource_id"],
            desktop_key=row["desktop_key"],
            detail=row["detail"],
            accepting=None if accepting is None else tuple(accepting),
        )


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which nobody could have a session; `until` is None while it lasts."""

    since: datetime
    until: datetime | None
    was_held: bool

    @property
    def length(self) -> timedelta | None:
        return None if self.until is None else self.until - self.since


def doubles(entries: Iterable[Entry]) -> list[Entry]:
    """Entries after which more than one copy of a desktop accepted sessions."""
    return [e for e in entries if e.accepting is not None and len(e.accepting) > 1]


def gaps(entries: Iterable[Entry], *, desktop_key: str) -> list[Gap]:
    """The times in which no copy of a desktop accepted sessions, after the first that did.

    was_held : the gateway was holding the session when the gap began
    """
    found: list[Gap] = []
    since: datetime | None = None
    has_accepted = is_held = began_held = False
    for entry in entries:
        if entry.desktop_key != desktop_key:
            continue
        if entry.kind == "session.held":
            is_held = True
        elif entry.kind == "session.pointed":
            is_held = False
        if entry.accepting:
            has_accepted = True
            if since is not None:
                found.append(Gap(since, entry.at, began_held))
                since = None
        elif entry.accepting is not None and has_accepted and since is None:
            since, began_held = entry.at, is_held
    if since is not None:
        found.append(Gap(since, None, began_held))
    return found


def sessions_of(entries: Iterable[Entry], *, desktop_key: str) -> list[tuple[datetime, str]]:
    """The course of a user's session: (instant, server id), "" where it was lost."""
    return [
        (e.at, e.resource_id if e.kind == "session.connected" else "")
        for e in entries
        if e.desktop_key == desktop_key and e.kind in ("session.connected", "session.disconnected")
    ]
