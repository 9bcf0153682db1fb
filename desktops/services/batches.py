"""What agents deliver: taken in durably at once, settled into the tables in bulk.

Between the two a batch lies in the database as it came, so that neither a restart nor a broken
worker loses what was accepted. Its id makes a second delivery of it a no-op.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import psycopg
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Func, IntegerField, QuerySet, TextField
from django.db.models.functions import Cast, Coalesce
from psycopg.types.json import Jsonb

from desktops.errors import Refused
from desktops.models import AgentCredential, Batch, Site, Source
from desktops.services.ingest import Stored, ensure_source, store
from desktops.services.locating import site_finder
from desktops.sources.agent import ROW, open_batch
from desktops.sources.samples import MEASURES, IntArray, Labels, Samples

logger = logging.getLogger(__name__)

BATCHES_AT_ONCE = 2000
# Of batches as they wait. Rows become about eight times as much on the way into the tables.
BYTES_AT_ONCE = 32 << 20
# Applications and disk reads become objects: of a byte of JSON, many times as many as of a row's.
EXTRAS_WEIGHT = 8
HOUR = timedelta(hours=1)


# One round trip and one commit: a fleet does this a few hundred times a second.
INSERT_BATCH = """
WITH given AS (
    SELECT %s::bigint AS desktop_id, %s::uuid AS batch_id, %s::timestamptz AS at,
        %b::bytea AS body, %s::jsonb AS extras
), source AS (
    SELECT id FROM desktops_source WHERE pool_id = %s AND kind = 'agent' ORDER BY id LIMIT 1
), batch AS (
    INSERT INTO desktops_batch (source_id, desktop_id, batch_id, received_at, body, extras)
    SELECT source.id, given.* FROM given, source
    ON CONFLICT (desktop_id, batch_id) DO NOTHING RETURNING id
)
SELECT (SELECT count(*) FROM source), (SELECT count(*) FROM batch)
"""


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
    opened = open_batch(body, content_encoding, site_of=site_finder().find)
    desktop = credential.desktop
    if opened.server_id != desktop.server_id:
        raise Refused(
            403, "wrong_server", "This desktop is not on that server (a copy of it may be)."
        )
    extras = Jsonb(opened.extras) if opened.extras else None
    row = [desktop.pk, opened.batch_id, wall, opened.rows.tobytes(), extras]
    n_sources, n_batches = _insert(row, pool_id=desktop.pool_id)
    if not n_sources:
        ensure_source(pool=desktop.pool, kind=Source.Kind.AGENT)
        _, n_batches = _insert(row, pool_id=desktop.pool_id)
    return Accepted(opened.batch_id, is_duplicate=not n_batches)


def _insert(row: list[Any], *, pool_id: int) -> tuple[int, int]:
    """How many sources the pool has for agents (0 or 1), and how many batches were inserted.

    With a cursor that binds on the server, the body travels as it is. Django's own would write
    it into the statement in hexadecimal digits, to be read again there.
    """
    connection.ensure_connection()
    with connection.wrap_database_errors, psycopg.Cursor(connection.connection) as cursor:
        cursor.execute(INSERT_BATCH, [*row, pool_id])
        counts: tuple[int, int] = cursor.fetchone()
    return counts


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
    try:
        return _settle(source, wall)
    except (OperationalError, InterfaceError):
        raise  # the database is away: all of them wait
    except Exception:
        logger.exception("Batches of %s cannot be settled together; trying each.", source)
    # One that breaks the way must not keep the others of its pool waiting.
    waiting = Batch.objects.filter(source=source, settled_at=None).order_by("pk")
    return sum(_settle_alone(source, pk, wall) for pk in waiting.values_list("pk", flat=True))


def _settle_alone(source: Source, pk: int, wall: datetime) -> int:
    try:
        return _settle(source, wall, only=pk)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        logger.exception("Batch %d cannot be settled; it is kept.", pk)
        return 0


def _settle(source: Source, wall: datetime, *, only: int | None = None) -> int:
    with transaction.atomic():
        # Whoever settles this source already will go on; another would only wait for it.
        if not Source.objects.select_for_update(no_key=True, skip_locked=True).filter(pk=source.pk):
            return 0
        batches = _unsettled(source, only=only)
        if batches:
            _write(source, batches, wall)
    return len(batches)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An accepted batch that is not in the tables yet."""

    pk: int
    desktop_id: int
    desktop_key: str
    desktop_user_id: int | None
    owned_since: datetime | None
    body: bytes
    extras: dict[str, list[Any]] | None


def _unsettled(source: Source, *, only: int | None) -> list[_Waiting]:
    """The oldest, as many as fit in memory; at least one."""
    some = Batch.objects.filter(source=source, settled_at=None).order_by("pk")
    if only is not None:
        some = some.filter(pk=only)
    fields = (
        "pk",
        "desktop_id",
        "desktop__key",
        "desktop__desktop_user_id",
        "desktop__owned_since",
        "body",
        "extras",
    )
    chosen = some.filter(pk__in=_that_fit(some))
    return [_Waiting(*values) for values in chosen.values_list(*fields)]


