from __future__ import annotations

from django.urls import path
from rest_framework.routers import SimpleRouter

from desktops.api import inflow, presence, views
from desktops.api.notices import NoticeViewSet

router = SimpleRouter()
router.register("datasets", views.DatasetViewSet)
router.register("regions", views.RegionViewSet)
router.register("sites", views.SiteViewSet)
router.register("pools", views.PoolViewSet)
router.register("people", views.PersonViewSet)
router.register("desktops", views.DesktopViewSet)
router.register("notices", NoticeViewSet)
router.register("sources", inflow.SourceViewSet)
router.register("drifts", inflow.DriftViewSet)
router.register("quarantine", inflow.QuarantineViewSet)

urlpatterns = [
    path("events/", views.EventsView.as_view(), name="events"),
    path("presence/", presence.PresenceView.as_view(), name="presence"),
    *router.urls,
]
