from __future__ import annotations

from django.urls import path

from migration import views

urlpatterns = [
    path("plan/", views.plan, name="plan"),
    path("recommendations/<int:pk>/", views.recommendation, name="recommendation"),
    path("recommendations/<int:pk>/approve/", views.approve, name="approve"),
    path("recommendations/<int:pk>/reject/", views.reject, name="reject"),
    path("shadows/", views.shadows, name="shadows"),
    path("shadows/<int:pk>/", views.shadow, name="shadow"),
    path("shadows/<int:pk>/passes.json", views.passes_figure, name="passes_figure"),
    path("shadows/<int:pk>/pause/", views.pause, name="pause_shadow"),
    path("shadows/<int:pk>/resume/", views.resume_keeping, name="resume_shadow"),
    path("shadows/<int:pk>/sync/", views.sync_now, name="sync_shadow"),
    path("shadows/<int:pk>/schedule/", views.schedule, name="schedule_shadow"),
    path("shadows/<int:pk>/test/", views.test_boot, name="test_shadow"),
    path("shadows/<int:pk>/release/", views.release, name="release_shadow"),
    path("transitions/", views.transitions, name="transitions"),
    path("transitions/<int:pk>/", views.transition, name="transition"),
    path("transitions/<int:pk>/confirm/", views.confirm, name="confirm"),
    path("transitions/<int:pk>/cancel/", views.cancel, name="cancel"),
    path("transitions/<int:pk>/resume/", views.resume, name="resume"),
]
