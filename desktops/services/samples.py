"""Raw samples: their partitions by day, and the way a fleet's rows go in once and fast."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
from django.db import connection
from psycopg import sql

from desktops.models import Sample, Source
from desktops.services.bulk import copy_fixed
from desktops.sources.samples import MEASURES, BoolArray, FloatArray, IntArray

TABLE = Sample._meta.db_table
DAY_S = 86_400
HOUR_S = 3600
# Two transactions that need the same new partition make it one after the other.
PARTITION_LOCK = 0x70617274


@dataclass(frozen=True, slots=True)
class Rows:
    """Observations of one source whose subjects are known; arrays of shape (n,).

    line : number of each in what was handed over
    person, desktop, site : row ids, 0 for nobody, nothing and nowhere
    measures : name in MEASURES → values, NaN where not observed
    """

    line: IntArray
    unix_s: IntArray
    person: IntArray
    desktop: IntArray
    site: IntArray
    measures: dict[str, FloatArray]

    def __len__(self) -> int:
        return len(self.line)

    def take(self, rows: BoolArray | IntArray) -> Rows:
        return Rows(
            self.line[rows],
            self.unix_s[rows],
            self.person[rows],
            self.desktop[rows],
            self.site[rows],
            {name: values[rows] for name, values in self.measures.items()},
        )


def write_samples(*, source: Source, rows: Rows, at: datetime) -> Rows:
    """Store what is not there yet, and mark the hours to roll up; returns what was stored.

    The caller holds the source's row locked: nobody else writes samples of this source.
    """
    rows = _not_there_yet(source, _once(rows))
    if not len(rows):
        return rows
    _ensure_partitions(np.unique(rows.unix_s // DAY_S))
    n = len(rows)
    nowhere = np.full(n, np.nan)
    copy_fixed(
        TABLE,
        {
            "at": ("timestamptz", rows.unix_s),
            "desktop_user_id": ("int8", rows.person),
            "desktop_id": ("int8", rows.desktop),
            "source_id": ("int8", np.full(n, source.pk)),
            "site_id": ("int8", rows.site),
            **{name: ("float4", rows.measures.get(name, nowhere)) for name in MEASURES},
        },
    )
    _mark_hours(rows, at)
    _raise_watermarks(source, rows)
    _note_sightings(source, rows)
    return rows


def partition_days() -> list[date]:
    """Days for which there is a partition, oldest first."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = %s::regclass ORDER BY 1",
            [TABLE],
        )
        names = [name for (name,) in cursor.fetchall()]
    matches = (re.fullmatch(rf"{TABLE}_(\d{{4}})(\d\d)(\d\d)", name) for name in names)
    return [date(*map(int, match.groups())) for match in matches if match]


def drop_partitions(*, before: date) -> list[date]:
    """Drop whole days before `before`; returns which. Readers and writers wait a moment."""
    dropped = [day for day in partition_days() if day < before]
    for day in dropped:
        drop_partition(day)
    return dropped


def drop_partition(day: date) -> None:
    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("DROP TABLE {}").format(_partition(day)))


def _partition(day: date) -> sql.Identifier:
    return sql.Identifier(f"{TABLE}_{day:%Y%m%d}")


def _ensure_partitions(days: IntArray) -> None:
    """days : since 1970 UTC"""
    wanted = {datetime.fromtimestamp(int(day) * DAY_S, UTC).date() for day in days}
    if wanted <= set(partition_days()):
        return
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [PARTITION_LOCK])
        for day in sorted(wanted - set(partition_days())):
            # Made apart and attached: readers of the other days need not wait for it.
            cursor.execute(
                sql.SQL(
                    "CREATE TABLE {part} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS);"
                    "ALTER TABLE {table} ATTACH PARTITION {part}"
                    " FOR VALUES FROM ({since}) TO ({to})"
                ).format(
                    part=_partition(day),
                    table=sql.Identifier(TABLE),
                    since=sql.Literal(f"{day} 00:00+00"),
                    to=sql.Literal(f"{day + timedelta(days=1)} 00:00+00"),
                )
            )


def _once(rows: Rows) -> Rows:
    """The first of several observations of one subject at one moment."""
    order = np.lexsort((rows.line, rows.unix_s, rows.desktop, rows.person))
    return rows.take(order[_changes(_keys(rows)[order])])


def _changes(rows: IntArray) -> BoolArray:
    """(n,): whether row n of an (n, k) array differs from the one before it; the first does."""
    changes = np.ones(len(rows), dtype=np.bool_)
    changes[1:] = (rows[1:] != rows[:-1]).any(axis=1)
    return changes


def _keys(rows: Rows) -> IntArray:
    """(n, 3): what no two rows of a source share."""
    return np.column_stack((rows.person, rows.desktop, rows.unix_s))


def _not_there_yet(source: Source, rows: Rows) -> Rows:
    """rows : ordered by subject and time, each once"""
    newest = _watermarks(source, rows)
    late = np.flatnonzero(rows.unix_s <= newest)
    if not len(late):
        return rows
    keys = _keys(rows.take(late))
    there = _stored_keys(source, keys)
    is_there = np.array([tuple(key) in there for key in keys.tolist()], dtype=np.bool_)
    keep = np.ones(len(rows), dtype=np.bool_)
    keep[late[is_there]] = False
    return rows.take(keep)


