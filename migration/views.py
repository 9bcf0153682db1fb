"""Pages of plans and transitions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect
from django.utils import timezone
from django.views.decorators.http import require_POST

from desktops.errors import NotPermitted
from desktops.pages import live, page_of, render_page
from migration import charts, selectors
from migration.errors import MigrationError
from migration.forms import (
    ApprovalForm,
    NoteForm,
    PlanForm,
    ReleaseForm,
    ScheduleForm,
    ShadowsForm,
    TransitionsForm,
)
from migration.models import Pass, Plan, Recommendation, Transition
from migration.services.decisions import (
    approve_recommendation,
    cancel_transition,
    confirm_transition,
    reject_recommendation,
    resume_transition,
)
from migration.services.shadows import (
    ask_for_test,
    pause_shadow,
    release_shadow,
    resume_shadow,
    schedule_shadow,
    sync_shadow,
)

PASSES_SHOWN, PASSES_CHARTED = 25, 200


@live
def plan(request: HttpRequest) -> HttpResponse:
    plans = list(selectors.current_plans(request.user))
    chosen = _chosen(plans, request.GET.get("dataset", ""))
    form = PlanForm(request.GET, viewer=request.user)
    context: dict[str, Any] = {"plans": plans, "plan": chosen, "form": form}
    if chosen is not None:
        rows = _narrowed(selectors.recommendations_for(request.user).filter(plan=chosen), form)
        summaries = selectors.summarise(request.user, plan=chosen)
        context |= {"summaries": summaries, **page_of(request, rows)}
    return render_page(request, "migration/plan.html", context, section="plan")


def _chosen(plans: list[Plan], dataset: str) -> Plan | None:
    return next((plan for plan in plans if plan.dataset.name == dataset), next(iter(plans), None))


def _narrowed(rows: Any, form: PlanForm) -> Any:
    if search := form.asked("q"):
        rows = rows.filter(desktop__key__icontains=search)
    if pool := form.asked("pool"):
        rows = rows.filter(pool=pool)
    if state := form.asked("state"):
        rows = rows.filter(state=state)
    action = form.asked("action")
    if action == PlanForm.ANY:
        return rows
    if action:
        return rows.filter(action=action)
    return rows.exclude(action=Recommendation.Action.STAY)


@live
def recommendation(request: HttpRequest, pk: int) -> HttpResponse:
    row = get_object_or_404(selectors.recommendations_for(request.user), pk=pk)
    context = {"recommendation": row, "form": ApprovalForm()}
    return render_page(request, "migration/recommendation.html", context, section="plan")


@require_POST
def approve(request: HttpRequest, pk: int) -> HttpResponse:
    row = get_object_or_404(selectors.recommendations_for(request.user), pk=pk)
    form = ApprovalForm(request.POST)
    if not form.is_valid():
        messages.error(request, "Choose when to cut over.")
        return redirect("recommendation", pk=row.pk)
    ordered = _ask(request, approve_recommendation, recommendation_id=row.pk, **form.values())
    return (
        redirect("transition", pk=ordered.pk) if ordered else redirect("recommendation", pk=row.pk)
    )


@require_POST
def reject(request: HttpRequest, pk: int) -> HttpResponse:
    row = get_object_or_404(selectors.recommendations_for(request.user), pk=pk)
    if _ask(request, reject_recommendation, recommendation_id=row.pk, note=_note(request)):
        messages.success(request, "Rejected: nothing will be done.")
    return redirect("recommendation", pk=row.pk)


@live
def shadows(request: HttpRequest) -> HttpResponse:
    form = ShadowsForm(request.GET, viewer=request.user)
    rows = selectors.listed_shadows(request.user, now=timezone.now())
    if search := form.asked("q"):
        rows = rows.filter(desktop__key__icontains=search)
    if pool := form.asked("pool"):
        rows = rows.filter(desktop__pool=pool)
    state = form.asked("state")
    if not state:
        rows = rows.filter(is_kept=True)
    elif state != ShadowsForm.ANY:
        rows = rows.filter(state=state)
    context = {"form": form, "now": timezone.now(), **page_of(request, rows)}
    return render_page(request, "migration/shadows.html", context, section="shadows")


@live
def shadow(request: HttpRequest, pk: int) -> HttpResponse:
    now = timezone.now()
    row = get_object_or_404(selectors.listed_shadows(request.user, now=now), pk=pk)
    history = selectors.passes_of(row)
    context = {
        "shadow": row,
        "now": now,
        "under_way": history.filter(state__in=selectors.OPEN_PASSES).first(),
        "passes": history[:PASSES_SHOWN],
        "readiness": selectors.readiness_of(row),
        "test": selectors.newest_test(row),
        "choices": selectors.choices_for_shadow(request.user, row),
        "schedule_form": ScheduleForm.of(row),
        "move": selectors.still_running(
            selectors.transitions_for(request.user).filter(shadow=row)
        ).first(),
    }
    return render_page(request, "migration/shadow.html", context, section="shadows")


@require_POST
def pause(request: HttpRequest, pk: int) -> HttpResponse:
    return _ask_shadow(request, pk, pause_shadow, "Paused: no pass begins until it is resumed.")


@require_POST
def resume_keeping(request: HttpRequest, pk: int) -> HttpResponse:
    return _ask_shadow(request, pk, resume_shadow, "Resumed.")


@require_POST
def sync_now(request: HttpRequest, pk: int) -> HttpResponse:
    return _ask_shadow(request, pk, sync_shadow, "Asked for: a pass begins within seconds.")


@require_POST
def schedule(request: HttpRequest, pk: int) -> HttpResponse:
    form = ScheduleForm(request.POST)
    if not form.is_valid():
        messages.error(request, form.why_not())
        return redirect("shadow", pk=pk)
    interval_s = form.interval_s()
    done = "Scheduled." if interval_s else "From now on it is brought up to date by moves alone."
    return _ask_shadow(request, pk, schedule_shadow, done, interval_s=interval_s)


@require_POST
def test_boot(request: HttpRequest, pk: int) -> HttpResponse:
    return _ask_shadow(request, pk, ask_for_test, "Asked for: the outcome shows on this page.")


@require_POST
def release(request: HttpRequest, pk: int) -> HttpResponse:
    if not ReleaseForm(request.POST).is_valid():
        messages.error(request, "Nothing was released: tick that its volume may be deleted.")
        return redirect("shadow", pk=pk)
    return _ask_shadow(request, pk, release_shadow, "It is being released.")


def _ask_shadow(
    request: HttpRequest, pk: int, service: Callable[..., Any], done: str, **given: Any
) -> HttpResponse:
    row = get_object_or_404(selectors.shadows_for(request.user), pk=pk)
    if _ask(request, service, shadow_id=row.pk, **given):
        messages.success(request, done)
    return redirect("shadow", pk=row.pk)


def passes_figure(request: HttpRequest, pk: int) -> JsonResponse:
    """What changed, what was sent and how long it took, pass by pass, as a Plotly figure."""
    row = get_object_or_404(selectors.shadows_for(request.user), pk=pk)
    done = selectors.passes_of(row).filter(state=Pass.State.DONE)[:PASSES_CHARTED]
    return JsonResponse({"figure": charts.passes_figure(list(done)[::-1])})


@live
def transitions(request: HttpRequest) -> HttpResponse:
    form = TransitionsForm(request.GET, viewer=request.user)
    rows = selectors.transitions_for(request.user)
    if search := form.asked("q"):
        rows = rows.filter(desktop__key__icontains=search)
    if pool := form.asked("pool"):
        rows = rows.filter(pool=pool)
    state = form.asked("state")
    if state == "running":
        rows = selectors.still_running(rows)
    elif state:
        rows = rows.filter(state=state)
    context = {"form": form, **page_of(request, rows)}
    return render_page(request, "migration/transitions.html", context, section="transitions")


@live
def transition(request: HttpRequest, pk: int) -> HttpResponse:
    row = get_object_or_404(
        selectors.transitions_for(request.user).select_related(
            "recommendation__decision__decided_by", "recommendation__plan__dataset"
        ),
        pk=pk,
    )
    context = {
        "transition": row,
        "stages": selectors.stages_of(row),
        "steps": selectors.steps_of(row),
        "passes": selectors.passes_of_transition(row),
        "choices": selectors.choices_for(request.user, row),
    }
    return render_page(request, "migration/transition.html", context, section="transitions")


@require_POST
def confirm(request: HttpRequest, pk: int) -> HttpResponse:
    return _ask_transition(request, pk, confirm_transition, note=_note(request))


@require_POST
def cancel(request: HttpRequest, pk: int) -> HttpResponse:
    return _ask_transition(request, pk, cancel_transition)


@require_POST
def resume(request: HttpRequest, pk: int) -> HttpResponse:
    return _ask_transition(request, pk, resume_transition)


def _ask_transition(
    request: HttpRequest, pk: int, service: Callable[..., Transition], **given: Any
) -> HttpResponse:
    row = get_object_or_404(selectors.transitions_for(request.user), pk=pk)
    _ask(request, service, transition_id=row.pk, **given)
    return redirect("transition", pk=row.pk)


def _ask(request: HttpRequest, service: Callable[..., Any], **given: Any) -> Any:
    """What the service answers; None when it refused, which the next page says."""
    try:
        return service(actor=request.user, at=timezone.now(), **given)
    except NotPermitted as error:
        raise PermissionDenied(str(error)) from error
    except MigrationError as error:
        messages.error(request, str(error))
        return None


def _note(request: HttpRequest) -> str:
    form = NoteForm(request.POST)
    return form.cleaned_data["note"] if form.is_valid() else ""
