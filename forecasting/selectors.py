"""What a viewer may see of forecasts. Profiles show only once their generation is complete."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
from django.db.models import Count, Max, OuterRef, Q, QuerySet, Subquery

from desktops.core.zones import zone_named
from desktops.models import Dataset, Desktop, DesktopUser, Notice, Pool
from desktops.notices import notices_about
from desktops.selectors import datasets_for, pools_for
from forecasting.core import profiles as core
from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Event, country_holidays
from forecasting.core.drift import INTERVALS, LEAST_HOURS, Tally
from forecasting.errors import InvalidCalendar
from forecasting.history import Crowd
from forecasting.models import (
    BacktestExample,
    BacktestRun,
    ForecastAlert,
    ForecastScore,
    Generation,
    ResourceDemandProfile,
)

if TYPE_CHECKING:
    from desktops.selectors import Viewer

# An engine that took less is not worth a line; the page says so.
LEAST_PART = 0.1


def generations_for(viewer: Viewer) -> QuerySet[Generation]:
    return Generation.objects.filter(dataset__in=datasets_for(viewer)).select_related("dataset")


def latest_generation(dataset: Dataset) -> Generation | None:
    """The newest complete forecast of a data set; None before the first."""
    return Generation.objects.filter(dataset=dataset, state=Generation.State.COMPLETE).first()


def newest_attempt(dataset: Dataset) -> Generation | None:
    """The newest forecast of a data set, complete or not."""
    return Generation.objects.filter(dataset=dataset).order_by("-started_at", "-pk").first()


def newest_generations(viewer: Viewer, *, most: int = 12) -> list[Generation]:
    """Of all the data sets the viewer may see, the newest first, with the chunks to be done."""
    newest = generations_for(viewer).order_by("-started_at", "-pk")
    waiting = Count("chunks", filter=Q(chunks__done_at=None))
    return list(newest.annotate(chunks_waiting=waiting, chunks_total=Count("chunks"))[:most])


def profiles_for(viewer: Viewer) -> QuerySet[ResourceDemandProfile]:
    """The profiles of each data set's latest complete generation."""
    latest = Generation.objects.filter(
        dataset=OuterRef("generation__dataset"), state=Generation.State.COMPLETE
    ).order_by("-as_of", "-pk")
    return ResourceDemandProfile.objects.filter(
        pool__in=pools_for(viewer), generation=Subquery(latest.values("pk")[:1])
    ).select_related("generation__dataset", "desktop_user", "desktop")


def profiles_in(generation: Generation, viewer: Viewer) -> QuerySet[ResourceDemandProfile]:
    """The profiles of one generation, whichever is the latest by the time they are read."""
    return ResourceDemandProfile.objects.filter(pool__in=pools_for(viewer), generation=generation)


def profiles_of(generation: Generation, crowd: Crowd) -> QuerySet[ResourceDemandProfile]:
    """A generation's profiles of a crowd, for services."""
    theirs = Q(desktop_user__in=crowd.people)
    theirs |= Q(desktop_user=None, desktop__in=crowd.desktops)
    return ResourceDemandProfile.objects.filter(theirs, generation=generation)


def score_tally(*, pool: Pool, resource: str, days: int) -> Tally:
    """What a pool's forecasts of its newest scored days came to, at most `days` back from the
    newest."""
    scores = ForecastScore.objects.filter(pool=pool, resource=resource, hours__gt=0)
    newest = scores.aggregate(newest=Max("day"))["newest"]
    if newest is None:
        return Tally()
    week = scores.filter(day__gt=newest - timedelta(days=days))
    return sum((tally_of(score) for score in week), Tally())


def tally_of(score: ForecastScore) -> Tally:
    inside = (score.inside_50, score.inside_80, score.inside_90)
    return Tally(score.hours, score.loss, score.naive_loss, inside)


@dataclass(frozen=True, slots=True)
class Health:
    """How a pool's published forecasts of a resource did over its last scored days."""

    pool: Pool
    resource: str
    newest: date
    week: Tally
    alerts: list[ForecastAlert]

    @property
    def is_enough(self) -> bool:
        """Whether there are hours enough to tell drift from chance."""
        return self.week.hours >= LEAST_HOURS

    @property
    def intervals(self) -> list[tuple[float, float | None]]:
        """Every interval with the share of hours that lay inside it."""
        return [(interval, self.week.coverage.get(interval)) for interval in INTERVALS]


