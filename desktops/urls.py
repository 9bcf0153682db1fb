from __future__ import annotations

from django.urls import path

from desktops import views

urlpatterns = [
    path("people/", views.people, name="people"),
    path("desktops/", views.desktops, name="desktops"),
]
