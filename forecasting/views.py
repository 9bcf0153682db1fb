"""Figures of a profile, as JSON for the charts of a page: {"figure": {"data", "layout"}}."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django import forms
from django.conf import settings
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone

from desktops.core.zones import zone_named
from desktops.models import Look, Site
from desktops.pages import live, render_page
from desktops.selectors import activity_of, datasets_for
from desktops.services.looks import note_looks
from forecasting import charts, selectors
from forecasting.core.arrays import FloatArray
from forecasting.core.calendar import Event, event_flags
from forecasting.core.components import readable
from forecasting.core.fleet_places import RELEVANT
from forecasting.core.profiles import HORIZON_HOURS, HOUR, RESOURCES
from forecasting.core.prophet import fit_prophet
from forecasting.core.timeline import Timeline
from forecasting.models import BacktestExample, Generation, ResourceDemandProfile
from forecasting.whereabouts import fleet_ahead, fleet_rows

HISTORY = timedelta(days=14)
SCORED_DAYS = 7
BEFORE_EXAMPLE = timedelta(days=4)
COMPONENTS_FROM = timedelta(weeks=8)
WEEK_HOURS = 168
LEAST_HOURS = 48


@dataclass(frozen=True, slots=True)
class Told:
    """What every chart of a profile says of itself."""

    row: ResourceDemandProfile
    time_zone: str
    source: str


def demand(request: HttpRequest, pk: int, resource: str) -> JsonResponse:
    if resource not in RESOURCES:
        raise Http404(f"There is no resource {resource}.")
    told = _told(request, pk)
    start = told.row.starts_at - HISTORY
    return _answer(
        charts.demand_figure(
            selectors.values_of(told.row),
            resource,
            history=_observed(told.row, resource, start=start, end=told.row.starts_at),
            history_start=start,
            as_of=told.row.generation.as_of,
            time_zone=told.time_zone,
            source=told.source,
            events=_events(request, told, since=start),
        )
    )


def components(request: HttpRequest, pk: int, resource: str) -> JsonResponse:
    """Trend, week and day of a subject's own history, fitted when asked for: one is quick."""
    if resource not in RESOURCES:
        raise Http404(f"There is no resource {resource}.")
    told = _told(request, pk)
    zone = zone_named(told.time_zone)
    start = (told.row.starts_at - COMPONENTS_FROM).astimezone(zone)
    end = told.row.starts_at
    history = _observed(told.row, resource, start=start, end=end)
    seen = int(np.isfinite(history).sum())
    if seen < LEAST_HOURS:
        return _answer(
            charts.words_figure(
                f"{seen} hours were observed: too few to tell what repeats", source=told.source
            )
        )
    hours = history.size
    timeline = Timeline(start, HOUR, hours, WEEK_HOURS)
    events = _events(request, told, since=start)
    flags = event_flags([events], timeline=timeline) if events else None
    fit = fit_prophet(history[None], timeline=timeline, holidays=flags)
    parts = readable(
        {name: part[0] for name, part in fit.components(np.arange(hours + WEEK_HOURS)).items()},
        wall_hour=timeline.wall_s // 3600,
        observed=np.isfinite(history),
    )
    return _answer(
        charts.components_figure(
            resource,
            parts,
            start=start,
            n_slots=hours,
            time_zone=told.time_zone,
            source=(
                f"{told.source} · Prophet alone, fitted to the {seen} hours observed in the last"
                " eight weeks"
            ),
        )
    )


def earlier(request: HttpRequest, pk: int, resource: str) -> JsonResponse:
    """What a full forecast made a day or more before said, over what then came."""
    if resource not in RESOURCES:
        raise Http404(f"There is no resource {resource}.")
    told = _told(request, pk)
    row = selectors.earlier_profile(request.user, told.row)
    if row is None:
        raise Http404("No earlier forecast of this subject is kept.")
    start = row.starts_at - BEFORE_EXAMPLE
    profile = selectors.values_of(row)
    end = told.row.starts_at
    history = _observed(row, resource, start=start, end=end, in_session=True)
    after = history[int((row.starts_at - start) / HOUR) :][:HORIZON_HOURS]
    inside = charts.share_inside(profile, resource, after)
    seen = int(np.isfinite(after).sum())
    kept = "nothing was observed since"
    if inside is not None:
        kept = f"of {seen} hours observed since, {inside:.0%} lay in the band of 8 of 10"
    return _answer(
        charts.demand_figure(
            profile,
            resource,
            history=history,
            history_start=start,
            as_of=row.generation.as_of,
            time_zone=told.time_zone,
            source=(
                f"{row.generation.dataset.label} · forecast of"
                f" {row.generation.as_of:%-d %b %Y %H:%M} UTC; {kept}"
            ),
            events=_events(request, told, since=start),
        )
    )