def _that_fit(batches: QuerySet[Batch]) -> list[int]:
    """Measured in the database, before any of them is read."""
    sizes = batches.values_list(
        "pk",
        Coalesce(Func("body", function="octet_length", output_field=IntegerField()), 0),
        Coalesce(
            Func(Cast("extras", TextField()), function="octet_length", output_field=IntegerField()),
            0,
        ),
    )
    chosen: list[int] = []
    size = 0
    for pk, body_bytes, extras_bytes in sizes[:BATCHES_AT_ONCE]:
        size += body_bytes + EXTRAS_WEIGHT * extras_bytes
        if chosen and size > BYTES_AT_ONCE:
            break
        chosen.append(pk)
    return chosen


def _write(source: Source, batches: Sequence[_Waiting], wall: datetime) -> None:
    rows = np.frombuffer(b"".join(batch.body for batch in batches), dtype=ROW)
    lengths = np.array([len(batch.body) // ROW.itemsize for batch in batches])
    batch_of = np.repeat(np.arange(len(batches)), lengths)
    stored = store(source=source, samples=_samples(batches, rows, batch_of), wall=wall)
    clock = source.dataset.clock(wall=wall)
    _write_applications(_items(batches, "applications"), clock)
    _write_disk_reads(_items(batches, "disk_reads"), clock.date())
    _mark_settled(batches, batch_of, stored, wall)


def _samples(batches: Sequence[_Waiting], rows: np.ndarray, batch_of: IntArray) -> Samples:
    keys = tuple(dict.fromkeys(batch.desktop_key for batch in batches))
    number = {key: n for n, key in enumerate(keys)}
    desktop = np.array([number[batch.desktop_key] for batch in batches])
    n = len(rows)
    return Samples(
        np.arange(n),
        rows["at"],
        Labels.none(n),
        Labels(keys, desktop[batch_of]),
        _sites(batches, rows["site"], batch_of),
        {name: rows[name].astype(np.float64) for name in MEASURES},
    )


def _sites(batches: Sequence[_Waiting], site: IntArray, batch_of: IntArray) -> Labels:
    """Every batch's own numbers of sites as one list of codes; a site that was removed
    meanwhile is nowhere."""
    lists = [(batch.extras or {}).get("sites", ()) for batch in batches]
    wanted = {code for codes in lists for code in codes}
    known = Site.objects.filter(code__in=wanted).values_list("code", flat=True) if wanted else ()
    codes = tuple(known)
    number = {code: n for n, code in enumerate(codes)}
    numbers = np.full((len(batches), 1 + max(map(len, lists))), -1)
    for n, codes_of_batch in enumerate(lists):
        numbers[n, 1 : 1 + len(codes_of_batch)] = [number.get(c, -1) for c in codes_of_batch]
    return Labels(codes, numbers[batch_of, site])


def _items(batches: Sequence[_Waiting], name: str) -> list[tuple[_Waiting, dict[str, Any]]]:
    return [(batch, item) for batch in batches for item in (batch.extras or {}).get(name, ())]


def _write_applications(items: Sequence[tuple[_Waiting, dict[str, Any]]], clock: datetime) -> None:
    """Processor time by desktop, hour and application, added to what is known of the hour."""
    if not items:
        return
    sums: dict[tuple[int, int, int, str], float] = {}
    for batch, item in items:
        since = batch.owned_since
        is_theirs = since is None or item["hour"] >= since.timestamp()
        person = (batch.desktop_user_id or 0) if is_theirs else 0
        key = (item["hour"], batch.desktop_id, person, item["application"])
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


def _write_disk_reads(items: Sequence[tuple[_Waiting, dict[str, Any]]], today: date) -> None:
    """Bytes read by desktop, day and extent, added to what is known of the day.

    They are kept without a person: those of days of an earlier owner are not, when they come late.
    """
    if not items:
        return
    days = {str(today + timedelta(days=n)) for n in range(-8, 2)}
    rows = [
        (batch.desktop_id, item["day"], item["extent_bytes"], extent, read)
        for batch, item in items
        if item["day"] in days
        and (batch.owned_since is None or item["day"] >= str(batch.owned_since.date()))
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
            " SELECT desktop_id, day, extent_bytes, extent,"
            " least(sum(read), 1::bigint << 62)::bigint AS read"
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
    batches: Sequence[_Waiting], batch_of: IntArray, stored: Stored, wall: datetime
) -> None:
    n = len(batches)
    rows = np.bincount(batch_of[stored.stored_lines], minlength=n)
    rejected = np.bincount(batch_of[list(stored.rejected)], minlength=n)
    ids = [batch.pk for batch in batches]
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE desktops_batch b SET body = NULL, extras = NULL, settled_at = %s,"
            " rows = u.rows, rejected_rows = u.rejected"
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
