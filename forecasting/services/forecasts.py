"""Forecasting a whole data set: one generation of profiles, visible when it is complete."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from celery import current_app
from django.contrib.auth.models import AbstractUser
from django.db import transaction

from desktops import events
from desktops.errors import NotPermitted
from desktops.models import Dataset, Desktop, DesktopUser
from desktops.selectors import datasets_for
from desktops.services.bulk import column, copy_rows, hours
from forecasting.core import profiles as core
from forecasting.core.calendar import Event, Holidays, country_holidays, event_flags
from forecasting.core.fleet import ENGINE_NAME
from forecasting.core.location import LocationModel
from forecasting.core.timeline import Timeline
from forecasting.errors import InvalidCalendar, InvalidHistory
from forecasting.history import FleetHistory, Subject, read_history
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.services.places import fit_places

FORECAST = "forecasting.tasks.run_forecast"
REQUEST = "migration.operate_transition"
HISTORY_DAYS = 56
SUBJECTS_AT_ONCE = 1000
KEPT_GENERATIONS = 3

Progress = Callable[[int, int], None]


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


def run_forecast(
    *, dataset_id: int, clock: Callable[[], datetime], progress: Progress | None = None
) -> Generation:
    """Forecast every subject of a data set from its own clock on.

    progress : told how many profiles of how many are written
    Raises InvalidHistory when there is nobody to forecast. A generation that fails stays
    invisible and says why; the one before it goes on being shown.
    """
    dataset = Dataset.objects.get(pk=dataset_id)
    as_of = dataset.clock(wall=clock()).replace(minute=0, second=0, microsecond=0)
    generation = Generation.objects.create(
        dataset=dataset, as_of=as_of, engine=ENGINE_NAME, started_at=clock()
    )
    try:
        _forecast(generation, clock=clock, progress=progress)
    except Exception as error:
        Generation.objects.filter(pk=generation.pk).update(
            state=Generation.State.FAILED,
            failure=f"{type(error).__name__}: {error}"[:500],
            finished_at=clock(),
        )
        raise
    generation.refresh_from_db()
    return generation


def _forecast(
    generation: Generation, *, clock: Callable[[], datetime], progress: Progress | None
) -> None:
    dataset, as_of = generation.dataset, generation.as_of
    history = read_history(dataset, until=as_of, days=HISTORY_DAYS)
    total = len(history.subjects)
    if not total:
        raise InvalidHistory(f"{dataset} has nobody to forecast: import activity first.")
    Generation.objects.filter(pk=generation.pk).update(profiles_total=total)
    places = fit_places(dataset, until=as_of)
    done = 0
    for rows in _pieces(history.subjects):
        made = _profiles(history, rows, places=places)
        subjects = [history.subjects[row] for row in rows]
        _write(generation, *_still_wanted(subjects, made))
        done += len(rows)
        Generation.objects.filter(pk=generation.pk).update(profiles_done=done)
        if progress:
            progress(done, total)
    _publish(generation, at=clock())


def _pieces(subjects: Sequence[Subject]) -> Iterator[list[int]]:
    """Rows by time zone, as rhythms follow the wall clock, in pieces of bounded memory."""
    by_zone: dict[str, list[int]] = defaultdict(list)
    for row, subject in enumerate(subjects):
        by_zone[subject.time_zone].append(row)
    for rows in by_zone.values():
        for first in range(0, len(rows), SUBJECTS_AT_ONCE):
            yield rows[first : first + SUBJECTS_AT_ONCE]


def _profiles(
    history: FleetHistory, rows: list[int], *, places: LocationModel
) -> list[core.ResourceDemandProfile]:
    subjects = [history.subjects[row] for row in rows]
    start = history.start.astimezone(ZoneInfo(subjects[0].time_zone))
    active = history.active_ratio[rows].astype(np.float64)
    return core.build_profiles(
        {name: v[rows].astype(np.float64) for name, v in history.demand.items()},
        active_ratio=active if np.isfinite(active).any() else None,
        start=start,
        pool=[s.pool_id for s in subjects],
        holidays=_holidays(subjects, start, history.hours),
        locations=places,
        people=[s.desktop_user_id for s in subjects],
    )


def _holidays(subjects: Sequence[Subject], start: datetime, hours: int) -> Holidays | None:
    """Public holidays of each subject's country, in its own zone; none where none are known."""
    countries = sorted({s.country for s in subjects})
    timeline = Timeline(start, core.HOUR, hours, core.HORIZON_HOURS)
    end = start + (hours + core.HORIZON_HOURS) * core.HOUR + timedelta(days=1)
    calendars = [_known_holidays(country, start, end) for country in countries]
    if not any(calendars):
        return None
    column = {country: i for i, country in enumerate(countries)}
    calendar = np.array([column[s.country] for s in subjects], dtype=np.int64)
    return event_flags(calendars, timeline=timeline, calendar=calendar)


