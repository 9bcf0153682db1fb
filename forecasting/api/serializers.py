"""What is expected to happen, as JSON."""

from __future__ import annotations

from rest_framework import serializers

from desktops.api.serializers import (
    BriefDatasetSerializer,
    BriefDesktopSerializer,
    BriefPersonSerializer,
)
from forecasting.models import Generation, ResourceDemandProfile


class GenerationSerializer(serializers.ModelSerializer):
    dataset = BriefDatasetSerializer()

    class Meta:
        model = Generation
        fields = (
            "id",
            "dataset",
            "as_of",
            "engine",
            "state",
            "profiles_total",
            "profiles_done",
            "failure",
            "started_at",
            "finished_at",
        )


class BriefGenerationSerializer(serializers.ModelSerializer):
    dataset = BriefDatasetSerializer()

    class Meta:
        model = Generation
        fields = ("id", "dataset", "as_of")


class BriefProfileSerializer(serializers.ModelSerializer):
    """A profile without its arrays."""

    generation = BriefGenerationSerializer()
    person = BriefPersonSerializer(source="desktop_user", allow_null=True)
    desktop = BriefDesktopSerializer(allow_null=True)

    class Meta:
        model = ResourceDemandProfile
        fields = (
            "id",
            "generation",
            "person",
            "desktop",
            "starts_at",
            "engine",
            "is_from_pool",
            "history_hours",
        )


class ProfileSerializer(BriefProfileSerializer):
    """Hour h of every array begins at `starts_at` + h hours.

    The demand arrays have shape (hours, len(levels)): quantiles of demand given a session, in the
    unit of their name, null where not observed. `location` maps site codes, or `elsewhere`, to a
    probability per hour.
    """

    class Meta(BriefProfileSerializer.Meta):
        fields = (
            *BriefProfileSerializer.Meta.fields,
            "levels",
            "cpu_cores",
            "memory_bytes",
            "network_bytes_per_s",
            "storage_bytes_per_s",
            "p_active",
            "location",
        )
