"""What a fleet admin configures by hand. What services write is not edited here."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from desktops.core.networks import normal_form
from desktops.models import (
    DesktopUser,
    Flavor,
    FlavorPrice,
    Look,
    Network,
    Notice,
    PersonName,
    Pool,
    Region,
    RegionLink,
    RoundTrip,
    Site,
)
from desktops.notices import notices_for
from desktops.selectors import datasets_for, may_see_names, people_for, pools_for
from desktops.services.locating import forget_sites
from desktops.services.notices import Reach, digest_of, new_uid


class PriceInline(admin.TabularInline):
    model = FlavorPrice
    extra = 0


@admin.register(Region)
class RegionAdmin(admin.ModelAdmin):
    list_display = ("label", "cloud", "name", "country", "time_zone", "probe_address")
    list_filter = ("cloud",)
    search_fields = ("label", "name")


@admin.register(Site)
class SiteAdmin(admin.ModelAdmin):
    list_display = ("label", "code", "country", "time_zone")
    search_fields = ("label", "code")


class NetworkForm(forms.ModelForm):
    def clean_cidr(self) -> str:
        try:
            return normal_form(self.cleaned_data["cidr"])
        except ValueError as error:
            raise ValidationError(str(error)) from None


@admin.register(Network)
class NetworkAdmin(admin.ModelAdmin):
    """Many at once: manage.py import_networks."""

    form = NetworkForm
    list_display = ("cidr", "site", "label")
    list_select_related = ("site",)
    list_filter = ("site",)
    search_fields = ("cidr", "label")
    raw_id_fields = ("site",)

    def save_model(self, request: HttpRequest, obj: Network, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        transaction.on_commit(forget_sites, robust=True)


@admin.register(Flavor)
class FlavorAdmin(admin.ModelAdmin):
    list_display = ("name", "cloud", "vcpus", "memory_bytes")
    list_filter = ("cloud",)
    inlines = (PriceInline,)


@admin.register(RegionLink)
class RegionLinkAdmin(admin.ModelAdmin):
    list_display = ("source", "dest", "egress_price_per_gb", "bytes_per_s", "rtt_ms")
    list_select_related = ("source", "dest")


@admin.register(RoundTrip)
class RoundTripAdmin(admin.ModelAdmin):
    list_display = ("site", "region", "rtt_ms", "source", "measured_at", "probes")
    list_filter = ("source", "region")
    list_select_related = ("site", "region")


@admin.register(Pool)
class PoolAdmin(admin.ModelAdmin):
    list_display = ("label", "dataset", "cutover_mode", "slo_rtt_ms", "commit_window_s")
    list_select_related = ("dataset",)
    filter_horizontal = ("members", "residency")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Pool]:
        return pools_for(request.user)


class NameInline(admin.StackedInline):
    """For who may see names, and so write them; the page leaves it out for others."""

    model = PersonName
    verbose_name_plural = "Name"

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return may_see_names(request.user)

    has_add_permission = has_change_permission = has_delete_permission = has_view_permission


@admin.register(DesktopUser)
class DesktopUserAdmin(admin.ModelAdmin):
    list_display = ("pseudonym", "dataset", "pool", "home_site")
    list_select_related = ("dataset", "pool", "home_site")
    list_filter = ("dataset",)
    search_fields = ("pseudonym",)
    raw_id_fields = ("pool", "home_site")

    def get_queryset(self, request: HttpRequest) -> QuerySet[DesktopUser]:
        return people_for(request.user)

    def has_delete_permission(self, request: HttpRequest, obj: DesktopUser | None = None) -> bool:
        return False  # `person erase` reaches what a row's own cascade does not

    def get_inlines(self, request: HttpRequest, obj: DesktopUser | None = None) -> list[type]:
        return [NameInline] if may_see_names(request.user) else []


@admin.register(Look)
class LookAdmin(admin.ModelAdmin):
    """Who looked at whom: read, and never changed by hand."""

    list_display = ("hour", "viewer", "what", "alias")
    list_filter = ("what",)
    search_fields = ("viewer", "alias")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Look | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Look | None = None) -> bool:
        return False


class NoticeForm(forms.ModelForm):
    """What its author may speak for, set by NoticeAdmin: what may be chosen is theirs already."""

    viewer: Any = None

    def clean(self) -> dict[str, Any]:
        values = super().clean() or self.cleaned_data
        dataset, person, pool = (values.get(name) for name in ("dataset", "desktop_user", "pool"))
        kind, site = values.get("kind"), values.get("site")
        if dataset is None:
            return values
        if any(each and each.dataset_id != dataset.pk for each in (person, pool)):
            raise ValidationError("The person or the pool belongs to another data set.")
        if person and (pool or values.get("title") or kind == Notice.Kind.CLOSED):
            raise ValidationError("What is somebody's has no pool and no title, and is not closed.")
        if not person and kind in (Notice.Kind.TRAVEL, Notice.Kind.LEAVE):
            raise ValidationError("Travel and leave are somebody's: choose who.")
        if kind == Notice.Kind.TRAVEL and not site:
            raise ValidationError("Travel to where? Choose a site.")
        if person and site and not person.is_located:
            raise ValidationError("This person opted out of being located.")
        if not (person or pool or Reach.of_viewer(self.viewer, dataset).is_whole):
            raise ValidationError("Choose a person or a pool: you may not speak for all.")
        return values


@admin.register(Notice)
class NoticeAdmin(admin.ModelAdmin):
    """Written by hand. What comes from elsewhere is changed there."""

    form = NoticeForm
    fields = (
        "dataset",
        "pool",
        "desktop_user",
        "kind",
        "site",
        "title",
        "starts_at",
        "ends_at",
        "withdrawn_at",
    )
    list_display = ("kind", "starts_at", "ends_at", "pool", "desktop_user", "site", "provenance")
    list_select_related = ("pool", "desktop_user", "site")
    list_filter = ("kind", "origin")
    date_hierarchy = "starts_at"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notice]:
        return notices_for(request.user)

    def has_change_permission(self, request: HttpRequest, obj: Notice | None = None) -> bool:
        if not super().has_change_permission(request, obj):
            return False
        if obj is None:
            return True
        reach = Reach.of_viewer(request.user, obj.dataset)
        is_by_hand = obj.origin == Notice.Origin.FORM
        return is_by_hand and reach.notices().filter(pk=obj.pk).exists()

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> type[forms.ModelForm]:
        form = super().get_form(request, *args, **kwargs)
        return type(form.__name__, (form,), {"viewer": request.user})

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        mine = {"dataset": datasets_for, "pool": pools_for, "desktop_user": people_for}
        if selector := mine.get(db_field.name):
            kwargs["queryset"] = selector(request.user)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: Notice, form: Any, change: bool) -> None:
        if not change:
            obj.origin = Notice.Origin.FORM
            obj.provenance = f"account:{request.user.get_username()}"
            obj.uid = digest_of(new_uid())
        obj.received_at = timezone.now()
        super().save_model(request, obj, form, change)