def _known_holidays(country: str, start: datetime, end: datetime) -> list[Event]:
    if not country:
        return []
    try:
        return country_holidays(country, start=start, end=end, zone=start.tzinfo or ZoneInfo("UTC"))
    except InvalidCalendar:
        return []


def _still_wanted(
    subjects: Sequence[Subject], profiles: Sequence[core.ResourceDemandProfile]
) -> tuple[list[Subject], list[core.ResourceDemandProfile]]:
    """Who is still there and has not opted out since the history was read."""
    wanted = set(
        DesktopUser.objects.filter(
            pk__in=[s.desktop_user_id for s in subjects if s.desktop_user_id], is_predicted=True
        ).values_list("pk", flat=True)
    )
    there = set(
        Desktop.objects.filter(pk__in=[s.desktop_id for s in subjects if s.desktop_id]).values_list(
            "pk", flat=True
        )
    )
    kept = [
        (subject, profile)
        for subject, profile in zip(subjects, profiles, strict=True)
        if (not subject.desktop_user_id or subject.desktop_user_id in wanted)
        and (not subject.desktop_id or subject.desktop_id in there)
    ]
    return [subject for subject, _ in kept], [profile for _, profile in kept]


def _write(
    generation: Generation,
    subjects: Sequence[Subject],
    profiles: Sequence[core.ResourceDemandProfile],
) -> None:
    """COPY the profiles: a week of quantiles is thousands of numbers a row."""

    def each(value: Callable[[core.ResourceDemandProfile], Any]) -> pa.Array:
        return column([value(profile) for profile in profiles])

    columns = {
        "generation_id": column([generation.pk] * len(subjects)),
        "pool_id": column([s.pool_id for s in subjects]),
        "desktop_user_id": column([s.desktop_user_id for s in subjects], pa.int64()),
        "desktop_id": column([s.desktop_id for s in subjects], pa.int64()),
        "starts_at": hours(np.array([int(p.starts_at.timestamp()) for p in profiles])),
        "levels": each(lambda p: _array(np.array(p.levels))),
        "p_active": each(lambda p: None if p.p_active is None else _array(_rounded(p.p_active))),
        "location": column(
            [
                _location(p) if s.is_located else "{}"
                for s, p in zip(subjects, profiles, strict=True)
            ]
        ),
        "engine": each(lambda p: p.engine),
        "is_from_pool": each(lambda p: not p.enough_history),
        "history_hours": each(lambda p: p.history_hours),
    }
    for name in core.RESOURCES:
        columns[name] = column([_quantiles(getattr(p, name)) for p in profiles], pa.string())
    copy_rows(ResourceDemandProfile._meta.db_table, columns)


def _array(values: np.ndarray) -> str:
    """A PostgreSQL array literal; JSON's writer is the fastest there is, and nearly writes one."""
    return json.dumps(values.tolist()).replace("[", "{").replace("]", "}")


def _location(profile: core.ResourceDemandProfile) -> str:
    return json.dumps({place: _rounded(p).tolist() for place, p in profile.location.items()})


def _quantiles(values: np.ndarray) -> str | None:
    """None where nothing is known: JSON and arrays of numbers have no NaN."""
    return _array(values.astype(np.float32)) if np.isfinite(values).all() else None


def _rounded(probability: np.ndarray) -> np.ndarray:
    """Five places are more than anybody can check, and half the bytes."""
    return np.round(probability, 5)


def _publish(generation: Generation, *, at: datetime) -> None:
    """Make the generation the one that is shown, and drop those nobody refers to any more."""
    dataset = generation.dataset
    with transaction.atomic():
        Generation.objects.filter(pk=generation.pk).update(
            state=Generation.State.COMPLETE, finished_at=at
        )
        old = (
            dataset.generations.filter(plans__isnull=True)
            .exclude(state=Generation.State.RUNNING)
            .values_list("pk", flat=True)
        )
        Generation.objects.filter(pk__in=list(old[KEPT_GENERATIONS:])).delete()
        for pool_id in dataset.pools.values_list("pk", flat=True):
            events.record(
                kind="forecast.made",
                subject=generation,
                at=at,
                pool_id=pool_id,
                dataset=dataset.name,
                as_of=generation.as_of.isoformat(),
            )
