"""What every page has in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from django import forms
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from desktops.selectors import last_seq, pools_for

if TYPE_CHECKING:
    from desktops.selectors import Viewer

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponse]
ROWS = 50


def live(view: View[P]) -> View[P]:
    """A page that events keep up to date: it is told the number of the newest event before it
    reads anything, so that whatever is committed meanwhile is caught up with."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: P.args, **kwargs: P.kwargs) -> HttpResponse:
        request.live_seq = last_seq()  # type: ignore[attr-defined]
        return view(request, *args, **kwargs)

    return wrapped


def render_page(
    request: HttpRequest, template: str, context: dict[str, Any], *, section: str = ""
) -> HttpResponse:
    """The page, or with ?part=live only what its events refresh, `<template>_live.html`."""
    is_part = request.GET.get("part") == "live"
    if is_part:
        template = template.removesuffix(".html") + "_live.html"
    return render(request, template, {"section": section, "is_part": is_part, **context})


def page_of(request: HttpRequest, rows: QuerySet) -> dict[str, Any]:
    """One page of a list and the numbers to choose others by."""
    page: Page = Paginator(rows, ROWS).get_page(request.GET.get("page"))
    numbers = page.paginator.get_elided_page_range(page.number, on_each_side=2, on_ends=1)
    return {"page": page, "page_range": list(numbers)}


class ListForm(forms.Form):
    """What a list is narrowed to. An answer that makes no sense narrows nothing."""

    q = forms.CharField(required=False, max_length=80)
    pool = forms.ModelChoiceField(
        queryset=None, required=False, to_field_name="name", empty_label="All pools"
    )

    def __init__(self, *args: Any, viewer: Viewer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["pool"].queryset = pools_for(viewer).select_related("dataset")

    def asked(self, name: str) -> Any:
        self.is_valid()
        return self.cleaned_data.get(name)
