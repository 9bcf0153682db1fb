"""What is expected to happen, as JSON."""

from __future__ import annotations

from math import isfinite
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from desktops.api.serializers import (
    BriefDatasetSerializer,
    BriefDesktopSerializer,
    BriefPersonSerializer,
    BriefRegionSerializer,
)
from forecasting.fields import shortened
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.services.exporting import FORMS


@extend_schema_field({"type": "array", "items": {"type": "number"}, "nullable": True})
class HoursSerializer(serializers.Field):
    """Numbers by hour."""

    def to_representation(self, value: Any) -> Any:
        return shortened(value).tolist()


@extend_schema_field(
    {
        "type": "array",
        "items": {"type": "array", "items": {"type": "number"}},
        "nullable": True,
    }
)
class QuantilesSerializer(HoursSerializer):
    """Numbers by hour and level."""


@extend_schema_field(
    {
        "type": "object",
        "additionalProperties": {"type": "array", "items": {"type": "number"}},
    }
)
class PlacesSerializer(serializers.Field):
    """Numbers by place and hour."""

    def to_representation(self, value: Any) -> Any:
        return {place: shortened(chance).tolist() for place, chance in value.items()}


class GenerationSerializer(serializers.ModelSerializer):
    dataset = BriefDatasetSerializer()

    class Meta:
        model = Generation
        fields = (
            "id",
            "dataset",
            "as_of",
            "kind",
            "base",
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
        fields = ("id", "dataset", "kind", "as_of")


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
            "engines",
        )


class ProfileSerializer(BriefProfileSerializer):
    """Hour h of every array begins at `starts_at` + h hours.

    The demand arrays have shape (hours, len(levels)): quantiles of demand given a session, in the
    unit of their name, null where not observed. `location` maps site codes, or `elsewhere`, to a
    probability per hour.
    """

    cpu_cores = QuantilesSerializer()
    memory_bytes = QuantilesSerializer()
    network_bytes_per_s = QuantilesSerializer()
    storage_bytes_per_s = QuantilesSerializer()
    p_active = HoursSerializer()
    location = PlacesSerializer()

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


@extend_schema_field(
    {"type": "array", "items": {"type": "number", "nullable": True}, "minItems": 168}
)
class KnownHoursSerializer(serializers.Field):
    """Numbers by hour, null where nothing can be said."""

    def to_representation(self, value: Any) -> Any:
        return [round(each, 4) if isfinite(each) else None for each in value.tolist()]


class RegionAheadSerializer(serializers.Serializer):
    """One region. `rtt_ms`: expected round trip over the places whose round trip is known.
    `within`: how likely it is within the SLO, at least. `known`: for which share of probability a
    round trip is known."""

    region = BriefRegionSerializer()
    rtt_ms = KnownHoursSerializer()
    within = KnownHoursSerializer()
    known = KnownHoursSerializer()


class RegionsAheadSerializer(serializers.Serializer):
    """Hour h of every array begins at `starts_at` + h hours."""

    starts_at = serializers.DateTimeField()
    slo_rtt_ms = serializers.FloatField()
    regions = RegionAheadSerializer(many=True)


class WhichDatasetSerializer(serializers.Serializer):
    dataset = serializers.SlugField()


class PeopleAtSerializer(serializers.Serializer):
    """`site`: its code, or `elsewhere`. `people`: null where the place is one of the others."""

    site = serializers.CharField()
    people = KnownHoursSerializer()


class FleetAheadSerializer(serializers.Serializer):
    """Hour h of every array begins at the generation's `as_of` + h hours.

    The expected number is the sum of the probabilities of `total` people to be there. Places where
    fewer than `k_anonymity` people may be are counted in `others` alone, which is null where even
    that would say too much.
    """

    generation = BriefGenerationSerializer()
    total = serializers.IntegerField()
    k_anonymity = serializers.IntegerField()
    sites = PeopleAtSerializer(many=True)
    others = KnownHoursSerializer()


class ExportSerializer(serializers.Serializer):
    """What to export, and as what."""

    dataset = serializers.SlugField()
    places = serializers.BooleanField(
        default=False, help_text="Where people are expected, too; noted as a look at each of them."
    )

    def get_fields(self) -> dict[str, serializers.Field]:
        """`as` is no name that Python takes."""
        form = serializers.ChoiceField(sorted(FORMS), default="csv")
        return {**super().get_fields(), "as": form}
