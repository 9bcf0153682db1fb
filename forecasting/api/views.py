from __future__ import annotations

from typing import ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from rest_framework.serializers import BaseSerializer

from desktops.api.filters import NUMBER, TEXT, choice
from desktops.api.views import ReadOnlyViewSet
from desktops.models import Look
from desktops.services.looks import note_looks
from forecasting import selectors
from forecasting.api import serializers
from forecasting.models import Generation, ResourceDemandProfile

ARRAYS = (
    "levels",
    "cpu_cores",
    "memory_bytes",
    "network_bytes_per_s",
    "storage_bytes_per_s",
    "p_active",
    "location",
)


class GenerationViewSet(ReadOnlyViewSet):
    """Forecasts of whole data sets."""

    queryset = Generation.objects.none()
    serializer_class = serializers.GenerationSerializer
    filters: ClassVar[dict] = {
        "dataset": ("dataset__name", TEXT),
        "state": ("state", choice(Generation.State.choices)),
    }

    def get_queryset(self) -> QuerySet[Generation]:
        return selectors.generations_for(self.request.user)


class ProfileViewSet(ReadOnlyViewSet):
    """ResourceDemandProfiles of the latest complete generations; the list leaves the arrays out."""

    queryset = ResourceDemandProfile.objects.none()
    serializer_class = serializers.ProfileSerializer
    filters: ClassVar[dict] = {
        "dataset": ("generation__dataset__name", TEXT),
        "pool": ("pool__name", TEXT),
        "person": ("desktop_user", NUMBER),
        "desktop": ("desktop", NUMBER),
    }

    def get_serializer_class(self) -> type[BaseSerializer]:
        if self.action == "list":
            return serializers.BriefProfileSerializer
        return serializers.ProfileSerializer

    def get_object(self) -> ResourceDemandProfile:
        profile: ResourceDemandProfile = super().get_object()
        if profile.desktop_user is not None:
            note_looks(
                viewer=self.request.user.get_username(),
                people=[profile.desktop_user],
                what=Look.What.WHEREABOUTS,
                at=timezone.now(),
            )
        return profile

    def get_queryset(self) -> QuerySet[ResourceDemandProfile]:
        profiles = selectors.profiles_for(self.request.user).order_by("pk")
        return profiles.defer(*ARRAYS) if self.action == "list" else profiles
