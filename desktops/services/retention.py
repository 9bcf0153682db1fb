"""How long each kind of data is kept, enforced in small steps.

What is timed by its data set (samples, hours, notices) is counted from that data set's clock, so
that recorded history does not age on the shelf; what is timed by the wall (deliveries, looks)
from the wall.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta

from django.conf import settings
from django.db import DatabaseError, OperationalError, connection, transaction
from django.db.models import Q, QuerySet

from desktops.models import (
    Activity,
    AgentCommand,
    ApplicationUse,
    Batch,
    Dataset,
    DiskRead,
    Erasure,
    Look,
    Notice,
    QuarantinedRow,
    RoundTripProbe,
    Sample,
    Sighting,
    Source,
    Watermark,
)
from desktops.services.samples import drop_partition, partition_days

log = logging.getLogger(__name__)
LOCK = 0x72657461
ROWS_AT_ONCE = 5000
DAY = timedelta(days=1)
# Dropping a day waits for whoever reads samples, and everybody after waits for it.
LONGEST_WAIT_S = 5

Due = Callable[[Dataset, datetime], QuerySet]

# Kind → what is older than a moment of the data set's clock.
BY_DATASET: tuple[tuple[str, Due], ...] = (
    ("activity", lambda d, t: Activity.objects.filter(dataset=d, hour__lt=t)),
    ("activity", lambda d, t: ApplicationUse.objects.filter(desktop__dataset=d, hour__lt=t)),
    ("activity", lambda d, t: DiskRead.objects.filter(desktop__dataset=d, day__lt=t.date())),
    ("activity", lambda d, t: Sighting.objects.filter(desktop_user__dataset=d, at__lt=t)),
    ("samples", lambda d, t: Watermark.objects.filter(source__dataset=d, newest_at__lt=t)),
    ("notices", lambda d, t: Notice.objects.filter(dataset=d, ends_at__lt=t)),
)
# Kind → what is older than a moment of the wall clock.
BY_WALL: tuple[tuple[str, Callable[[datetime], QuerySet]], ...] = (
    ("batches", lambda t: Batch.objects.filter(received_at__lt=t, settled_at__isnull=False)),
    ("quarantine", lambda t: QuarantinedRow.objects.filter(received_at__lt=t)),
    (
        "commands",
        lambda t: AgentCommand.objects.filter(Q(finished_at__lt=t) | Q(expires_at__lt=t)),
    ),
    ("probes", lambda t: RoundTripProbe.objects.filter(at__lt=t)),
    ("looks", lambda t: Look.objects.filter(hour__lt=t)),
    ("looks", lambda t: Erasure.objects.filter(finished_at__lt=t)),
)


@contextmanager
def alone(lock: int) -> Iterator[bool]:
    """Whether nobody else does the same now. The lock goes with a worker that dies."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s)", [lock])
        (is_ours,) = cursor.fetchone()
    try:
        yield is_ours
    finally:
        if is_ours:
            with suppress(DatabaseError), connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [lock])


def days_kept(kind: str) -> int:
    """0: for ever."""
    days: Mapping[str, int] = settings.RETENTION_DAYS
    return days[kind]


def enforce_retention(*, wall: datetime) -> dict[str, int]:
    """Delete what is older than its kind is kept; kind → rows (samples: days) that went."""
    gone: dict[str, int] = {}
    with alone(LOCK) as is_ours:
        if not is_ours:
            return gone
        for dataset in Dataset.objects.order_by("pk"):
            for kind, due in BY_DATASET:
                if days := days_kept(kind):
                    moment = dataset.clock(wall=wall) - days * DAY
                    _add(gone, kind, delete_in_steps(due(dataset, moment)))
        for kind, due_by_wall in BY_WALL:
            if days := days_kept(kind):
                _add(gone, kind, delete_in_steps(due_by_wall(wall - days * DAY)))
        _add(gone, "days of samples", _drop_samples(wall))
    for kind, rows in gone.items():
        log.info("retention: %s %s deleted", rows, kind)
    return gone


def _add(gone: dict[str, int], kind: str, rows: int) -> None:
    if rows:
        gone[kind] = gone.get(kind, 0) + rows


def delete_in_steps(rows: QuerySet) -> int:
    """Each step its own transaction, so that nobody waits long for a lock."""
    deleted = 0
    while ids := list(rows.order_by().values_list("pk", flat=True)[:ROWS_AT_ONCE]):
        # Asked again: what changed meanwhile may be due no longer.
        rows.filter(pk__in=ids).delete()
        deleted += len(ids)
    return deleted


def _drop_samples(wall: datetime) -> int:
    """Whole days, once no data set that has samples of them keeps them any longer.

    Of a day that another data set still keeps, the rows of those that do not are deleted.
    """
    if not (days := days_kept("samples")):
        return 0
    kept_from = {
        source.pk: (source.dataset.clock(wall=wall) - days * DAY).date()
        for source in Source.objects.select_related("dataset")
    }
    dropped = 0
    for day in partition_days():
        if any(day < first for first in kept_from.values()) or not kept_from:
            dropped += _drop_day(day, kept_from)
    return dropped


def _drop_day(day: date, kept_from: Mapping[int, date]) -> int:
    since = datetime(day.year, day.month, day.day, tzinfo=UTC)
    of_day = Sample.objects.filter(at__gte=since, at__lt=since + DAY)
    sources = set(of_day.order_by().values_list("source_id", flat=True).distinct())
    over = {pk for pk in sources if pk not in kept_from or day < kept_from[pk]}
    if over != sources:
        with connection.cursor() as cursor:
            cursor.execute(
                f"DELETE FROM {Sample._meta.db_table}"
                " WHERE at >= %s AND at < %s AND source_id = ANY(%s)",
                [since, since + DAY, sorted(over)],
            )
        return 0
    try:
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(f"SET LOCAL lock_timeout = '{LONGEST_WAIT_S}s'")
            drop_partition(day)
    except OperationalError as error:
        log.warning("retention: samples of %s stay for another hour: %s", day, error)
        return 0
    return 1
