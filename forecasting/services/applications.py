"""What ran on people's desktops, and how much was read from their disks, beside their demand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
from django.db import connection

from desktops.models import ApplicationUse, Desktop, DiskRead
from forecasting.core.arrays import AnyArray
from forecasting.core.profiles import HOUR
from forecasting.history import ARRAY_HEADER_BYTES, Subject

# Applications kept apart (the others are one more kind, disk reads another), and how many subjects
# are looked at to choose them.
MOST_APPLICATIONS, MOST_ASKED = 6, 250

USED = f"""
SELECT who.row, u.hour, u.application, u.cpu_core_s
FROM unnest(%(users)s::bigint[], %(user_rows)s::bigint[]) who (id, row)
    JOIN {ApplicationUse._meta.db_table} u ON u.desktop_user_id = who.id
WHERE u.hour >= %(start)s AND u.hour < %(end)s
UNION ALL
SELECT who.row, u.hour, u.application, u.cpu_core_s
FROM unnest(%(desktops)s::bigint[], %(desktop_rows)s::bigint[]) who (id, row)
    JOIN {ApplicationUse._meta.db_table} u ON u.desktop_id = who.id AND u.desktop_user_id IS NULL
WHERE u.hour >= %(start)s AND u.hour < %(end)s
"""
OBSERVED = f"""
SELECT who.row FROM unnest(%(users)s::bigint[], %(user_rows)s::bigint[]) who (id, row)
WHERE EXISTS (
    SELECT FROM {ApplicationUse._meta.db_table} u
    WHERE u.desktop_user_id = who.id AND u.hour >= %(start)s AND u.hour < %(end)s
)
UNION ALL
SELECT who.row FROM unnest(%(desktops)s::bigint[], %(desktop_rows)s::bigint[]) who (id, row)
WHERE EXISTS (
    SELECT FROM {ApplicationUse._meta.db_table} u
    WHERE u.desktop_id = who.id AND u.desktop_user_id IS NULL
        AND u.hour >= %(start)s AND u.hour < %(end)s
)
ORDER BY 1
"""
# An application that somebody runs every day says nothing that their demand does not; kept apart
# are those that many run on some days and not on others (the variance of use by day, added up).
CHOOSE = f"""
WITH by_day AS (
    SELECT row, date_bin('1 day', hour, %(start)s) AS day, application
    FROM ({USED}) used GROUP BY 1, 2, 3
), ran AS (
    SELECT row, application, count(*)::float AS days FROM by_day GROUP BY 1, 2
), worked AS (
    SELECT row, count(*) AS days FROM (SELECT DISTINCT row, day FROM by_day) each GROUP BY 1
)
SELECT application FROM ran JOIN worked USING (row) GROUP BY application
ORDER BY sum(ran.days * (1 - ran.days / worked.days)) DESC, count(*) DESC, application
LIMIT %(most)s
"""
# An hour becomes one row of arrays, as a message for every row is what takes long.
READ = f"""
COPY (
    SELECT (extract(epoch FROM hour - %(start)s) / 3600)::int, array_agg(row),
        array_agg(coalesce(array_position(%(chosen)s::text[], application::text) - 1, %(most)s)),
        array_agg(cpu_core_s)
    FROM ({USED}) used
    GROUP BY hour
) TO STDOUT (FORMAT binary)
"""
READ_DISKS = f"""
SELECT who.row, read.day, sum(bytes)
FROM unnest(%s::bigint[], %s::bigint[]) who (id, row)
    JOIN {Desktop._meta.db_table} desktop ON desktop.id = who.id
    JOIN {DiskRead._meta.db_table} read ON read.desktop_id = who.id,
    LATERAL unnest(read.read_bytes) bytes
WHERE read.day >= %s AND read.day < %s
    AND (desktop.owned_since IS NULL OR read.day > desktop.owned_since::date)
