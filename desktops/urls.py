from __future__ import annotations

from django.urls import path

from desktops import views

urlpatterns = [
    path("people/", views.people, name="people"),
    path("desktops/", views.desktops, name="desktops"),
    path("sources/", views.sources, name="sources"),
    path("sources/pools/<int:pk>/", views.inventory, name="inventory"),
    path("sources/pools/<int:pk>/sync/", views.sync_again, name="sync_again"),
    path("sources/quarantine/", views.quarantine, name="quarantine"),
    path("sources/quarantine/replay/", views.replay_rows, name="replay_rows"),
    path("sources/quarantine/discard/", views.discard_rows, name="discard_rows"),
    path("sources/quarantine/<int:pk>/replay/", views.replay_row, name="replay_row"),
]
