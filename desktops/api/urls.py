from __future__ import annotations

from django.urls import path
from rest_framework.routers import SimpleRouter

from desktops.api import agent, inflow, people, presence, round_trips, views
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
    path("round-trips/", round_trips.RoundTripsView.as_view(), name="round_trips"),
    path("agent/enrol/", agent.EnrolView.as_view(), name="agent_enrol"),
    path("agent/batches/", agent.BatchesView.as_view(), name="agent_batches"),
    path("agent/commands/", agent.AgentCommandsView.as_view(), name="agent_commands"),
    path("agent/commands/<int:pk>/", agent.AgentCommandView.as_view(), name="agent_command"),
    path("desktops/<int:pk>/commands/", agent.DesktopCommandsView.as_view()),
    path("erasures/<slug:alias>/", people.ErasuresView.as_view(), name="erasures"),
    *router.urls,
]
