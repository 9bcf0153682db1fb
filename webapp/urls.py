"""Every address of the product."""

from __future__ import annotations

from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path

from webapp.health import healthz

APPS = ("webapp", "desktops", "forecasting", "migration")


def _existing(prefix: str, modules: list[str]) -> list[URLPattern | URLResolver]:
    return [path(prefix, include(module)) for module in modules if find_spec(module)]


urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("admin/", admin.site.urls),
    *_existing("", [f"{app}.urls" for app in APPS if app != "webapp"]),
    *_existing("api/v1/", [f"{app}.api.urls" for app in APPS if app != "webapp"]),
]
