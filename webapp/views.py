"""Pages that bring the apps together: the overview, one person, one desktop, the REST API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.functional import SimpleLazyObject
from django.views.decorators.http import require_POST
from drf_spectacular.generators import SchemaGenerator

from desktops import selectors as fleet
from desktops.errors import NotPermitted
from desktops.models import Dataset, Desktop, DesktopUser, Look
from desktops.notices import AHEAD, notices_about
from desktops.pages import live, render_page
from desktops.services.looks import note_looks
from forecasting import selectors as forecasts
from forecasting import whereabouts as places
from forecasting.charts import UNITS
from forecasting.core.profiles import HORIZON_HOURS
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.services.forecasts import request_forecast
from forecasting.what_if import TripForm, what_if
from migration import selectors as moves
from migration.models import Plan, Recommendation, Transition
from migration.services.plans import request_plan
from webapp.figures import fleet_map_figure

AWAITING_SHOWN = 6
EVENTS_SHOWN = 15
KINDS = (Dataset.Kind.LIVE, Dataset.Kind.SIMULATED, Dataset.Kind.IMPORTED)
PLACES_SHOWN = 5


class SignIn(LoginView):
    redirect_authenticated_user = True


@dataclass(frozen=True, slots=True)
class DatasetOverview:
    """What the overview says of one data set."""

    dataset: Dataset
    clock: datetime
    people: int
    desktops: int
    regions: list[dict[str, Any]]
    sites: list[dict[str, Any]]  # read when shown: what events refresh leaves it out
    plan: Plan | None
    summaries: list[moves.PlanSummary]
    awaiting: list[Recommendation]
    running: list[Transition]
    generation: Generation | None
    attempt: Generation | None

    @property
    def k(self) -> int:
        """No site is shown with fewer people."""
        return int(settings.K_ANONYMITY)

    @property
    def has_regions(self) -> bool:
        """Whether any of its desktops runs anywhere."""
        return any(row["region"] is not None for row in self.regions)


@live
def overview(request: HttpRequest) -> HttpResponse:
    wall = timezone.now()
    # What can be acted on comes first, recorded history last.
    datasets = sorted(fleet.datasets_for(request.user), key=lambda d: KINDS.index(d.kind))
    events = fleet.events_for(request.user).select_related("pool").order_by("-seq")[:EVENTS_SHOWN]
    context = {
        "overviews": [_overview_of(request, dataset, wall) for dataset in datasets],
        "events": events,
    }
    return render_page(request, "overview.html", context, section="overview")


def _overview_of(request: HttpRequest, dataset: Dataset, wall: datetime) -> DatasetOverview:
    viewer, clock = request.user, dataset.clock(wall=wall)
    plan = moves.current_plans(viewer).filter(dataset=dataset).first()
    awaiting = moves.awaiting_approval(viewer, dataset=dataset)
    running = moves.still_running(moves.transitions_for(viewer)).filter(pool__dataset=dataset)
    return DatasetOverview(
        dataset=dataset,
        clock=clock,
        people=fleet.people_for(viewer).filter(dataset=dataset).count(),
        desktops=fleet.desktops_for(viewer).filter(dataset=dataset).count(),
        regions=list(fleet.desktops_by_region(viewer, dataset=dataset)),
        sites=SimpleLazyObject(lambda: fleet.people_by_site(viewer, dataset=dataset, at=clock)),
        plan=plan,
        summaries=moves.summarise(viewer, plan=plan) if plan else [],
        awaiting=list(awaiting[:AWAITING_SHOWN]),
        running=list(running),
        generation=forecasts.latest_generation(dataset),
        attempt=forecasts.newest_attempt(dataset),
    )


@live
def person(request: HttpRequest, pk: int) -> HttpResponse:
    someone = get_object_or_404(fleet.people_listed(request.user), pk=pk)
    return _subject_page(request, person=someone, desktop=getattr(someone, "desktop", None))


@live
def desktop(request: HttpRequest, pk: int) -> HttpResponse:
    machine = get_object_or_404(
        fleet.desktops_listed(request.user).select_related("desktop_user__home_site"), pk=pk
    )
    return _subject_page(request, person=machine.desktop_user, desktop=machine)


def _subject_page(
    request: HttpRequest, *, person: DesktopUser | None, desktop: Desktop | None
) -> HttpResponse:
    """A person and their desktop are one page, whichever of them there is."""
    viewer = request.user
    subject = person or desktop
    assert subject is not None
    wall = timezone.now()
    clock = subject.dataset.clock(wall=wall)
    if person is not None:
        note_looks(viewer=viewer.get_username(), people=[person], what=Look.What.PAGE, at=wall)
    profile = forecasts.profile_of(viewer, person=person, desktop=desktop)
    context: dict[str, Any] = {
        "person": person,
        "desktop": desktop,
        "dataset": subject.dataset,
        "pool": subject.pool,
        "clock": clock,
        "may_see_names": fleet.may_see_names(viewer),
        "profile": profile,
        "earlier": forecasts.earlier_profile(viewer, profile) if profile else None,
        "resources": _resources(profile) if profile and profile.has_demand else [],
        "last_seen": fleet.newest_site(person, at=clock) if person else None,
        "notices": notices_about(viewer, subject=subject, at=clock),
        "holidays": forecasts.holidays_of(person, start=clock, end=clock + AHEAD) if person else [],
        "is_being_unplaced": bool(
            person and not person.is_located and fleet.is_being_unplaced(person)
        ),
    }
    if profile and profile.location:
        context |= _whereabouts(request, profile, person=person, desktop=desktop, clock=clock)
    if desktop is not None:
        context |= {
            "recommendation": moves.open_recommendation(viewer, desktop=desktop),
            "transitions": moves.transitions_for(viewer).filter(desktop=desktop)[:10],
            "shadows": moves.shadows_for(viewer).filter(desktop=desktop).order_by("-created_at"),
        }
    section = "people" if person else "desktops"
    page = render_page(request, "subject.html", context, section=section)
    if (form := context.get("trip_form")) and form.errors:
        page.status_code = 400
    return page


def _resources(profile: ResourceDemandProfile) -> list[dict[str, Any]]:
    """What was forecast of a profile, and by which engines."""
    return [
        {"slug": name, "title": unit.title, "engines": forecasts.engine_parts(profile, name)}
        for name, unit in UNITS.items()
        if getattr(profile, name) is not None
    ]


def _whereabouts(
    request: HttpRequest,
    profile: ResourceDemandProfile,
    *,
    person: DesktopUser | None,
    desktop: Desktop | None,
    clock: datetime,
) -> dict[str, Any]:
    """Where they will be, in words, how far the regions are from there, and what a trip would
    change."""
    gone = places.hours_gone(profile, clock=clock)
    if person is None or gone == HORIZON_HOURS:
        return {"is_over": gone == HORIZON_HOURS}
    rest = "7 days" if gone == 0 else f"{HORIZON_HOURS - gone} hours"
    periods = [
        ("Now", slice(gone, gone + 1)),
        ("24 hours", slice(gone, gone + 24)),
        (rest, slice(gone, None)),
    ]
    viewer, location = request.user, profile.location
    form = TripForm(request.GET, viewer=viewer, profile=profile, time_zone=person.time_zone)
    trip = form.cleaned_data if form.is_valid() else None
    ground = places.ground_of(
        viewer,
        pool=person.pool,
        desktop=desktop,
        location=location,
        also=[trip["site"].code] if trip else [],
    )
    hours = [some for _, some in periods]
    return {
        "periods": [title for title, _ in periods],
        "places": _places(profile, periods, ground.labels),
        "stays": places.stays_ahead(viewer, profile, labels=ground.labels, clock=clock),
        "least_kept": places.LEAST_KEPT,
        "regions": places.regions_ahead(ground, location, desktop=desktop, hours=hours),
        "trip_form": form,
        "what_if": what_if(profile, ground, trip) if trip else None,
    }


def _places(
    profile: ResourceDemandProfile,
    periods: list[tuple[str, slice]],
    labels: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The likely places in words, for the periods people ask about."""
    ranked = [(title, forecasts.likely_places(profile, hours=hours)) for title, hours in periods]
    return [
        {
            "title": title,
            "places": [
                {"label": labels.get(code, code), "chance": chance}
                for code, chance in likely[:PLACES_SHOWN]
            ],
        }
        for title, likely in ranked
        if likely
    ]


