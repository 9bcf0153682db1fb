"""Lists of people and desktops, and what comes in of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from django import forms
from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from django.views.decorators.http import require_POST

from desktops import inflow, selectors
from desktops.errors import NoCloud, NotPermitted
from desktops.models import Drift, QuarantinedRow
from desktops.pages import ListForm, live, page_of, render_page
from desktops.services import quarantine as quarantining
from desktops.services.inventory import request_sync

T = TypeVar("T")
SILENT_SHOWN = 50


@live
def people(request: HttpRequest) -> HttpResponse:
    form = ListForm(request.GET, viewer=request.user)
    rows = selectors.people_listed(request.user, search=form.asked("q") or "")
    if pool := form.asked("pool"):
        rows = rows.filter(pool=pool)
    context = {
        "form": form,
        "may_see_names": selectors.may_see_names(request.user),
        **page_of(request, rows),
    }
    return render_page(request, "desktops/people.html", context, section="people")


@live
def desktops(request: HttpRequest) -> HttpResponse:
    form = ListForm(request.GET, viewer=request.user)
    rows = selectors.desktops_listed(request.user, search=form.asked("q") or "")
    if pool := form.asked("pool"):
        rows = rows.filter(pool=pool)
    context = {"form": form, **page_of(request, rows)}
    return render_page(request, "desktops/desktops.html", context, section="desktops")


@live
def sources(request: HttpRequest) -> HttpResponse:
    wall = timezone.now()
    found = inflow.sources_for(request.user)
    context = {
        "wall": wall,
        "sources": [inflow.source_state(source, wall=wall) for source in found],
        "pools": inflow.pool_states(request.user, wall=wall),
        "regions": inflow.region_states(request.user),
        "agent_patience": inflow.AGENT_PATIENCE,
    }
    return render_page(request, "desktops/sources.html", context, section="sources")


@live
def inventory(request: HttpRequest, pk: int) -> HttpResponse:
    """How one pool differs from its cloud, and which of its agents are silent."""
    wall = timezone.now()
    pool = get_object_or_404(inflow.pools_listed(request.user), pk=pk)
    form = DriftForm(request.GET)
    drifts = inflow.drifts_of(pool, request.user)
    counts = [(kind, getattr(pool, kind.value)) for kind in Drift.Kind]
    if kind := form.asked():
        drifts = drifts.filter(kind=kind)
    silent = inflow.silent_desktops(pool, wall=wall)
    context = {
        "pool": pool,
        "clock": pool.dataset.clock(wall=wall),
        "kind": kind,
        "counts": counts,
        "may_operate": selectors.may_operate(request.user),
        "agents": inflow.agents_of(pool, wall=wall),
        "agent_patience": inflow.AGENT_PATIENCE,
        "silent": silent[:SILENT_SHOWN],
        **page_of(request, drifts),
    }
    return render_page(request, "desktops/inventory.html", context, section="sources")


class DriftForm(forms.Form):
    kind = forms.ChoiceField(choices=Drift.Kind.choices, required=False)

    def asked(self) -> str:
        """A kind that makes no sense narrows nothing."""
        return self.cleaned_data["kind"] if self.is_valid() else ""


@require_POST
def sync_again(request: HttpRequest, pk: int) -> HttpResponse:
    pool = get_object_or_404(selectors.pools_for(request.user), pk=pk)
    try:
        _ask(request, request_sync, pool_id=pool.pk)
    except NoCloud as error:
        messages.error(request, str(error))
    else:
        messages.success(request, "A comparison has been asked for. It shows here when it is done.")
    return redirect("inventory", pk=pool.pk)


class RowsForm(forms.Form):
    """Which rows of the quarantine. On a list an answer that makes no sense narrows nothing."""

    source = forms.CharField(required=False, max_length=80)
    reason = forms.SlugField(required=False, max_length=40)
    state = forms.ChoiceField(choices=QuarantinedRow.State.choices, required=False)
    row = forms.IntegerField(required=False, min_value=1, max_value=2**63 - 1)

    def asked(self, name: str) -> Any:
        self.is_valid()
        return self.cleaned_data.get(name)

    def chosen(self) -> dict[str, str]:
        """What narrows the rows, for a service and for an address."""
        return {name: self.asked(name) for name in ("source", "reason") if self.asked(name)}

    def says_which(self) -> bool:
        """A mistake in one answer must not widen what another one chose."""
        return self.is_valid() and bool(self.chosen() or self.asked("row"))


@live
def quarantine(request: HttpRequest) -> HttpResponse:
    form = RowsForm(request.GET)
    state = form.asked("state") or QuarantinedRow.State.HELD
    rows = inflow.quarantine_for(request.user).filter(state=state)
    if source := form.asked("source"):
        rows = rows.filter(source__name=source)
    if reason := form.asked("reason"):
        rows = rows.filter(reason=reason)
    context = {
        "state": state,
        "states": QuarantinedRow.State.choices,
        "source": source,
        "reason": reason,
        "held": list(inflow.held_by_reason(request.user)),
        "is_held": state == QuarantinedRow.State.HELD,
        "may_operate": selectors.may_operate(request.user),
        **page_of(request, rows),
    }
    return render_page(request, "desktops/quarantine.html", context, section="sources")


@require_POST
def replay_rows(request: HttpRequest) -> HttpResponse:
    form = RowsForm(request.POST)
    if not form.says_which():
        return _say_which(request)
    n = _ask(request, quarantining.request_replay, **form.chosen())
    messages.success(request, f"{_rows(n)} will be put back. What is refused again stays here.")
    return _to_quarantine(form)


@require_POST
def replay_row(request: HttpRequest, pk: int) -> HttpResponse:
    get_object_or_404(inflow.quarantine_for(request.user), pk=pk)
    row = _ask(request, quarantining.replay_row, row_id=pk)
    if row.state == QuarantinedRow.State.HELD:
        messages.error(request, f"The row was refused again: {row.detail}")
    else:
        messages.success(request, f"The row is {row.get_state_display().lower()}.")
    return _to_quarantine(RowsForm(request.POST))


def discard_rows(request: HttpRequest) -> HttpResponse:
    """Asks first, and says how many rows it is about."""
    is_asked = request.method != "POST"
    form = RowsForm(request.GET if is_asked else request.POST)
    if not form.says_which():
        return _say_which(request)
    chosen = {**form.chosen(), "row_id": form.asked("row")}
    if not is_asked:
        n = _ask(request, quarantining.discard, **chosen)
        messages.success(request, f"{_rows(n)} discarded.")
        return _to_quarantine(form)
    if not selectors.may_operate(request.user):
        raise PermissionDenied
    context = {
        "n": inflow.held_rows(request.user, **chosen).count(),
        **chosen,
        "back": _quarantine_address(form),
        "section": "sources",
    }
    return render(request, "desktops/quarantine_discard.html", context)


def _ask(request: HttpRequest, service: Callable[..., T], **given: Any) -> T:
    try:
        return service(actor=request.user, at=timezone.now(), **given)
    except NotPermitted as error:
        raise PermissionDenied(str(error)) from error


def _rows(n: int) -> str:
    return "1 row" if n == 1 else f"{n:,} rows"


def _say_which(request: HttpRequest) -> HttpResponse:
    """What is to be changed is never guessed."""
    messages.error(request, "Choose a source, a reason or a row.")
    return redirect("quarantine")


def _to_quarantine(form: RowsForm) -> HttpResponse:
    return redirect(_quarantine_address(form))


def _quarantine_address(form: RowsForm) -> str:
    chosen = urlencode(form.chosen())
    return reverse("quarantine") + (f"?{chosen}" if chosen else "")
