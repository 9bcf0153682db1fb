"""What a fleet admin configures by hand. What services write is not edited here."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from desktops.models import (
    DesktopUser,
    Flavor,
    FlavorPrice,
    Pool,
    Region,
    RegionLink,
    RoundTrip,
    Site,
)
from desktops.selectors import may_see_names, people_for, pools_for


class PriceInline(admin.TabularInline):
    model = FlavorPrice
    extra = 0


@admin.register(Region)
class RegionAdmin(admin.ModelAdmin):
    list_display = ("label", "cloud", "name", "country", "time_zone")
    list_filter = ("cloud",)
    search_fields = ("label", "name")


@admin.register(Site)
class SiteAdmin(admin.ModelAdmin):
    list_display = ("label", "code", "country", "time_zone")
    search_fields = ("label", "code")


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
    list_display = ("site", "region", "rtt_ms", "source", "measured_at")
    list_filter = ("source", "region")
    list_select_related = ("site", "region")


@admin.register(Pool)
class PoolAdmin(admin.ModelAdmin):
    list_display = ("label", "dataset", "cutover_mode", "slo_rtt_ms", "commit_window_s")
    list_select_related = ("dataset",)
    filter_horizontal = ("members", "residency")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Pool]:
        return pools_for(request.user)


@admin.register(DesktopUser)
class DesktopUserAdmin(admin.ModelAdmin):
    list_display = ("pseudonym", "dataset", "pool", "home_site")
    list_select_related = ("dataset", "pool", "home_site")
    list_filter = ("dataset",)
    search_fields = ("pseudonym",)
    raw_id_fields = ("pool", "home_site")

    def get_queryset(self, request: HttpRequest) -> QuerySet[DesktopUser]:
        return people_for(request.user)

    def get_exclude(self, request: HttpRequest, obj: DesktopUser | None = None) -> tuple[str, ...]:
        return () if may_see_names(request.user) else ("name",)
