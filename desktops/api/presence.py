"""Where programs report who is where."""

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
from desktops.models import IntegrationToken
from desktops.services.presence import report_presence
from desktops.sources.presence import KINDS

MOST_BYTES = 1 << 20


class ObservationSerializer(serializers.Serializer):
    """Somebody seen at a place, or gone from it (docs/sources/presence.md)."""

    person = serializers.CharField(help_text="As they sign in; becomes a pseudonym at once.")
    at = serializers.CharField(
        required=False, help_text="ISO 8601 with offset, or seconds since 1970; empty: now."
    )
    site = serializers.CharField(required=False, help_text="A site's code; else `address`.")
    address = serializers.IPAddressField(required=False, help_text="Becomes a site at once.")
    kind = serializers.ChoiceField(KINDS, required=False)
    present = serializers.BooleanField(required=False, default=True)


class RejectedSerializer(serializers.Serializer):
    index = serializers.IntegerField()
    reason = serializers.CharField()
    detail = serializers.CharField()


class ReceiptSerializer(serializers.Serializer):
    accepted = serializers.IntegerField()
    unknown_place = serializers.IntegerField()
    rejected = RejectedSerializer(many=True)


class PresenceView(AnswersPrograms, APIView):
    """Report who was seen where: one observation, or a list of up to 1,000."""

    authentication_classes = (IntegrationAuthentication,)
    permission_classes = (may(IntegrationToken.Scope.PRESENCE),)

    @extend_schema(
        operation_id="presence_report",
        request=ObservationSerializer,
        responses={202: ReceiptSerializer},
    )
    def post(self, request: Request) -> Response:
        receipt = report_presence(
            token=request.auth,
            body=read_json(request, most_bytes=MOST_BYTES),
            wall=timezone.now(),
        )
        return Response(asdict(receipt), status=status.HTTP_202_ACCEPTED)
