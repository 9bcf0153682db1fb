"""Sessions from the connection history that Apache Guacamole keeps in PostgreSQL.

Two kinds of rows come of it. A session's beginning says at once where somebody is. An hour that is
over says which share of it each person was in session; an hour is handed over once, when nothing
about it can change any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import psycopg

from desktops.errors import SourceFailed
from desktops.sources.entries import Options
from desktops.sources.pulling import Pulled
from desktops.sources.registry import SiteOf
from desktops.sources.samples import FloatArray, IntArray, Labels, Samples

MAKES_PEOPLE = True
SETTLE_S = 60  # Guacamole writes a record after the connection stands
HOUR_S = 3600
WINDOW_S = 24 * HOUR_S
CONNECT_S = 10

SESSIONS = """
SELECT username, remote_host, connection_name,
    extract(epoch FROM start_date)::float8, extract(epoch FROM end_date)::float8
FROM guacamole_connection_history
WHERE start_date >= to_timestamp(%s) AND start_date < to_timestamp(%s)
    AND (end_date IS NULL OR end_date > to_timestamp(%s))
    AND sharing_profile_id IS NULL
ORDER BY start_date, history_id
"""
KNOWN = """
SELECT DISTINCT username FROM guacamole_connection_history
WHERE start_date >= to_timestamp(%s) AND start_date < to_timestamp(%s)
    AND sharing_profile_id IS NULL
