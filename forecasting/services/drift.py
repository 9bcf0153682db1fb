"""Every day, how the forecasts of the day before turned out; somebody is told when they drift."""

from __future__ import annotations

import logging
from datetime import UTC, date, datetime, time, timedelta

import numpy as np
from django.conf import settings
from django.db import transaction

from desktops import events
from desktops.models import Activity, Dataset, Pool
from desktops.services.retention import alone
from forecasting.core.arrays import FloatArray
from forecasting.core.drift import DriftKind, Tally, drifts, tally
from forecasting.core.naive import seasonal_naive
from forecasting.core.profiles import HORIZON_HOURS, LEVELS, RESOURCES
from forecasting.history import HOUR, Crowd, crowds_of, read_history
from forecasting.models import ForecastAlert, ForecastScore, Generation, ResourceDemandProfile
from forecasting.selectors import profiles_of, score_tally
from forecasting.services.generations import Clock

log = logging.getLogger(__name__)
LOCK = 0x666F7264
DAY = timedelta(days=1)
# Hours after a day's end by which what is late has come.
SETTLED_AFTER = timedelta(hours=3)
SCORED_DAYS = 7
# A day is scored against a forecast of the day before it, not against what was left from a week.
OLDEST_FORECAST = 2 * DAY
# What the naive forecast learns its errors from.
NAIVE_DAYS = 28
WEEK_HOURS = 168

Tallies = dict[tuple[int, str], Tally]


def watch_forecasts(*, clock: Clock) -> None:
    """Score what can be scored of every data set whose clock moves, and raise or clear alerts."""
    with alone(LOCK) as is_ours:
        if not is_ours:
            return
        for dataset in Dataset.objects.filter(as_of=None).order_by("pk"):
            try:
                if score_days(dataset=dataset, now=clock()):
                    judge(dataset=dataset, at=clock())
            except Exception:
                # The other data sets are to be watched all the same.
                log.exception("the forecasts of %s were not scored", dataset)


def score_days(*, dataset: Dataset, now: datetime) -> list[date]:
    """Score the days of the last week that are over and were not scored yet; returns them."""
    last = (now - SETTLED_AFTER).astimezone(UTC).date() - DAY
    done = set(
        ForecastScore.objects.filter(pool__dataset=dataset).values_list("day", flat=True).distinct()
    )
    scored = []
    for day in (last - n * DAY for n in range(SCORED_DAYS)):
        begins = datetime.combine(day, time(), UTC)
        # Of a silent day something may come in yet.
        if day in done or not _was_observed(dataset, begins):
            continue
        generation = dataset.generations.filter(
            kind=Generation.Kind.FULL,
            state=Generation.State.COMPLETE,
            as_of__lte=begins,
            as_of__gt=begins - OLDEST_FORECAST,
        ).first()
        if generation is not None:
            _score_day(generation, begins)
            scored.append(day)
    return scored


def _was_observed(dataset: Dataset, begins: datetime) -> bool:
    day = Activity.objects.filter(dataset=dataset, hour__gte=begins, hour__lt=begins + DAY)
    return day.exists()


def _score_day(generation: Generation, begins: datetime) -> None:
    """A row for every pool and resource, also where nothing was to be compared: it is done."""
    pools = generation.dataset.pools.values_list("pk", flat=True)
    totals: Tallies = {(pool, resource): Tally() for pool in pools for resource in RESOURCES}
    for crowd in crowds_of(generation.dataset, at=generation.as_of, most=settings.FORECAST_CHUNK):
        for key, more in _score_crowd(generation, crowd, begins).items():
            totals[key] = totals.get(key, Tally()) + more
    rows = [
        ForecastScore(
            pool_id=pool_id,
            day=begins.date(),
            resource=resource,
            forecast_as_of=generation.as_of,
            hours=total.hours,
            loss=total.loss,
            naive_loss=total.naive_loss,
            inside_50=total.inside[0],
            inside_80=total.inside[1],
            inside_90=total.inside[2],
        )
        for (pool_id, resource), total in totals.items()
    ]
    ForecastScore.objects.bulk_create(rows, ignore_conflicts=True)


def _score_crowd(generation: Generation, crowd: Crowd, begins: datetime) -> Tallies:
    days = NAIVE_DAYS + 1 + -(-(begins - generation.as_of) // DAY)
    history = read_history(generation.dataset, until=begins + DAY, days=days, crowd=crowd)
    row_of = {(s.desktop_user_id, s.desktop_id): row for row, s in enumerate(history.subjects)}
    profiles = [
        profile
        for profile in profiles_of(generation, crowd)
        if (profile.desktop_user_id, profile.desktop_id) in row_of
    ]
    if not profiles:
        return {}
    at = np.array([row_of[p.desktop_user_id, p.desktop_id] for p in profiles])
    pool = np.array([p.pool_id for p in profiles])
    levels = np.array(LEVELS)
    known = int((generation.as_of - history.start) / HOUR)
    ahead = int((begins - generation.as_of) / HOUR)
    hours = slice(ahead, ahead + 24)
    totals: Tallies = {}
    for name in RESOURCES:
        demand = history.given_session(name)[at]
        told = _quantiles(profiles, name)[:, hours]
        naive = seasonal_naive(
            demand[:, :known], lag=WEEK_HOURS, horizon=ahead + 24, levels=levels
        )[:, hours]
        for pool_id in np.unique(pool):
            here = pool == pool_id
            totals[int(pool_id), name] = tally(
                demand[here, known + ahead :], told[here], naive[here], levels=levels
            )
    return totals


def _quantiles(profiles: list[ResourceDemandProfile], name: str) -> FloatArray:
    nothing = np.full((HORIZON_HOURS, len(LEVELS)), np.nan)
    stored = [getattr(profile, name) for profile in profiles]
    return np.stack([nothing if values is None else values for values in stored]).astype(float)


def judge(*, dataset: Dataset, at: datetime) -> None:
    """Raise an alert where a pool's last week of forecasts drifted, clear it where it recovered."""
    for pool in dataset.pools.order_by("pk"):
        for resource in RESOURCES:
            week = score_tally(pool=pool, resource=resource, days=SCORED_DAYS)
            _judge(pool, resource, week, at=at)


def _judge(pool: Pool, resource: str, week: Tally, *, at: datetime) -> None:
    standing = {
        DriftKind(alert.kind): alert
        for alert in pool.forecast_alerts.filter(resource=resource, cleared_at=None)
    }
    wrong = drifts(week, standing=frozenset(standing))
    for kind, detail in wrong.items():
        if kind in standing:
            ForecastAlert.objects.filter(pk=standing[kind].pk).update(detail=detail)
            continue
        with transaction.atomic():
            alert = ForecastAlert.objects.create(
                pool=pool, resource=resource, kind=kind, detail=detail, raised_at=at
            )
            _report("forecast.drifted", alert, at=at)
    for kind, alert in standing.items():
        if kind not in wrong:
            with transaction.atomic():
                ForecastAlert.objects.filter(pk=alert.pk).update(cleared_at=at)
                _report("forecast.recovered", alert, at=at)


def _report(kind: str, alert: ForecastAlert, *, at: datetime) -> None:
    log.warning("%s: %s, %s", kind, alert, alert.detail)
    events.record(
        kind=kind,
        subject=alert,
        at=at,
        pool_id=alert.pool_id,
        resource=alert.resource,
        measure=str(alert.kind),
        detail=alert.detail,
    )
