"""What agents deliver: taken in durably at once, settled into the tables in bulk.

Between the two a batch lies in the database as it came, so that neither a restart nor a broken
worker loses what was accepted. Its id makes a second delivery of it a no-op.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
from django.db import connection, transaction

from desktops.errors import Refused
from desktops.models import AgentCredential, Batch, Source
from desktops.services.ingest import Stored, ensure_source, store
from desktops.services.locating import site_finder
from desktops.sources.agent import Batches, open_batch, read_batches
from desktops.sources.samples import Labels, Samples

BATCHES_AT_ONCE = 2000
BYTES_AT_ONCE = 64 << 20
HOUR = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Accepted:
    batch_id: UUID
    is_duplicate: bool


def accept(
    *, credential: AgentCredential, body: bytes, content_encoding: str, wall: datetime
) -> Accepted:
    """Take in one delivery of an agent. When this returns and its transaction has committed, the
    batch cannot be lost. Raises Refused, and then keeps nothing.

    credential : with its desktop and that one's pool
    """
    opened = open_batch(body, content_encoding)
    desktop = credential.desktop
    if opened.server_id != desktop.server_id:
        raise Refused(
            403, "wrong_server", "This desktop is not on that server (a copy of it may be)."
        )
    source = ensure_source(pool=desktop.pool, kind=Source.Kind.AGENT)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO desktops_batch (source_id, desktop_id, batch_id, received_at, body)"
            " VALUES (%s, %s, %s, %s, %s) ON CONFLICT (desktop_id, batch_id) DO NOTHING",
            [source.pk, desktop.pk, opened.batch_id, wall, opened.body],
        )
        is_new = cursor.rowcount == 1
    return Accepted(opened.batch_id, is_duplicate=not is_new)


def settle(*, clock: Callable[[], datetime], most: int | None = None) -> int:
    """Bring accepted batches into the tables, oldest first; returns how many.

    most : stop after about that many; None for all
    """
    settled = 0
    while most is None or settled < most:
        done = sum(
            _settle_some(source, wall=clock())
            for source in Source.objects.filter(
                pk__in=Batch.objects.filter(settled_at=None).values("source")
            )
        )
        if not done:
            break
        settled += done
    return settled


def _settle_some(source: Source, *, wall: datetime) -> int:
    with transaction.atomic():
        # Whoever settles this source already will go on; another would only wait for it.
        if not Source.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=source.pk):
            return 0
        batches = _unsettled(source)
        if batches:
            _write(source, batches, wall)
    return len(batches)


def _unsettled(source: Source) -> list[Batch]:
    """The oldest, as many as fit in memory."""
    some = Batch.objects.filter(source=source, settled_at=None).order_by("pk")
    batches: list[Batch] = []
    size = 0
    for batch in some.select_related("desktop").only(
        "pk", "body", "desktop__key", "desktop__desktop_user"
    )[:BATCHES_AT_ONCE]:
        batches.append(batch)
        size += len(batch.body)
        if size > BYTES_AT_ONCE:
            break
    return batches


def _write(source: Source, batches: Sequence[Batch], wall: datetime) -> None:
    columns = read_batches([bytes(batch.body) for batch in batches])
    stored = store(source=source, samples=_samples(batches, columns), wall=wall)
    clock = source.dataset.clock(wall=wall)
    _write_applications(batches, columns.applications, clock)
    _write_disk_reads(batches, columns.disk_reads, clock.date())
    _mark_settled(batches, columns, stored, wall)


def _samples(batches: Sequence[Batch], columns: Batches) -> Samples:
    """Where somebody's address is becomes a site here, and the address goes no further."""
    keys = tuple(dict.fromkeys(batch.desktop.key for batch in batches))
    number = {key: n for n, key in enumerate(keys)}
    desktop = np.array([number[batch.desktop.key] for batch in batches])
    n = len(columns.unix_s)
    return Samples(
        np.arange(n),
        columns.unix_s,
        Labels.none(n),
        Labels(keys, desktop[columns.batch]),
        _sites(columns),
        columns.measures,
    )


def _sites(columns: Batches) -> Labels:
    if not columns.addresses:
        return Labels.none(len(columns.unix_s))
    find = site_finder().find
    found = [find(address) for address in columns.addresses]
    codes = tuple(dict.fromkeys(code for code in found if code is not None))
    number = {code: n for n, code in enumerate(codes)}
    of_address = np.array([-1 if code is None else number[code] for code in found] + [-1])
    return Labels(codes, of_address[columns.address])


