"""What beat and workers do for forecasts: start what is due, do a chunk, ring for the next."""

from __future__ import annotations

import logging
from datetime import datetime

from django.conf import settings
from django.db.models import Max

from desktops.models import Dataset
from forecasting.core.schedule import HOUR, Due, Made, due
from forecasting.errors import ForecastingError
from forecasting.models import Generation
from forecasting.services.forecasts import begin_forecast, make_forecast
from forecasting.services.generations import (
    Clock,
    Maker,
    fail_generation,
    ring,
    running_generation,
    work_on,
)
from forecasting.services.refreshing import begin_refresh, make_refresh

log = logging.getLogger(__name__)

# A part takes minutes, three attempts at it less than an hour.
STALLED_AFTER = 2 * HOUR

MAKERS: dict[str, Maker] = {
    Generation.Kind.FULL: make_forecast,
    Generation.Kind.REFRESH: make_refresh,
}


def work_on_forecast(*, generation_id: int, clock: Clock) -> None:
    """Do one chunk of a generation, then ask whoever is free for the next: between two chunks
    others get their turn."""
    generation = Generation.objects.filter(pk=generation_id).first()
    if generation is None:
        return
    try:
        if work_on(generation, make=MAKERS[generation.kind], clock=clock):
            ring(generation, bells=1)
    except ForecastingError as error:
        log.error("generation %s: %s", generation_id, error)


def sweep_forecasts(*, clock: Clock) -> None:
    """Ring for what is unfinished, whoever died at it, and start what is due."""
    for generation in Generation.objects.filter(state=Generation.State.RUNNING):
        if not _has_stalled(generation, now=clock()):
            ring(generation)
    for dataset in Dataset.objects.filter(as_of=None).order_by("pk"):
        try:
            _start_what_is_due(dataset, clock=clock)
        except ForecastingError as error:
            log.warning("%s: %s", dataset, error)
        except Exception:
            # The other data sets have done nothing wrong.
            log.exception("no forecast of %s was started", dataset)


def _has_stalled(generation: Generation, *, now: datetime) -> bool:
    """Whether nothing of it was finished for so long that a worker must hang; it is then ended,
    so that the data set gets another."""
    newest = generation.chunks.aggregate(newest=Max("done_at"))["newest"]
    since = newest or generation.started_at
    if now - since < STALLED_AFTER:
        return False
    hours = STALLED_AFTER / HOUR
    return fail_generation(generation, f"No part of it was finished for {hours:g} hours.", at=now)


def _start_what_is_due(dataset: Dataset, *, clock: Clock) -> None:
    now = clock()
    if not _has_anybody(dataset):
        return
    match due(_made(dataset), now=now, nightly_hour=settings.FORECAST_HOUR):
        case Due.FULL:
            ring(begin_forecast(dataset_id=dataset.pk, clock=clock))
        case Due.REFRESH:
            ring(begin_refresh(dataset=dataset, clock=clock))


def _has_anybody(dataset: Dataset) -> bool:
    return dataset.people.filter(is_predicted=True).exists() or dataset.desktops.exists()


def _made(dataset: Dataset) -> Made:
    complete = dataset.generations.filter(state=Generation.State.COMPLETE)
    return Made(
        full_as_of=_as_of(complete.filter(kind=Generation.Kind.FULL).first()),
        newest_as_of=_as_of(complete.first()),
        full_failed_at=_failed_at(dataset, Generation.Kind.FULL),
        refresh_failed_at=_failed_at(dataset, Generation.Kind.REFRESH),
        is_running=running_generation(dataset) is not None,
    )


def _failed_at(dataset: Dataset, kind: Generation.Kind) -> datetime | None:
    newest = dataset.generations.filter(kind=kind).order_by("-started_at", "-pk").first()
    has_failed = newest is not None and newest.state == Generation.State.FAILED
    return newest.finished_at if newest and has_failed else None


def _as_of(generation: Generation | None) -> datetime | None:
    return generation.as_of if generation else None