def _watermarks(source: Source, rows: Rows) -> IntArray:
    """(n,): the newest second stored of each row's subject, below every second where none is."""
    subject = np.column_stack((rows.person, rows.desktop))
    is_next = _changes(subject)
    subjects = subject[is_next]
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT s.n, extract(epoch FROM newest_at)::bigint FROM desktops_watermark w"
            " JOIN unnest(%s::bigint[], %s::bigint[]) WITH ORDINALITY s (person, desktop, n)"
            " ON w.desktop_user_id = s.person AND w.desktop_id = s.desktop"
            " WHERE w.source_id = %s",
            [subjects[:, 0].tolist(), subjects[:, 1].tolist(), source.pk],
        )
        found = np.array(cursor.fetchall(), dtype=np.int64).reshape(-1, 2)
    newest = np.full(len(subjects), np.iinfo(np.int64).min)
    newest[found[:, 0] - 1] = found[:, 1]
    result: IntArray = newest[np.cumsum(is_next) - 1]
    return result


def _stored_keys(source: Source, keys: IntArray) -> set[tuple[int, int, int]]:
    """Which of these late rows, or others of their subjects and hours, are stored.

    Hour by hour, as the table is found by time alone: one row of last week beside one of today
    would otherwise have everything in between read.
    """
    stored: set[tuple[int, int, int]] = set()
    hour = keys[:, 2] // HOUR_S
    with connection.cursor() as cursor:
        for each in np.unique(hour):
            late = keys[hour == each]
            cursor.execute(
                f"SELECT desktop_user_id, desktop_id, extract(epoch FROM at)::bigint FROM {TABLE}"
                " WHERE source_id = %s AND at >= to_timestamp(%s) AND at <= to_timestamp(%s)"
                " AND desktop_user_id = ANY(%s) AND desktop_id = ANY(%s)",
                [
                    source.pk,
                    int(late[:, 2].min()),
                    int(late[:, 2].max()),
                    np.unique(late[:, 0]).tolist(),
                    np.unique(late[:, 1]).tolist(),
                ],
            )
            stored.update(cursor.fetchall())
    return stored


def _mark_hours(rows: Rows, at: datetime) -> None:
    """rows : ordered by subject and time

    In one order for everybody, so that two writers never wait for each other in a circle.

    An hour that is marked already is marked again, not passed over: the lock on its row keeps a
    roll-up from taking the mark before these samples are there to be seen.
    """
    hours = np.column_stack((rows.unix_s // HOUR_S * HOUR_S, rows.person, rows.desktop))
    hours = hours[_changes(hours)]
    _execute_arrays(
        "INSERT INTO desktops_dirtyhour (hour, desktop_user_id, desktop_id, marked_at)"
        " SELECT to_timestamp(hour), person, desktop, %s"
        " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) u (hour, person, desktop)"
        " ORDER BY hour, person, desktop"
        " ON CONFLICT (hour, desktop_user_id, desktop_id)"
        " DO UPDATE SET marked_at = excluded.marked_at",
        [at, *(hours[:, n].tolist() for n in range(3))],
    )


def _raise_watermarks(source: Source, rows: Rows) -> None:
    """rows : ordered by subject and time"""
    last = _last_of_subject(rows)
    _execute_arrays(
        "INSERT INTO desktops_watermark (source_id, desktop_user_id, desktop_id, newest_at)"
        " SELECT %s, person, desktop, to_timestamp(at)"
        " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) u (person, desktop, at)"
        " ON CONFLICT (source_id, desktop_user_id, desktop_id)"
        " DO UPDATE SET newest_at = greatest(desktops_watermark.newest_at, excluded.newest_at)",
        [source.pk, last.person.tolist(), last.desktop.tolist(), last.unix_s.tolist()],
    )


def _note_sightings(source: Source, rows: Rows) -> None:
    """The newest place of each person, unless a newer one is known."""
    seen = rows.take((rows.site > 0) & (rows.person > 0))
    if not len(seen):
        return
    order = np.lexsort((seen.unix_s, seen.person))
    is_last = np.append(seen.person[order][1:] != seen.person[order][:-1], True)
    last = seen.take(order[is_last])
    _execute_arrays(
        "INSERT INTO desktops_sighting (desktop_user_id, site_id, at, source_id)"
        " SELECT person, site, to_timestamp(at), %s"
        " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[]) u (person, site, at)"
        " ORDER BY person"
        " ON CONFLICT (desktop_user_id) DO UPDATE"
        " SET site_id = excluded.site_id, at = excluded.at, source_id = excluded.source_id"
        " WHERE excluded.at > desktops_sighting.at",
        [source.pk, last.person.tolist(), last.site.tolist(), last.unix_s.tolist()],
    )


def _last_of_subject(rows: Rows) -> Rows:
    """rows : ordered by subject and time"""
    is_next = _changes(np.column_stack((rows.person, rows.desktop)))
    return rows.take(np.append(is_next[1:], True))


def _execute_arrays(statement: str, parameters: list[Any]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
