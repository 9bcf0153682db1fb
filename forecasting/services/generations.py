"""A generation in the making: split into chunks, worked on by many, shown when it is whole.

The rows are the order and messages the doorbell. Whoever works on a chunk holds a lock of their
database connection: it goes with a worker that dies, needs no clock, and what they write goes
through the same connection, so that whoever lost the lock can write nothing. A chunk's profiles
and the mark that it is done are one transaction; a chunk that was not finished has left nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime

from celery import current_app
from django.db import DatabaseError, IntegrityError, connection, transaction
from django.db.models import F

from desktops import events
from desktops.models import Dataset
from forecasting.core.fleet import ENGINE_NAME
from forecasting.errors import ForecastFailed, GenerationEnded
from forecasting.history import Crowd
from forecasting.models import ForecastChunk, Generation
from forecasting.services.profiles import Row, write_profiles

log = logging.getLogger(__name__)

WORK = "forecasting.tasks.work_on_forecast"
# A bell that nobody heard is rung again by the next sweep.
BELL_EXPIRES_S = 60
LOCK = 0x666F7263
MOST_ATTEMPTS = 3
# Of full forecasts the newest of so many days; of refreshes, and of those that failed, so many.
KEPT_DAYS, KEPT_OTHERS = 4, 2
# The server notices within a minute that the machine of a worker is gone, and frees its lock.
KEEPALIVE = {"tcp_keepalives_idle": "20", "tcp_keepalives_interval": "10"}

Clock = Callable[[], datetime]
Progress = Callable[[int, int], None]
# What a chunk's profiles are; the crowd lives by one clock.
Maker = Callable[[Generation, Crowd], Sequence[Row]]


def running_generation(dataset: Dataset) -> Generation | None:
    return dataset.generations.filter(state=Generation.State.RUNNING).first()


def start_generation(
    *,
    dataset: Dataset,
    kind: Generation.Kind,
    as_of: datetime,
    crowds: Sequence[Crowd],
    at: datetime,
    base: Generation | None = None,
) -> Generation:
    """Write down what there is to do; `ring` asks for somebody to do it.

    Of two that start one at once the second gets the first's.
    """
    try:
        with transaction.atomic():
            made = Generation.objects.create(
                dataset=dataset,
                kind=kind,
                base=base,
                as_of=as_of,
                engine=ENGINE_NAME,
                profiles_total=sum(crowd.n_subjects for crowd in crowds),
                started_at=at,
            )
            ForecastChunk.objects.bulk_create(
                ForecastChunk(
                    generation=made,
                    number=number,
                    time_zone=crowd.time_zone,
                    people=crowd.people,
                    desktops=crowd.desktops,
                )
                for number, crowd in enumerate(crowds, start=1)
            )
    except IntegrityError:
        running = running_generation(dataset)
        if running is None:
            raise
        return running
    return made


def ring(generation: Generation, *, bells: int | None = None) -> None:
    """Ask for workers, as many as there are chunks left; each does one and asks the next."""
    for _ in range(bells or generation.chunks.filter(done_at=None).count() or 1):
        current_app.send_task(WORK, args=[generation.pk], expires=BELL_EXPIRES_S)


def work_on(generation: Generation, *, make: Maker, clock: Clock) -> bool:
    """Do one chunk of a generation that nobody else works on; False when there is none.

    Raises ForecastFailed when the chunk fails for the last time, and with it the generation.
    """
    if generation.state != Generation.State.RUNNING:
        return False
    with _some_chunk(generation) as chunk:
        if chunk is None:
            publish_if_whole(generation, at=clock())
            return False
        if chunk.attempts >= MOST_ATTEMPTS:
            reason = chunk.error or "the worker was killed at it each time"
            _fail(generation, chunk, reason, at=clock())
        ForecastChunk.objects.filter(pk=chunk.pk).update(attempts=F("attempts") + 1)
        try:
            rows = make(generation, Crowd(chunk.time_zone, chunk.people, chunk.desktops))
            _finish(generation, chunk, rows, at=clock())
        except (ForecastFailed, GenerationEnded):
            raise
        except Exception as error:
            log.exception("%s failed", chunk)
            reason = f"{type(error).__name__}: {error}"[:400]
            ForecastChunk.objects.filter(pk=chunk.pk).update(error=reason)
            if chunk.attempts + 1 >= MOST_ATTEMPTS:
                _fail(generation, chunk, reason, at=clock())
            return True
    publish_if_whole(generation, at=clock())
    return True


@contextmanager
def _some_chunk(generation: Generation) -> Iterator[ForecastChunk | None]:
    """A chunk that is ours alone as long as this lasts; None when none is to be had."""
    waiting = list(generation.chunks.filter(done_at=None).values_list("pk", flat=True))
    with connection.cursor() as cursor:
        for name, value in KEEPALIVE.items():
            cursor.execute("SELECT set_config(%s, %s, false)", [name, value])
    for pk in waiting:
        if not _lock(pk):
            continue
        try:
            # Somebody may have finished it between the list and the lock.
            if chunk := ForecastChunk.objects.filter(pk=pk, done_at=None).first():
                yield chunk
                return
        finally:
            _unlock(pk)
    yield None


def _lock(pk: int) -> bool:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, %s)", [LOCK, _key(pk)])
        (is_ours,) = cursor.fetchone()
    return bool(is_ours)


def _unlock(pk: int) -> None:
    with suppress(DatabaseError), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [LOCK, _key(pk)])


def _key(pk: int) -> int:
    """The lock's second key is an int4."""
    return pk % 2**31


