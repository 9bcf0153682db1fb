"""Lists of people and desktops."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse

from desktops import selectors
from desktops.pages import ListForm, live, page_of, render_page


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
