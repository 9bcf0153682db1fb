from __future__ import annotations

from django.urls import path

from forecasting import views

urlpatterns = [
    path("accuracy/", views.backtest, name="backtest"),
    path("accuracy/published/", views.published, name="published_forecasts"),
    path(
        "accuracy/examples/<int:pk>/<slug:resource>.json",
        views.backtest_figure,
        name="backtest_figure",
    ),
    path("whereabouts/", views.fleet_whereabouts, name="whereabouts"),
    path(
        "whereabouts/<int:pk>/map.json",
        views.fleet_whereabouts_figure,
        name="fleet_whereabouts_figure",
    ),
    path("profiles/<int:pk>/demand/<slug:resource>.json", views.demand, name="demand_figure"),
    path(
        "profiles/<int:pk>/components/<slug:resource>.json",
        views.components,
        name="components_figure",
    ),
    path("profiles/<int:pk>/earlier/<slug:resource>.json", views.earlier, name="earlier_figure"),
    path("profiles/<int:pk>/presence.json", views.presence, name="presence_figure"),
    path("profiles/<int:pk>/whereabouts.json", views.whereabouts, name="whereabouts_figure"),
    path("profiles/<int:pk>/map.json", views.location_map, name="location_map_figure"),
]
