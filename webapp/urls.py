"""Every address of the product."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.views import LogoutView
from django.urls import include, path
from drf_spectacular.views import SpectacularAPIView

from webapp import views
from webapp.health import healthz

urlpatterns = [
    path("healthz", healthz, name="healthz"),
    path("sign-in/", views.SignIn.as_view(), name="login"),
    path("sign-out/", LogoutView.as_view(), name="logout"),
    path("", views.overview, name="overview"),
    path("people/<int:pk>/", views.person, name="person"),
    path("desktops/<int:pk>/", views.desktop, name="desktop"),
    path("datasets/<int:pk>/forecast/", views.forecast_again, name="forecast_again"),
    path("datasets/<int:pk>/plan/", views.plan_again, name="plan_again"),
    path("datasets/<int:pk>/map.json", views.fleet_map, name="fleet_map"),
    path("api/", views.api, name="api"),
    path("admin/", admin.site.urls),
    path("", include("desktops.urls")),
    path("", include("forecasting.urls")),
    path("", include("migration.urls")),
    path("api/v1/", include("desktops.api.urls")),
    path("api/v1/", include("forecasting.api.urls")),
    path("api/v1/", include("migration.api.urls")),
    path("api/v1/schema/", SpectacularAPIView.as_view(), name="schema"),
]
