"""Sources that are asked: each from where the last answer ended, and never by two at once.

What a source hands over and how far it was asked are stored in one transaction. So whatever breaks,
and wherever, the next question begins where the stored rows end: nothing is lost, nothing doubled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.conf import settings
from django.db import connection
from django.db.models import Q

from desktops.errors import InvalidFile, SourceFailed
from desktops.models import Desktop, Pool, Source
from desktops.services.ingest import store
from desktops.services.locating import site_finder
from desktops.sources.entries import Entry, read_entries
from desktops.sources.pulling import PullSource
from desktops.sources.registry import KINDS, pull_module
from desktops.sources.samples import Labels, Samples

logger = logging.getLogger(__name__)

PULL_LOCK = 0x70756C6C  # with the id of a source
# A question must not reach back to what is too old when its answer comes.
MARGIN = timedelta(hours=1)
ERROR_LENGTH = 500
NAMED = 3  # desktops that a message names


@dataclass(slots=True)
class PullReport:
    """What asking one source came to.

    is_busy : another worker is asking it
    strangers : desktops it told of that are not of the pool
    until : everything before is stored; None when nothing ever was asked
    is_behind : it stopped before it had caught up; the next run goes on
    error : why it could not be asked to the end
    """

    name: str
    rows: int = 0
    rejected_rows: int = 0
    duplicates: int = 0
    strangers: int = 0
    until: datetime | None = None
    is_busy: bool = False
    is_behind: bool = False
    error: str = ""


def configured_sources() -> dict[str, Entry]:
    """The entries of the file that SOURCES_FILE names. Raises InvalidFile."""
    if settings.SOURCES_FILE is None:
        return {}
    return read_entries(settings.SOURCES_FILE, kinds=KINDS)


def check_entry(entry: Entry) -> None:
    """Raises InvalidFile when its options are wrong; asks nothing of the source."""
    with closing(_connect(entry)):
        pass


def pull_source(
    *,
    entry: Entry,
    clock: Callable[[], datetime],
    goes_on: Callable[[], bool] = lambda: True,
) -> PullReport:
    """Ask a source for everything since the last time, batch by batch.

    clock : the wall clock
    goes_on : asked after every batch; False leaves the rest for the next run

    Its faults are in the report and on the source's row. Raises InvalidFile when there is no such
    pool, or the name is that of another source.
    """
    source = _source_of(entry)
    report = PullReport(source.name, until=source.cursor_at)
    with _alone(source) as is_alone:
        if not is_alone:
            report.is_busy = True
            return report
        source.refresh_from_db(fields=("cursor_at", "rows"))
        try:
            _pull(source, entry, clock, goes_on, report)
        except (SourceFailed, InvalidFile) as error:
            report.error = str(error)
            logger.warning("source %s: %s", source.name, error)
            _note_failure(source, report.error, wall=clock())
        except Exception:
            _note_failure(source, "It broke on our side; the log says where.", wall=clock())
            raise
    return report


def _source_of(entry: Entry) -> Source:
    pool = Pool.objects.select_related("dataset").filter(name=entry.pool).first()
    if pool is None:
        raise InvalidFile(f"Source {entry.name!r}: there is no pool {entry.pool!r}.")
    source, _ = Source.objects.select_related("dataset").get_or_create(
        name=entry.name,
        defaults={"kind": entry.kind, "dataset_id": pool.dataset_id, "pool": pool},
    )
    if (source.kind, source.pool_id) != (entry.kind, pool.pk):
        raise InvalidFile(
            f"Source {entry.name!r} is already a source of kind {source.kind}, of the pool"
            f" {source.pool.name}: give the entry another name."
        )
    return source


@contextmanager
def _alone(source: Source) -> Iterator[bool]:
    """Whether nobody else is asking this source; a lost connection gives the lock back."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [PULL_LOCK, source.pk])
        (is_alone,) = cursor.fetchone()
    try:
        yield is_alone
    finally:
        if is_alone and connection.is_usable():
            with connection.cursor() as cursor:
                cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [PULL_LOCK, source.pk])