def _finish(
    generation: Generation, chunk: ForecastChunk, rows: Sequence[Row], *, at: datetime
) -> None:
    with transaction.atomic():
        written = write_profiles(generation, rows)
        # The generation first, as whoever ends it does: two orders would wait for each other.
        is_running = Generation.objects.filter(
            pk=generation.pk, state=Generation.State.RUNNING
        ).update(profiles_done=F("profiles_done") + written)
        mine = ForecastChunk.objects.filter(pk=chunk.pk, done_at=None).update(done_at=at, error="")
        if not mine or not is_running:
            raise GenerationEnded(f"{chunk} is not wanted any more")
        if generation.kind == Generation.Kind.FULL:
            _report("forecast.advanced", generation, at=at)


def publish_if_whole(generation: Generation, *, at: datetime) -> bool:
    """Make the generation the one that is shown, once every chunk of it is there.

    Of several that finish its last chunks at once, one does it.
    """
    with transaction.atomic():
        if generation.chunks.filter(done_at=None).exists():
            return False
        published = Generation.objects.filter(
            pk=generation.pk, state=Generation.State.RUNNING
        ).update(state=Generation.State.COMPLETE, finished_at=at, profiles_total=F("profiles_done"))
        if not published:
            return False
        generation.chunks.all().delete()
        _drop_old(generation.dataset)
        is_full = generation.kind == Generation.Kind.FULL
        _report("forecast.made" if is_full else "forecast.refreshed", generation, at=at)
    return True


def _drop_old(dataset: Dataset) -> None:
    """Of generations that no plan refers to, keep the newest of each of the last days, to learn
    from how they went and to score them, and the newest refreshes."""
    ended = dataset.generations.exclude(state=Generation.State.RUNNING)
    kept: list[int] = []
    days: set[date] = set()
    full = ended.filter(kind=Generation.Kind.FULL, state=Generation.State.COMPLETE)
    for pk, as_of in full.values_list("pk", "as_of"):
        if as_of.date() not in days and len(days) < KEPT_DAYS:
            days.add(as_of.date())
            kept.append(pk)
    for others in (
        ended.filter(kind=Generation.Kind.REFRESH, state=Generation.State.COMPLETE),
        ended.filter(state=Generation.State.FAILED),
    ):
        kept += others.values_list("pk", flat=True)[:KEPT_OTHERS]
    ended.filter(plans__isnull=True).exclude(pk__in=kept).delete()


def fail_generation(generation: Generation, reason: str, *, at: datetime) -> bool:
    """End it with the reason; what was shown before goes on being shown."""
    with transaction.atomic():
        failed = Generation.objects.filter(pk=generation.pk, state=Generation.State.RUNNING).update(
            state=Generation.State.FAILED, failure=reason[:500], finished_at=at
        )
        if failed:
            generation.chunks.all().delete()
            generation.profiles.all().delete()
            _report("forecast.failed", generation, at=at, reason=reason[:500])
    return bool(failed)


def _fail(generation: Generation, chunk: ForecastChunk, reason: str, *, at: datetime) -> None:
    told = f"{chunk}, attempt {MOST_ATTEMPTS}: {reason}"
    fail_generation(generation, told, at=at)
    raise ForecastFailed(told)


def _report(kind: str, generation: Generation, *, at: datetime, **more: str) -> None:
    """An event in every pool of the data set; the last thing in a transaction."""
    dataset = generation.dataset
    for pool_id in dataset.pools.values_list("pk", flat=True):
        events.record(
            kind=kind,
            subject=generation,
            at=at,
            pool_id=pool_id,
            dataset=dataset.name,
            as_of=generation.as_of.isoformat(),
            **more,
        )
