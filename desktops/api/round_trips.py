"""Where programs at sites report how far the regions are from there."""

from __future__ import annotations

from dataclasses import asdict

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from desktops.api.authentication import IntegrationAuthentication, may
from desktops.api.bodies import read_json
from desktops.api.errors import AnswersPrograms
from desktops.api.presence import RejectedSerializer
from desktops.models import IntegrationToken
from desktops.services.probing import EVERY_S, report_round_trips, targets

MOST_BYTES = 1 << 17


class TargetSerializer(serializers.Serializer):
    region = serializers.CharField(help_text="CLOUD/NAME")
    address = serializers.CharField(help_text="HOST:PORT to connect to.")


class ToMeasureSerializer(serializers.Serializer):
    every_s = serializers.IntegerField()
    targets = TargetSerializer(many=True)


class MeasuredSerializer(serializers.Serializer):
    region = serializers.CharField(help_text="CLOUD/NAME")
    rtt_ms = serializers.FloatField(help_text="The median of a few connections.")


class RoundTripReportSerializer(serializers.Serializer):
    """What was measured at a site, at this moment (docs/sources/round-trips.md)."""

    site = serializers.CharField(help_text="A site's code.")
    round_trips = MeasuredSerializer(many=True)


class RoundTripReceiptSerializer(serializers.Serializer):
    accepted = serializers.IntegerField()
    rejected = RejectedSerializer(many=True)


class RoundTripsView(AnswersPrograms, APIView):
    """What probes at sites are to measure, and where they report it."""

    authentication_classes = (IntegrationAuthentication,)
    permission_classes = (may(IntegrationToken.Scope.ROUND_TRIPS),)

    @extend_schema(operation_id="round_trips_to_measure", responses={200: ToMeasureSerializer})
    def get(self, request: Request) -> Response:
        named = [asdict(each) for each in targets(token=request.auth)]
        return Response({"every_s": EVERY_S, "targets": named})

    @extend_schema(
        operation_id="round_trips_report",
        request=RoundTripReportSerializer,
        responses={202: RoundTripReceiptSerializer},
    )
    def post(self, request: Request) -> Response:
        receipt = report_round_trips(
            token=request.auth,
            body=read_json(request, most_bytes=MOST_BYTES),
            wall=timezone.now(),
        )
        return Response(asdict(receipt), status=status.HTTP_202_ACCEPTED)