def _write_applications(
    batches: Sequence[Batch], items: Sequence[tuple[int, dict[str, Any]]], clock: datetime
) -> None:
    """Processor time by desktop, hour and application, added to what is known of the hour."""
    sums: dict[tuple[int, int, int, str], float] = {}
    for n, item in items:
        desktop = batches[n].desktop
        key = (item["hour"], desktop.pk, desktop.desktop_user_id or 0, item["application"])
        sums[key] = sums.get(key, 0.0) + item["cpu_core_s"]
    since, until = (clock - timedelta(days=8)).timestamp(), (clock + HOUR).timestamp()
    rows = sorted((*key, s) for key, s in sums.items() if since <= key[0] <= until)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO desktops_applicationuse"
            " (hour, desktop_id, desktop_user_id, application, cpu_core_s)"
            " SELECT to_timestamp(hour), desktop, nullif(person, 0), application, cpu_core_s"
            " FROM unnest(%s::bigint[], %s::bigint[], %s::bigint[], %s::text[], %s::real[])"
            " u (hour, desktop, person, application, cpu_core_s)"
            " ON CONFLICT (desktop_id, desktop_user_id, hour, application) DO UPDATE SET"
            " cpu_core_s = desktops_applicationuse.cpu_core_s + excluded.cpu_core_s",
            [[row[n] for row in rows] for n in range(5)],
        )


def _write_disk_reads(
    batches: Sequence[Batch], items: Sequence[tuple[int, dict[str, Any]]], today: date
) -> None:
    """Bytes read by desktop, day and extent, added to what is known of the day."""
    days = {str(today + timedelta(days=n)) for n in range(-8, 2)}
    rows = [
        (batches[n].desktop_id, item["day"], item["extent_bytes"], extent, read)
        for n, item in items
        if item["day"] in days
        for extent, read in zip(item["extents"], item["read_bytes"], strict=True)
    ]
    with connection.cursor() as cursor:
        cursor.execute(
            "WITH new AS ("
            " SELECT * FROM unnest(%s::bigint[], %s::date[], %s::bigint[], %s::int[], %s::bigint[])"
            " u (desktop_id, day, extent_bytes, extent, read)"
            "), known AS ("
            " SELECT k.desktop_id, k.day, k.extent_bytes, e.extent, e.read"
            " FROM desktops_diskread k"
            " JOIN (SELECT DISTINCT desktop_id, day, extent_bytes FROM new) n"
            " USING (desktop_id, day, extent_bytes),"
            " unnest(k.extents, k.read_bytes) e (extent, read)"
            "), summed AS ("
            " SELECT desktop_id, day, extent_bytes, extent, sum(read)::bigint AS read"
            " FROM (SELECT * FROM new UNION ALL SELECT * FROM known) b GROUP BY 1, 2, 3, 4"
            ")"
            " INSERT INTO desktops_diskread (desktop_id, day, extent_bytes, extents, read_bytes)"
            " SELECT desktop_id, day, extent_bytes, array_agg(extent ORDER BY extent),"
            " array_agg(read ORDER BY extent) FROM summed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
            " ON CONFLICT (desktop_id, day, extent_bytes) DO UPDATE SET"
            " extents = excluded.extents, read_bytes = excluded.read_bytes",
            [[row[n] for row in rows] for n in range(5)],
        )


def _mark_settled(
    batches: Sequence[Batch], columns: Batches, stored: Stored, wall: datetime
) -> None:
    n = len(batches)
    rows = np.bincount(columns.batch[stored.stored_lines], minlength=n)
    rejected = np.bincount(columns.batch[list(stored.rejected)], minlength=n)
    ids = [batch.pk for batch in batches]
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE desktops_batch b SET body = NULL, settled_at = %s, rows = u.rows,"
            " rejected_rows = u.rejected"
            " FROM unnest(%s::bigint[], %s::int[], %s::int[]) u (id, rows, rejected)"
            " WHERE b.id = u.id",
            [wall, ids, rows.tolist(), rejected.tolist()],
        )
        cursor.execute(
            "UPDATE desktops_agentcredential c SET last_seen_at = greatest(last_seen_at, b.at)"
            " FROM (SELECT desktop_id, max(received_at) AS at FROM desktops_batch"
            " WHERE id = ANY(%s) GROUP BY 1) b WHERE c.desktop_id = b.desktop_id",
            [ids],
        )