"""


def connect(options: Options, *, site_of: SiteOf) -> GuacamoleSource:
    """Raises InvalidFile."""
    source = GuacamoleSource(
        dsn=options.text("dsn"),
        site_of=site_of,
        desktop_pattern=options.pattern("desktop_pattern", "(.+)"),
        longest_session_s=options.whole("longest_session_h", 24, maximum=24 * 31) * HOUR_S,
        known_s=options.whole("known_days", 30, maximum=366) * 86_400,
        timeout_s=options.whole("timeout_s", 60, maximum=600),
    )
    options.finish()
    return source


@dataclass(frozen=True, slots=True)
class Sessions:
    """Arrays of shape (n,), ordered by start_s.

    person : number in the names of the window
    end_s : when it ended, or will at the latest
    """

    person: IntArray
    desktop: Labels
    site: Labels
    start_s: FloatArray
    end_s: FloatArray


@dataclass(slots=True)
class GuacamoleSource:
    """longest_session_s : an open session counts for so long; after a crash Guacamole leaves the
        records of that moment open for ever
    known_s : who had a session so long ago is at least known not to have one
    """

    dsn: str
    site_of: SiteOf
    desktop_pattern: re.Pattern[str]
    longest_session_s: int
    known_s: int
    timeout_s: int
    _connection: psycopg.Connection | None = field(default=None)

    def pull(self, since: datetime, until: datetime) -> Iterator[Pulled]:
        """Sessions that began from `since` on, hours that ended after it. Raises SourceFailed."""
        begin, end = int(since.timestamp()), int(until.timestamp())
        while begin < end:
            stop = min(end, begin - begin % HOUR_S + WINDOW_S)
            try:
                samples = self._samples(begin, stop)
            except psycopg.Error as error:
                self.close()
                raise SourceFailed(f"Guacamole's database: {_complaint(error)}") from error
            yield Pulled(samples, datetime.fromtimestamp(stop, UTC))
            begin = stop

    def _samples(self, begin_s: int, end_s: int) -> Samples:
        first_hour = begin_s // HOUR_S * HOUR_S
        earliest = first_hour - self.longest_session_s
        with self._open().cursor() as cursor:
            cursor.execute(SESSIONS, [earliest, end_s, first_hour])
            rows = cursor.fetchall()
            cursor.execute(KNOWN, [first_hour - self.known_s, end_s])
            names = tuple(sorted(name for (name,) in cursor.fetchall()))
        sessions = self._sessions(rows, names)
        hours = np.arange(first_hour, end_s // HOUR_S * HOUR_S, HOUR_S)
        return _joined(names, _beginnings(sessions, begin_s, end_s), _hours(sessions, hours, names))

    def _open(self) -> psycopg.Connection:
        if self._connection is None:
            self._connection = psycopg.connect(
                self.dsn,
                connect_timeout=CONNECT_S,
                autocommit=True,
                application_name="foredesk",
            )
            self._connection.execute("SET default_transaction_read_only = on")
            self._connection.execute(
                "SELECT set_config('statement_timeout', %s, false)", [f"{self.timeout_s}s"]
            )
        return self._connection

    def _sessions(self, rows: Sequence[tuple], names: Sequence[str]) -> Sessions:
        number = {name: n for n, name in enumerate(names)}
        rows = [row for row in rows if row[0] in number]
        start = np.array([row[3] for row in rows], dtype=np.float64)
        longest = start + self.longest_session_s
        end = np.array([np.nan if row[4] is None else row[4] for row in rows], dtype=np.float64)
        return Sessions(
            person=np.array([number[row[0]] for row in rows], dtype=np.int64),
            desktop=_labels([self._desktop(row[2]) for row in rows]),
            site=_labels([self.site_of(row[1]) if row[1] else None for row in rows]),
            start_s=start,
            end_s=np.where(np.isnan(end), longest, end),
        )

    def _desktop(self, connection_name: str | None) -> str | None:
        found = self.desktop_pattern.search(connection_name or "")
        return found and found.group(1)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _complaint(error: psycopg.Error) -> str:
    """Its first line; a DSN is never part of it, and neither is a name of a person."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _labels(values: Sequence[str | None]) -> Labels:
    known: dict[str, int] = {}
    codes = [known.setdefault(value, len(known)) if value else -1 for value in values]
    return Labels(tuple(known), np.array(codes, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class _Rows:
    person: IntArray
    unix_s: IntArray
    desktop: Labels
    site: Labels
    active_ratio: FloatArray


def _beginnings(sessions: Sessions, begin_s: int, end_s: int) -> _Rows:
    """Where somebody was when a session began."""
    new = (sessions.start_s >= begin_s) & (sessions.start_s < end_s) & sessions.site.is_given
    at = np.floor(sessions.start_s[new]).astype(np.int64)
    return _Rows(
        person=sessions.person[new],
        # The second at which an hour begins is taken by the row of that hour, to come later.
        unix_s=at + (at % HOUR_S == 0),
        desktop=Labels(sessions.desktop.values, sessions.desktop.codes[new]),
        site=Labels(sessions.site.values, sessions.site.codes[new]),
        active_ratio=np.full(int(new.sum()), np.nan),
    )


def _hours(sessions: Sessions, hours: IntArray, names: Sequence[str]) -> _Rows:
    """Of every person and hour the share in session, the desktop of the longest session, and the
    place of a session that was there when the hour began."""
    shape = (len(hours), len(names))
    active_s = np.zeros(shape)
    longest_s = np.zeros(shape)
    desktop = np.full(shape, -1, dtype=np.int64)
    site = np.full(shape, -1, dtype=np.int64)
    # Up to when a person's time is counted: sessions that overlap fill an hour once.
    counted_s = np.full(len(names), -np.inf)
    for n, person in enumerate(sessions.person):
        start, end = sessions.start_s[n], sessions.end_s[n]
        held = np.clip(np.minimum(end, hours + HOUR_S) - np.maximum(start, hours), 0, None)
        fresh = np.maximum(start, counted_s[person])
        added = np.clip(np.minimum(end, hours + HOUR_S) - np.maximum(fresh, hours), 0, None)
        active_s[:, person] += added
        counted_s[person] = max(counted_s[person], end)
        is_longest = held > longest_s[:, person]
        longest_s[is_longest, person] = held[is_longest]
        desktop[is_longest, person] = sessions.desktop.codes[n]
        is_there = (start <= hours) & (end > hours) & (sessions.site.codes[n] >= 0)
        site[is_there, person] = sessions.site.codes[n]
    hour, person = np.indices(shape).reshape(2, -1)
    return _Rows(
        person=person,
        unix_s=hours[hour],
        desktop=Labels(sessions.desktop.values, desktop.ravel()),
        site=Labels(sessions.site.values, site.ravel()),
        active_ratio=np.minimum(active_s.ravel() / HOUR_S, 1.0),
    )


def _joined(names: tuple[str, ...], *parts: _Rows) -> Samples:
    """parts : of the same sessions, so that their labels have the same numbers"""
    at = np.concatenate([part.unix_s for part in parts])
    return Samples(
        np.arange(1, len(at) + 1),
        at,
        Labels(names, np.concatenate([part.person for part in parts])),
        *(
            Labels(
                getattr(parts[0], name).values,
                np.concatenate([getattr(part, name).codes for part in parts]),
            )
            for name in ("desktop", "site")
        ),
        {"active_ratio": np.concatenate([part.active_ratio for part in parts])},
    )