def health_for(viewer: Viewer, *, days: int) -> list[Health]:
    """By pool and resource, of the pools the viewer may see that were scored."""
    pools = {pool.pk: pool for pool in pools_for(viewer).select_related("dataset")}
    newest = dict(
        ForecastScore.objects.filter(pool__in=pools, hours__gt=0)
        .order_by()
        .values_list("pool")
        .annotate(newest=Max("day"))
    )
    weeks: dict[tuple[int, str], Tally] = defaultdict(Tally)
    if newest:
        since = min(newest.values()) - timedelta(days=days)
        for score in ForecastScore.objects.filter(pool__in=pools, day__gt=since, hours__gt=0):
            if score.day > newest[score.pool_id] - timedelta(days=days):
                weeks[score.pool_id, score.resource] += tally_of(score)
    alerts = list(ForecastAlert.objects.filter(pool__in=pools, cleared_at=None))
    return [
        Health(
            pools[pool_id],
            resource,
            newest[pool_id],
            week,
            [a for a in alerts if (a.pool_id, a.resource) == (pool_id, resource)],
        )
        for (pool_id, resource), week in sorted(weeks.items(), key=lambda item: item[0])
    ]


def profile_of(
    viewer: Viewer, *, person: DesktopUser | None, desktop: Desktop | None
) -> ResourceDemandProfile | None:
    """The current profile of a person, or of a machine without one."""
    if person is None and desktop is None:
        return None
    subject = Q(desktop_user=person) if person else Q(desktop=desktop)
    return profiles_for(viewer).filter(subject).first()


def values_of(row: ResourceDemandProfile) -> core.ResourceDemandProfile:
    """A stored profile as the core knows it."""
    return core.ResourceDemandProfile(
        starts_at=row.starts_at,
        step=core.HOUR,
        levels=tuple(row.levels),
        p_active=None if row.p_active is None else np.asarray(row.p_active, dtype=np.float64),
        location={
            place: np.asarray(chance, dtype=np.float64) for place, chance in row.location.items()
        },
        engine=row.engine,
        enough_history=not row.is_from_pool,
        history_hours=row.history_hours,
        engines={
            resource: {
                engine: core.EngineShare(weight, float("nan") if loss is None else loss)
                for engine, (weight, loss) in shares.items()
            }
            for resource, shares in row.engines.items()
        },
        **{name: _quantiles(row, name) for name in core.RESOURCES},
    )


