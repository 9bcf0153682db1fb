from __future__ import annotations

from typing import ClassVar

import numpy as np
from django.conf import settings
from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer
from rest_framework.views import APIView

from desktops.api.filters import NUMBER, TEXT, choice
from desktops.api.views import ReadOnlyViewSet
from desktops.models import Look
from desktops.selectors import datasets_for
from desktops.services.looks import note_looks
from forecasting import selectors
from forecasting.api import serializers
from forecasting.api.streaming import streamed
from forecasting.core.profiles import HORIZON_HOURS
from forecasting.errors import NothingToExport
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.services.exporting import CONTENT_TYPES, export_profiles
from forecasting.whereabouts import fleet_ahead, ground_of

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

    @extend_schema(
        operation_id="profiles_export",
        parameters=[serializers.ExportSerializer],
        responses={(200, kind): bytes for kind in CONTENT_TYPES.values()},
    )
    @action(detail=False, url_path="export", filter_backends=(), pagination_class=None)
    def export(self, request: Request) -> StreamingHttpResponse:
        """The current forecast of one data set as a file: csv, json or parquet."""
        asked = serializers.ExportSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        form = asked.validated_data["as"]
        dataset = get_object_or_404(
            datasets_for(request.user), name=asked.validated_data["dataset"]
        )
        generation = selectors.latest_generation(dataset)
        if generation is None:
            raise NotFound(f"{dataset} has no complete forecast.")
        try:
            pieces = export_profiles(
                selectors.profiles_in(generation, request.user),
                generation=generation,
                form=form,
                with_places=asked.validated_data["places"],
                viewer=request.user.get_username(),
                at=timezone.now(),
            )
        except NothingToExport as error:
            raise NotFound(str(error)) from error
        response = streamed(request, pieces, content_type=CONTENT_TYPES[form])
        name = f"{dataset.name}-{generation.as_of:%Y%m%dT%H%MZ}.{form}"
        response["Content-Disposition"] = f'attachment; filename="{name}"'
        return response

    @extend_schema(responses=serializers.RegionsAheadSerializer)
    @action(detail=True, filter_backends=(), pagination_class=None)
    def regions(self, request: Request, pk: str) -> Response:
        """Expected round trips between where somebody will be and the regions that their desktop
        could run in; a look at their whereabouts."""
        profile = self.get_object()
        desktop = profile.desktop
        ground = ground_of(
            request.user, pool=profile.pool, desktop=desktop, location=profile.location
        )
        hours = [slice(hour, hour + 1) for hour in range(HORIZON_HOURS if profile.location else 0)]
        told = ground.outlook(profile.location, hours)
        rows = [
            {
                "region": region,
                "rtt_ms": told.rtt_ms[:, column],
                "within": told.within[:, column],
                "known": told.known[:, column],
            }
            for column, region in enumerate(ground.regions)
        ]
        answer = {"starts_at": profile.starts_at, "slo_rtt_ms": ground.slo_rtt_ms, "regions": rows}
        return Response(serializers.RegionsAheadSerializer(answer).data)

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


@extend_schema_view(
    get=extend_schema(
        operation_id="whereabouts_list",
        parameters=[serializers.WhichDatasetSerializer],
        responses=serializers.FleetAheadSerializer,
    )
)
class WhereaboutsView(APIView):
    """How many people are expected at each site, hour by hour, by the newest forecast."""

    def get(self, request: Request) -> Response:
        asked = serializers.WhichDatasetSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        dataset = get_object_or_404(
            datasets_for(request.user), name=asked.validated_data["dataset"]
        )
        generation = selectors.latest_generation(dataset)
        if generation is None:
            raise NotFound(f"{dataset} has no complete forecast.")
        ahead = fleet_ahead(request.user, generation)
        shown = [
            {"site": code, "people": people}
            for code, people in zip(ahead.places, ahead.expected.T, strict=True)
            if np.isfinite(people).any()
        ]
        answer = {
            "generation": generation,
            "total": ahead.people,
            "k_anonymity": settings.K_ANONYMITY,
            "sites": shown,
            "others": ahead.others,
        }
        return Response(serializers.FleetAheadSerializer(answer).data)