GROUP BY who.row, read.day
"""


def read_related(subjects: Sequence[Subject], start: datetime, hours: int) -> AnyArray | None:
    """Of the `hours` from `start` on: seconds of one core by application, and bytes read by day.

    Returns float32 of shape (n_subjects, hours, n_kinds): the applications whose use varies most
    from day to day, the others together, and what was read from the disk on a day (UTC), told in
    its last hour, when it is known. 0 where it did not happen; NaN before a subject's first
    observation, as nobody looked. None where nothing of the kind was ever observed.
    """
    found = (_applications(subjects, start, hours), _disk_reads(subjects, start, hours))
    kinds = [each for each in found if each is not None]
    return np.concatenate(kinds, axis=2) if kinds else None


def _applications(subjects: Sequence[Subject], start: datetime, hours: int) -> AnyArray | None:
    use = np.zeros((len(subjects), hours, MOST_APPLICATIONS + 1), dtype=np.float32)
    seen = np.zeros((len(subjects), hours), dtype=np.bool_)
    for slot, rows, kinds, cpu_core_s in _copied(subjects, start, hours):
        np.add.at(use, (rows, slot, kinds), cpu_core_s)
        seen[rows, slot] = True
    ran = use.any(axis=(0, 1))
    if not ran.any():
        return None
    use[~np.logical_or.accumulate(seen, axis=1)] = np.nan
    return use[:, :, ran]


def _copied(
    subjects: Sequence[Subject], start: datetime, hours: int
) -> Iterator[tuple[int, AnyArray, AnyArray, AnyArray]]:
    """Hour by hour: its number, then of each use the subject's row, the kind and the seconds."""
    start = start.astimezone(UTC)
    words = {"start": start, "end": start + hours * HOUR, "most": MOST_APPLICATIONS}
    with connection.cursor() as cursor:
        cursor.execute(OBSERVED, words | _whose(subjects, range(len(subjects))))
        observed = [row for (row,) in cursor.fetchall()]
        if not observed:
            return
        asked = observed[:: -(-len(observed) // MOST_ASKED)]
        cursor.execute(CHOOSE, words | _whose(subjects, asked))
        chosen = [application for (application,) in cursor.fetchall()]
        words |= {"chosen": chosen} | _whose(subjects, observed)
        with cursor.copy(cursor.mogrify(READ, words)) as copy:
            for slot, rows, kinds, cpu_core_s in copy.rows():
                yield (
                    int.from_bytes(slot),
                    _elements(rows, ">i8"),
                    _elements(kinds, ">i4"),
                    _elements(cpu_core_s, ">f4"),
                )


def _whose(subjects: Sequence[Subject], rows: Iterable[int]) -> dict[str, list[int]]:
    """A person's row is theirs whatever they sit at; only a machine without one goes by itself."""
    people = {user: row for row in rows if (user := subjects[row].desktop_user_id)}
    machines = {
        desktop: row
        for row in rows
        if (desktop := subjects[row].desktop_id) and not subjects[row].desktop_user_id
    }
    return {
        "users": list(people),
        "user_rows": list(people.values()),
        "desktops": list(machines),
        "desktop_rows": list(machines.values()),
    }


def _elements(array: bytes, kind: str) -> AnyArray:
    """The elements of PostgreSQL's array without NULLs: each has its size before it."""
    element = np.dtype([("size", ">i4"), ("value", kind)])
    return np.frombuffer(array, element, offset=ARRAY_HEADER_BYTES)["value"].astype(kind[1:])


def _disk_reads(subjects: Sequence[Subject], start: datetime, hours: int) -> AnyArray | None:
    start = start.astimezone(UTC)
    row_of = {s.desktop_id: row for row, s in enumerate(subjects) if s.desktop_id}
    with connection.cursor() as cursor:
        # A day that is not over is not known.
        cursor.execute(
            READ_DISKS,
            [
                list(row_of),
                list(row_of.values()),
                start.date(),
                (start + hours * HOUR).date(),
            ],
        )
        found = cursor.fetchall()
    if not found:
        return None
    read_bytes = np.zeros((len(subjects), hours, 1), dtype=np.float32)
    seen = np.zeros((len(subjects), hours), dtype=np.bool_)
    for row, day, total in found:
        last_hour = datetime(day.year, day.month, day.day, 23, tzinfo=UTC)
        slot = (last_hour - start) // timedelta(hours=1)
        read_bytes[row, slot] = float(total)
        seen[row, slot] = True
    read_bytes[~np.logical_or.accumulate(seen, axis=1)] = np.nan
    return read_bytes