def _quantiles(row: ResourceDemandProfile, name: str) -> FloatArray:
    """Shape (hours, levels), NaN where nothing is known."""
    stored = getattr(row, name)
    if stored is None:
        return np.full((core.HORIZON_HOURS, len(row.levels)), np.nan)
    return np.asarray(stored, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class PeopleForecast:
    """What a generation says of some people, in their order; nothing is zero or NaN.

    levels : shape (n_levels,)
    p_active : shape (n, HORIZON_HOURS), 0 where nothing is known
    p_site : shape (n, HORIZON_HOURS, n_sites), summing to 1 at most
    demand : resource → (n, HORIZON_HOURS, n_levels), NaN where nothing is known
    """

    levels: FloatArray
    p_active: FloatArray
    p_site: FloatArray
    demand: dict[str, FloatArray]


def forecast_of(
    generation: Generation,
    *,
    people: Sequence[int | None],
    sites: Sequence[str],
    resources: Sequence[str] = core.RESOURCES,
) -> PeopleForecast:
    """The generation's profiles as arrays, read once and row by row into their place.

    people : primary keys, None for nobody; sites : codes
    """
    row_of = {pk: row for row, pk in enumerate(people) if pk is not None}
    columns = ("desktop_user_id", "levels", "p_active", "location", *resources)
    found = ResourceDemandProfile.objects.filter(
        generation=generation, desktop_user__isnull=False
    ).only(*columns)
    some = found.first()
    levels = np.array(some.levels if some else [0.5], dtype=np.float64)
    shape = (len(people), core.HORIZON_HOURS)
    p_active, p_site = np.zeros(shape), np.zeros((*shape, len(sites)))
    demand = {name: np.full((*shape, len(levels)), np.nan) for name in resources}
    site_of = {code: number for number, code in enumerate(sites)}
    for profile in found.iterator(chunk_size=500):
        row = row_of.get(profile.desktop_user_id)
        if row is None:
            continue
        if profile.p_active is not None:
            p_active[row] = np.clip(profile.p_active, 0, 1)
        for code, chance in profile.location.items():
            if code in site_of:
                p_site[row, :, site_of[code]] = chance
        for name in resources:
            values = getattr(profile, name)
            if values is not None:
                demand[name][row] = values
    total = p_site.sum(axis=2, keepdims=True)
    p_site /= np.where(total > 1, total, 1)
    return PeopleForecast(levels, p_active, p_site, demand)


def earlier_profile(viewer: Viewer, row: ResourceDemandProfile) -> ResourceDemandProfile | None:
    """What the newest full forecast made a day or more before a profile said of its subject."""
    return (
        ResourceDemandProfile.objects.filter(
            pool__in=pools_for(viewer),
            desktop_user=row.desktop_user_id,
            desktop=row.desktop_id,
            generation__dataset=row.generation.dataset_id,
            generation__kind=Generation.Kind.FULL,
            generation__state=Generation.State.COMPLETE,
            generation__as_of__lte=row.starts_at - timedelta(days=1),
        )
        .order_by("-generation__as_of")
        .select_related("generation__dataset", "desktop_user__home_site", "desktop")
        .first()
    )


@dataclass(frozen=True, slots=True)
class EnginePart:
    """What an engine had to do with a forecast, for a page.

    weight : in [0, 1]; gain : how much less loss than repeating the day before, None if unknown
    """

    engine: str
    weight: float
    gain: float | None

    @property
    def loss_more(self) -> float:
        """How much more loss, where there was no gain."""
        return max(-(self.gain or 0.0), 0.0)


def engine_parts(row: ResourceDemandProfile, resource: str) -> list[EnginePart]:
    """The engines a forecast was combined of, the one that counted most first."""
    parts = [
        EnginePart(engine, weight, None if loss is None else 1 - loss)
        for engine, (weight, loss) in row.engines.get(resource, {}).items()
        if weight >= LEAST_PART
    ]
    return sorted(parts, key=lambda part: -part.weight)


def holidays_of(person: DesktopUser, *, start: datetime, end: datetime) -> list[Event]:
    """Public holidays where a person is at home that touch a span, by their own midnights."""
    country = person.home_site.country if person.home_site else ""
    if not country:
        return []
    try:
        days = country_holidays(country, start=start, end=end, zone=zone_named(person.time_zone))
    except (InvalidCalendar, ValueError):
        return []
    return [
        replace(day, name=f"{day.name} (public holiday, {country})")
        for day in days
        if day.starts_at < end and day.ends_at > start
    ]


def events_about(
    viewer: Viewer, row: ResourceDemandProfile, *, start: datetime, end: datetime
) -> list[Event]:
    """What is irregular for the subject of a profile between two moments, each named with where
    it is from: public holidays at home, and notices about them, their pool or everybody."""
    person = row.desktop_user
    subject = person or row.desktop
    if subject is None:
        return []
    notices = notices_about(viewer, subject=subject, at=start, until=end)
    holidays = holidays_of(person, start=start, end=end) if person else []
    return [*holidays, *map(_as_event, notices)]


def _as_event(notice: Notice) -> Event:
    return Event(
        f"{notice.title or notice.get_kind_display()} ({notice.get_origin_display()})",
        notice.starts_at,
        notice.ends_at,
        is_day_off=notice.kind == Notice.Kind.CLOSED,
    )


def likely_places(
    row: ResourceDemandProfile, *, hours: slice, least: float = 0.01
) -> list[tuple[str, float]]:
    """Places with their mean probability over some hours of the profile, the likeliest first."""
    means = {place: float(np.mean(chance[hours])) for place, chance in row.location.items()}
    ranked = sorted(means.items(), key=lambda item: -item[1])
    return [(place, chance) for place, chance in ranked if chance >= least]


def newest_backtests(viewer: Viewer) -> list[BacktestRun]:
    """The newest finished backtest of each data set."""
    runs = BacktestRun.objects.filter(
        dataset__in=datasets_for(viewer), finished_at__isnull=False
    ).select_related("dataset")
    return list(runs.order_by("dataset_id", "-as_of", "-pk").distinct("dataset_id"))


def backtest_examples_for(viewer: Viewer) -> QuerySet[BacktestExample]:
    return BacktestExample.objects.filter(
        Q(desktop_user=None) | Q(desktop_user__is_predicted=True),
        pool__in=pools_for(viewer),
        run__finished_at__isnull=False,
    ).select_related("run__dataset", "desktop_user", "desktop")


def example_values(row: BacktestExample) -> core.ResourceDemandProfile:
    """An example as the core knows a profile: demand alone, one horizon long."""
    hours = row.run.horizon_hours
    nothing = np.full((hours, len(row.levels)), np.nan)
    return core.ResourceDemandProfile(
        starts_at=row.starts_at,
        step=core.HOUR,
        levels=tuple(row.levels),
        p_active=None,
        location={},
        engine="",
        enough_history=True,
        history_hours=24 * row.run.history_days,
        **{
            name: np.array(row.quantiles.get(name, nothing), dtype=float) for name in core.RESOURCES
        },
    )