@require_POST
def forecast_again(request: HttpRequest, pk: int) -> HttpResponse:
    return _request_anew(request, pk, request_forecast, "A new forecast has been asked for.")


@require_POST
def plan_again(request: HttpRequest, pk: int) -> HttpResponse:
    return _request_anew(request, pk, request_plan, "A new plan has been asked for.")


def _request_anew(
    request: HttpRequest, pk: int, service: Callable[..., None], done: str
) -> HttpResponse:
    dataset = get_object_or_404(fleet.datasets_for(request.user), pk=pk)
    try:
        service(dataset_id=dataset.pk, actor=request.user, at=timezone.now())
    except NotPermitted as error:
        raise PermissionDenied(str(error)) from error
    messages.success(request, f"{done} It shows here when it is ready.")
    return redirect("overview")


def fleet_map(request: HttpRequest, pk: int) -> JsonResponse:
    """Where people were last seen and where desktops run, as a Plotly figure."""
    dataset = get_object_or_404(fleet.datasets_for(request.user), pk=pk)
    clock = dataset.clock(wall=timezone.now())
    figure = fleet_map_figure(
        sites=fleet.people_by_site(request.user, dataset=dataset, at=clock),
        regions=list(fleet.desktops_by_region(request.user, dataset=dataset)),
    )
    return JsonResponse({"figure": figure})


def api(request: HttpRequest) -> HttpResponse:
    """The REST API as a table, out of its own schema."""
    schema = SchemaGenerator().get_schema(public=True)
    operations = [
        {"path": path, "method": method.upper(), "text": operation.get("description", "")}
        for path, methods in sorted(schema["paths"].items())
        for method, operation in methods.items()
    ]
    return render(request, "api.html", {"operations": operations, "info": schema["info"]})