def presence(request: HttpRequest, pk: int) -> JsonResponse:
    told = _told(request, pk)
    return _answer(
        charts.activity_figure(
            selectors.values_of(told.row),
            time_zone=told.time_zone,
            source=told.source,
            events=_events(request, told, since=told.row.starts_at),
        )
    )


def whereabouts(request: HttpRequest, pk: int) -> JsonResponse:
    told = _told(request, pk)
    _note_look(request, told)
    return _answer(
        charts.location_shares_figure(
            selectors.values_of(told.row),
            site_names={site.code: site.label for site in _sites(told.row)},
            time_zone=told.time_zone,
            source=told.source,
        )
    )


def location_map(request: HttpRequest, pk: int) -> JsonResponse:
    told = _told(request, pk)
    _note_look(request, told)
    points = {
        site.code: charts.SitePoint(site.label, site.latitude, site.longitude)
        for site in _sites(told.row)
    }
    return _answer(
        charts.location_map_figure(
            selectors.values_of(told.row),
            sites=points,
            time_zone=told.time_zone,
            source=told.source,
        )
    )


def backtest(request: HttpRequest) -> HttpResponse:
    """How each engine did over the last weeks, and what the product would have said."""
    runs = list(selectors.newest_backtests(request.user))
    run = next((r for r in runs if r.dataset.name == request.GET.get("dataset")), None)
    run = run or next(iter(runs), None)
    context: dict[str, Any] = {"runs": runs, "run": run}
    if run is not None:
        examples = list(selectors.backtest_examples_for(request.user).filter(run=run))
        chosen = request.GET.get("example", "")
        context |= {
            "scores": run.scores.all(),
            "examples": examples,
            "example": next(
                (e for e in examples if str(e.pk) == chosen), next(iter(examples), None)
            ),
            "resources": [
                {"slug": name, "title": unit.title} for name, unit in charts.UNITS.items()
            ],
        }
    return render_page(request, "forecasting/backtest.html", context, section="backtest")


@live
def published(request: HttpRequest) -> HttpResponse:
    """How forecasts are made, and how those that were shown turned out."""
    context = {
        "generations": selectors.newest_generations(request.user),
        "health": selectors.health_for(request.user, days=SCORED_DAYS),
        "days": SCORED_DAYS,
    }
    return render_page(request, "forecasting/published.html", context, section="backtest")


class HourForm(forms.Form):
    """Which data set and hour. An answer that makes no sense is none."""

    dataset = forms.SlugField(required=False)
    hour = forms.IntegerField(required=False, min_value=0, max_value=HORIZON_HOURS - 1)

    def asked(self, name: str) -> Any:
        self.is_valid()
        return self.cleaned_data.get(name)


