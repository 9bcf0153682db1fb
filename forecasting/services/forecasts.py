"""Forecasting a whole data set, in chunks, and keeping every forecast fresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
from celery import current_app
from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import transaction

from desktops import events
from desktops.core.zones import zone_named
from desktops.errors import NotPermitted
from desktops.models import Dataset
from desktops.selectors import datasets_for
from forecasting.core import profiles as core
from forecasting.core.schedule import MINUTES_PAST
from forecasting.errors import ForecastFailed, InvalidHistory
from forecasting.history import Crowd, crowds_of, read_history, sightings_in
from forecasting.models import Generation
from forecasting.services.applications import read_related
from forecasting.services.calendars import holidays_of, leave_of, read_notices, trips_of
from forecasting.services.generations import (
    Clock,
    Progress,
    fail_generation,
    ring,
    running_generation,
    start_generation,
    work_on,
)
from forecasting.services.places import fit_sightings, zones_of
from forecasting.services.profiles import Row, row_of

log = logging.getLogger(__name__)

FORECAST = "forecasting.tasks.run_forecast"
REQUEST = "migration.operate_transition"
HISTORY_DAYS = 56
# An unfinished forecast is gone on with; one from longer ago is of no use to anybody.
RESUMED_WITHIN = timedelta(hours=6)
OTHERS_WORK_S = 0.5


def request_forecast(*, dataset_id: int, actor: AbstractUser, at: datetime) -> None:
    """Ask for a new forecast; a worker makes it. Raises NotPermitted."""
    dataset = datasets_for(actor).filter(pk=dataset_id).first()
    if dataset is None or not actor.has_perm(REQUEST):
        raise NotPermitted("Only an operator of this data set may ask for a forecast.")
    with transaction.atomic():
        for pool in dataset.pools.all():
            events.record(
                kind="forecast.requested",
                subject=dataset,
                at=at,
                pool_id=pool.pk,
                actor=actor.get_username(),
                dataset=dataset.name,
            )
        transaction.on_commit(
            lambda: current_app.send_task(FORECAST, args=[dataset_id]), robust=True
        )


def begin_forecast(*, dataset_id: int, clock: Clock) -> Generation:
    """Start a full forecast of every subject of a data set, from its own clock on, or find the
    one that is unfinished.

    Raises InvalidHistory when there is nobody to forecast.
    """
    dataset = Dataset.objects.get(pk=dataset_id)
    as_of = settled_hour(dataset, clock)
    crowds = crowds_of(dataset, at=as_of, most=settings.FORECAST_CHUNK)
    if not crowds:
        raise InvalidHistory(f"{dataset} has nobody to forecast: import activity first.")
    while True:
        running = running_generation(dataset)
        if running is not None:
            if running.kind == Generation.Kind.FULL and as_of - running.as_of <= RESUMED_WITHIN:
                return running
            fail_generation(running, "A newer forecast was asked for.", at=clock())
        found = start_generation(
            dataset=dataset, kind=Generation.Kind.FULL, as_of=as_of, crowds=crowds, at=clock()
        )
        # A refresh may have been begun just before ours.
        if found.kind == Generation.Kind.FULL:
            return found


def order_forecast(*, dataset_id: int, clock: Clock) -> None:
    """Start one, or go on with one, and ring for the workers."""
    ring(begin_forecast(dataset_id=dataset_id, clock=clock))


def run_forecast(
    *,
    dataset_id: int,
    clock: Clock,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Generation:
    """Forecast a data set in this process, beside whatever workers do of it.

    progress : told how many profiles of how many are written
    Raises InvalidHistory when there is nobody to forecast, ForecastFailed when it failed: such a
    generation stays invisible and says why; the one before it goes on being shown.
    """
    generation = begin_forecast(dataset_id=dataset_id, clock=clock)
    return finish_forecast(generation, clock=clock, progress=progress, sleep=sleep)


def finish_forecast(
    generation: Generation,
    *,
    clock: Clock,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Generation:
    """Work on a full forecast until it has ended, whoever ends it. Raises ForecastFailed."""
    while generation.state == Generation.State.RUNNING:
        if not work_on(generation, make=make_forecast, clock=clock):
            sleep(OTHERS_WORK_S)  # at the last chunks; should they die, theirs become ours
        generation.refresh_from_db()
        if progress:
            progress(generation.profiles_done, generation.profiles_total)
    if generation.state == Generation.State.FAILED:
        raise ForecastFailed(generation.failure)
    return generation


def settled_hour(dataset: Dataset, clock: Clock) -> datetime:
    """The end of the newest hour of which everything has come in."""
    return dataset.clock(wall=clock() - MINUTES_PAST).replace(minute=0, second=0, microsecond=0)


def make_forecast(generation: Generation, crowd: Crowd) -> list[Row]:
    """The profiles of a crowd. It is what the models learn from, so a crowd is better large."""
    history = read_history(
        generation.dataset, until=generation.as_of, days=HISTORY_DAYS, crowd=crowd
    )
    if not history.subjects:
        return []
    start = history.start.astimezone(zone_named(crowd.time_zone))
    active = history.active_ratio.astype(np.float64)
    hours = history.hours + core.HORIZON_HOURS
    # All chunks heed the same notices, whenever each is worked on.
    notices = read_notices(
        generation.dataset, start=start, hours=hours, known_at=generation.started_at
    )
    made = core.build_profiles(
        {name: values.astype(np.float64) for name, values in history.demand.items()},
        active_ratio=active if np.isfinite(active).any() else None,
        start=start,
        pool=[s.pool_id for s in history.subjects],
        holidays=holidays_of(history.subjects, start, hours, notices),
        absent=leave_of(history.subjects, start, hours, notices),
        related=read_related(history.subjects, start, history.hours),
        locations=fit_sightings(
            sightings_in(history),
            until=generation.as_of,
            zones=zones_of(history.subjects),
            trips=trips_of(history.subjects, notices),
        ),
        people=[s.desktop_user_id for s in history.subjects],
    )
    return [row_of(s, profile) for s, profile in zip(history.subjects, made, strict=True)]
