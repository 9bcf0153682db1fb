from __future__ import annotations

from django.urls import path
from rest_framework.routers import SimpleRouter

from forecasting.api import views

router = SimpleRouter()
router.register("generations", views.GenerationViewSet)
router.register("profiles", views.ProfileViewSet)

urlpatterns = [
    path("whereabouts/", views.WhereaboutsView.as_view(), name="fleet_ahead"),
    *router.urls,
]