def _connect(entry: Entry) -> PullSource:
    return pull_module(entry.kind).connect(entry.read_options(), site_of=site_finder().find)


def _pull(
    source: Source,
    entry: Entry,
    clock: Callable[[], datetime],
    goes_on: Callable[[], bool],
    report: PullReport,
) -> None:
    module = pull_module(entry.kind)
    now = source.dataset.clock(wall=clock())
    since, until = _since(source, entry, now), now - entry.settle(module.SETTLE_S)
    with closing(_connect(entry)) as connected:
        _note_attempt(source, wall=clock())
        for pulled in connected.pull(since, until):
            samples, strangers = _of_the_pool(source, pulled.samples)
            _refuse_if_all_strange(source, samples, strangers)
            stored = store(
                source=source,
                samples=samples,
                wall=clock(),
                cursor_at=pulled.until,
                makes_people=module.MAKES_PEOPLE,
            )
            report.rows += stored.rows
            report.rejected_rows += stored.rejected_rows
            report.duplicates += stored.duplicates
            report.strangers = max(report.strangers, len(strangers))
            report.until = pulled.until
            if not goes_on():
                report.is_behind = pulled.until < until - MARGIN
                return


def _since(source: Source, entry: Entry, now: datetime) -> datetime:
    oldest = now - timedelta(days=settings.OLDEST_SAMPLE_DAYS) + MARGIN
    if source.cursor_at is None:
        days = entry.first_days or settings.OLDEST_SAMPLE_DAYS
        if days > settings.OLDEST_SAMPLE_DAYS:
            raise InvalidFile(
                f"Source {entry.name!r}: first_days is {days}, but what is older than"
                f" {settings.OLDEST_SAMPLE_DAYS} days (OLDEST_SAMPLE_DAYS) is refused."
            )
        return max(oldest, now - timedelta(days=days))
    if source.cursor_at < oldest:
        logger.warning(
            "source %s: what happened between %s and %s is too old to be stored and is passed over",
            source.name,
            source.cursor_at,
            oldest,
        )
    return max(oldest, source.cursor_at)


def _of_the_pool(source: Source, samples: Samples) -> tuple[Samples, tuple[str, ...]]:
    """The rows that concern the pool, and the desktops that do not.

    A monitoring system sees a whole cloud: what is not ours is no fault, and not kept. A row of a
    person stays, without the desktop.
    """
    labels = samples.desktop.used()
    if not labels:
        return samples, ()
    known = set()
    for names in Desktop.objects.filter(
        Q(server_id__in=labels) | Q(key__in=labels) | Q(label__in=labels), pool=source.pool_id
    ).values_list("server_id", "key", "label"):
        known.update(names)
    strangers = tuple(label for label in labels if label not in known)
    if not strangers:
        return samples, ()
    is_known = np.array([value in known for value in samples.desktop.values] + [False])
    codes = np.where(is_known[samples.desktop.codes], samples.desktop.codes, -1)
    ours = Samples(
        samples.line,
        samples.unix_s,
        samples.person,
        Labels(samples.desktop.values, codes),
        samples.site,
        samples.measures,
    )
    return ours.take((codes >= 0) | samples.person.is_given), strangers


def _refuse_if_all_strange(source: Source, ours: Samples, strangers: tuple[str, ...]) -> None:
    """A source that never told of a desktop of ours is set up wrong, or came before its pool.

    Either way the answer is asked for again, once that is mended.
    """
    if strangers and not len(ours) and not source.rows:
        names = ", ".join(repr(name[:60]) for name in strangers[:NAMED])
        raise SourceFailed(
            f"None of the {len(strangers):,} desktops it tells of is one of the pool {source.pool}:"
            f" {names} … Desktops are known by server id, key or name."
        )


def _note_attempt(source: Source, *, wall: datetime) -> None:
    Source.objects.filter(pk=source.pk).update(last_attempt_at=wall)


def _note_failure(source: Source, error: str, *, wall: datetime) -> None:
    Source.objects.filter(pk=source.pk).update(
        last_attempt_at=wall, last_error=error[:ERROR_LENGTH]
    )
