"""Sources, what they brought that was refused, and how pools differ from their clouds."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from desktops import inflow
from desktops.api.filters import TEXT, choice
from desktops.api.permissions import holds
from desktops.api.serializers import (
    BriefDatasetSerializer,
    BriefDesktopSerializer,
    BriefPoolSerializer,
)
from desktops.api.views import ReadOnlyViewSet
from desktops.core.health import Health
from desktops.models import Drift, QuarantinedRow, Source
from desktops.selectors import OPERATE
from desktops.services.quarantine import discard, replay_row, request_replay

MayOperate = holds(OPERATE)
FORBIDDEN = {403: OpenApiResponse(description="The role does not allow it.")}


class SourceSerializer(serializers.ModelSerializer):
    """`lag_s`: from the newest observation to the clock of the data set; null: none yet.
    `held_rows` wait in quarantine."""

    dataset = BriefDatasetSerializer()
    pool = BriefPoolSerializer()
    health = serializers.SerializerMethodField()
    lag_s = serializers.SerializerMethodField()
    held_rows = serializers.IntegerField(source="held")

    class Meta:
        model = Source
        fields = (
            "id",
            "name",
            "kind",
            "dataset",
            "pool",
            "health",
            "last_attempt_at",
            "last_success_at",
            "last_error",
            "newest_at",
            "lag_s",
            "rows",
            "rejected_rows",
            "held_rows",
        )

    def get_health(self, source: Source) -> Health:
        return inflow.source_state(source, wall=timezone.now()).health

    def get_lag_s(self, source: Source) -> float | None:
        lag = inflow.source_state(source, wall=timezone.now()).lag
        return None if lag is None else lag.total_seconds()


class SourceViewSet(ReadOnlyViewSet):
    """Where observations come from, and how each is doing."""

    queryset = Source.objects.none()
    serializer_class = SourceSerializer
    filters: ClassVar[dict] = {
        "pool": ("pool__name", TEXT),
        "dataset": ("dataset__name", TEXT),
        "kind": ("kind", choice(Source.Kind.choices)),
    }

    def get_queryset(self) -> QuerySet[Source]:
        return inflow.sources_for(self.request.user)


class DriftSerializer(serializers.ModelSerializer):
    pool = BriefPoolSerializer(source="sync.pool")

    class Meta:
        model = Drift
        fields = ("id", "pool", "kind", "region", "server_id", "name", "detail", "first_seen_at")


class DriftViewSet(ReadOnlyViewSet):
    """How pools differ from their clouds, as the newest comparison found."""

    queryset = Drift.objects.none()
    serializer_class = DriftSerializer
    filters: ClassVar[dict] = {
        "pool": ("sync__pool__name", TEXT),
        "kind": ("kind", choice(Drift.Kind.choices)),
        "region": ("region", TEXT),
    }

    def get_queryset(self) -> QuerySet[Drift]:
        return inflow.drifts_for(self.request.user)


class QuarantinedRowSerializer(serializers.ModelSerializer):
    """`row` is the observation as it would have been stored: a pseudonym, never a name."""

    source = serializers.CharField(source="source.name")
    pool = BriefPoolSerializer(source="source.pool")
    desktop = BriefDesktopSerializer(allow_null=True)

    class Meta:
        model = QuarantinedRow
        fields = (
            "id",
            "source",
            "pool",
            "desktop",
            "received_at",
            "reason",
            "detail",
            "row",
            "state",
            "settled_at",
            "settled_by",
        )


class ChosenRowsSerializer(serializers.Serializer):
    """Held rows of a source, of a reason, or of both; one of them must be said."""

    source = serializers.CharField(required=False, help_text="A source's name.")
    reason = serializers.CharField(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if not attrs:
            raise serializers.ValidationError("Say a source, a reason or both.")
        return attrs


class RowCountSerializer(serializers.Serializer):
    rows = serializers.IntegerField()


class QuarantineViewSet(ReadOnlyViewSet):
    """Rows that were refused, with the reason."""

    queryset = QuarantinedRow.objects.none()
    serializer_class = QuarantinedRowSerializer
    filters: ClassVar[dict] = {
        "source": ("source__name", TEXT),
        "pool": ("source__pool__name", TEXT),
        "reason": ("reason", TEXT),
        "state": ("state", choice(QuarantinedRow.State.choices)),
    }

    def get_queryset(self) -> QuerySet[QuarantinedRow]:
        return inflow.quarantine_for(self.request.user)

    @extend_schema(
        operation_id="quarantine_replay_row",
        request=None,
        responses={200: QuarantinedRowSerializer, **FORBIDDEN},
    )
    @action(detail=True, methods=["post"], permission_classes=[MayOperate])
    def replay(self, request: Request, pk: str) -> Response:
        """Put one row back; one that is refused again stays held, with the new reason."""
        row = replay_row(row_id=self.get_object().pk, actor=request.user, at=timezone.now())
        return Response(self.get_serializer(row).data)

    @extend_schema(
        operation_id="quarantine_discard_row",
        request=None,
        responses={200: QuarantinedRowSerializer, **FORBIDDEN},
    )
    @action(detail=True, methods=["post"], permission_classes=[MayOperate])
    def discard(self, request: Request, pk: str) -> Response:
        """Give one row up."""
        discard(actor=request.user, at=timezone.now(), row_id=self.get_object().pk)
        return Response(self.get_serializer(self.get_object()).data)

    @extend_schema(
        operation_id="quarantine_replay",
        request=ChosenRowsSerializer,
        responses={202: RowCountSerializer, **FORBIDDEN},
    )
    @action(
        detail=False,
        methods=["post"],
        url_path="replay",
        url_name="replay-all",
        permission_classes=[MayOperate],
    )
    def replay_all(self, request: Request) -> Response:
        """Have held rows put back by a worker; how many are held now."""
        n = request_replay(actor=request.user, at=timezone.now(), **self._chosen())
        return Response({"rows": n}, status=202)

    @extend_schema(
        operation_id="quarantine_discard",
        request=ChosenRowsSerializer,
        responses={200: RowCountSerializer, **FORBIDDEN},
    )
    @action(
        detail=False,
        methods=["post"],
        url_path="discard",
        url_name="discard-all",
        permission_classes=[MayOperate],
    )
    def discard_all(self, request: Request) -> Response:
        """Give held rows up; how many."""
        return Response({"rows": discard(actor=request.user, at=timezone.now(), **self._chosen())})

    def _chosen(self) -> dict[str, str]:
        given = ChosenRowsSerializer(data=self.request.data)
        given.is_valid(raise_exception=True)
        return given.validated_data