def fleet_whereabouts(request: HttpRequest) -> HttpResponse:
    """How many people are expected where, by the hour: the newest forecast of a data set."""
    form = HourForm(request.GET)
    datasets = list(datasets_for(request.user))
    dataset = next((d for d in datasets if d.name == form.asked("dataset")), None)
    dataset = dataset or next(iter(datasets), None)
    context: dict[str, Any] = {"datasets": datasets, "dataset": dataset}
    generation = selectors.latest_generation(dataset) if dataset else None
    if dataset and generation:
        clock = dataset.clock(wall=timezone.now())
        hour = form.asked("hour")
        if hour is None:
            hour = min(max((clock - generation.as_of) // HOUR, 0), HORIZON_HOURS - 1)
        ahead = fleet_ahead(request.user, generation)
        rows = fleet_rows(ahead)
        context |= {
            "clock": clock,
            "generation": generation,
            "hour": hour,
            "last_hour": HORIZON_HOURS - 1,
            "at": generation.as_of + hour * HOUR,
            "people": ahead.people,
            "rows": [(row.name, charts.expected_people(row.people[hour])) for row in rows],
            "k": settings.K_ANONYMITY,
            "relevant": RELEVANT,
        }
    return render_page(request, "forecasting/whereabouts.html", context, section="whereabouts")


def fleet_whereabouts_figure(request: HttpRequest, pk: int) -> JsonResponse:
    generation = get_object_or_404(
        selectors.generations_for(request.user), pk=pk, state=Generation.State.COMPLETE
    )
    dataset = generation.dataset
    return _answer(
        charts.fleet_whereabouts_figure(
            fleet_rows(fleet_ahead(request.user, generation)),
            starts_at=generation.as_of,
            step=HOUR,
            source=(
                f"{dataset.label} ({dataset.get_kind_display().lower()} data) · forecast from what"
                f" was known at {generation.as_of:%-d %b %Y %H:%M} UTC by {generation.engine}"
            ),
        )
    )


def backtest_figure(request: HttpRequest, pk: int, resource: str) -> JsonResponse:
    """The product's forecast of an example, over what was observed before and meanwhile."""
    row = get_object_or_404(selectors.backtest_examples_for(request.user), pk=pk)
    if resource not in RESOURCES:
        raise Http404(f"There is no resource {resource}.")
    start = row.starts_at - BEFORE_EXAMPLE
    run, person = row.run, row.desktop_user
    return _answer(
        charts.demand_figure(
            selectors.example_values(row),
            resource,
            history=_observed(
                row, resource, start=start, end=row.starts_at + run.horizon_hours * HOUR
            ),
            history_start=start,
            as_of=row.starts_at,
            time_zone=person.time_zone if person else "UTC",
            source=(
                f"{run.dataset.label} ({run.dataset.get_kind_display().lower()} data) · forecast"
                f" again from what was known at {row.starts_at:%-d %b %Y %H:%M} UTC"
            ),
        )
    )


def _answer(figure: charts.Figure) -> JsonResponse:
    return JsonResponse({"figure": figure})


def _note_look(request: HttpRequest, told: Told) -> None:
    if person := told.row.desktop_user:
        note_looks(
            viewer=request.user.get_username(),
            people=[person],
            what=Look.What.WHEREABOUTS,
            at=timezone.now(),
        )


def _told(request: HttpRequest, pk: int) -> Told:
    row = get_object_or_404(
        selectors.profiles_for(request.user).select_related("desktop_user__home_site"), pk=pk
    )
    generation, person = row.generation, row.desktop_user
    time_zone = person.time_zone if person else "UTC"
    kind = generation.dataset.get_kind_display().lower()
    source = (
        f"{generation.dataset.label} ({kind} data) · forecast from what was known at"
        f" {generation.as_of:%-d %b %Y %H:%M} UTC by {row.engine}"
    )
    return Told(row, time_zone, source)


def _events(request: HttpRequest, told: Told, *, since: datetime) -> list[Event]:
    end = told.row.starts_at + HORIZON_HOURS * HOUR
    return selectors.events_about(request.user, told.row, start=since, end=end)


def _observed(
    row: ResourceDemandProfile | BacktestExample,
    resource: str,
    *,
    start: datetime,
    end: datetime,
    in_session: bool = False,
) -> FloatArray:
    """Hourly from `start` to `end`, NaN where nothing was observed.

    in_session : leave out the hours that are known to be without a session
    """
    values = np.full(int((end - start) / HOUR), np.nan)
    seen = activity_of(
        person=row.desktop_user, desktop=row.desktop, since=start, until=end
    ).values_list("hour", resource, "active_ratio")
    for hour, value, active_ratio in seen:
        if value is not None and not (in_session and active_ratio == 0):
            values[int((hour - start) / HOUR)] = value
    return values


def _sites(row: ResourceDemandProfile) -> list[Site]:
    return list(Site.objects.filter(code__in=row.location))
