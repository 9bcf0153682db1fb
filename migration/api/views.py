"""Plans and transitions over REST. Deciding goes through the same services as the pages do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from desktops.api.filters import NUMBER, TEXT, choice
from desktops.api.permissions import holds
from desktops.api.views import ReadOnlyViewSet
from migration import selectors
from migration.api import serializers
from migration.api.errors import answer
from migration.models import Plan, Recommendation, Shadow, Transition
from migration.services.decisions import (
    APPROVE,
    OPERATE,
    approve_recommendation,
    cancel_transition,
    confirm_transition,
    reject_recommendation,
    resume_transition,
)

MayApprove = holds(APPROVE)
MayOperate = holds(OPERATE)
REFUSALS = {
    403: OpenApiResponse(description="The role does not allow it."),
    409: OpenApiResponse(description="Not possible any more; nothing was changed."),
}


class MigrationViewSet(ReadOnlyViewSet):
    def get_exception_handler(self) -> Callable[..., Response | None]:
        return answer

    def _given(self, serializer: type[BaseSerializer]) -> dict[str, Any]:
        given = serializer(data=self.request.data)
        given.is_valid(raise_exception=True)
        return given.validated_data


class PlanViewSet(MigrationViewSet):
    """What the planner advised; the plan in force has no `superseded_at`."""

    queryset = Plan.objects.none()
    serializer_class = serializers.PlanSerializer
    filters: ClassVar[dict] = {"dataset": ("dataset__name", TEXT)}

    def get_queryset(self) -> QuerySet[Plan]:
        return selectors.plans_for(self.request.user)

    @extend_schema(responses=serializers.PlanSummarySerializer(many=True), filters=False)
    @action(detail=True, pagination_class=None)
    def summary(self, request: Request, pk: str) -> Response:
        """The plan in money, as far as the viewer's pools go."""
        summaries = selectors.summarise(request.user, plan=self.get_object())
        return Response(serializers.PlanSummarySerializer(summaries, many=True).data)


class RecommendationViewSet(MigrationViewSet):
    """What a plan advises for one desktop, itemised in money."""

    queryset = Recommendation.objects.none()
    serializer_class = serializers.RecommendationSerializer
    filters: ClassVar[dict] = {
        "plan": ("plan", NUMBER),
        "pool": ("pool__name", TEXT),
        "dataset": ("plan__dataset__name", TEXT),
        "desktop": ("desktop__key", TEXT),
        "action": ("action", choice(Recommendation.Action.choices)),
        "state": ("state", choice(Recommendation.State.choices)),
    }

    def get_queryset(self) -> QuerySet[Recommendation]:
        return selectors.recommendations_for(self.request.user)

    @extend_schema(
        request=serializers.ApprovalSerializer,
        responses={200: serializers.TransitionSerializer, **REFUSALS},
    )
    @action(detail=True, methods=["post"], permission_classes=[MayApprove])
    def approve(self, request: Request, pk: str) -> Response:
        """Say yes: the transition that this orders."""
        row = approve_recommendation(
            recommendation_id=self.get_object().pk,
            actor=request.user,
            at=timezone.now(),
            **self._given(serializers.ApprovalSerializer),
        )
        return Response(serializers.TransitionSerializer(row).data)

    @extend_schema(
        request=serializers.NoteSerializer,
        responses={200: serializers.RecommendationSerializer, **REFUSALS},
    )
    @action(detail=True, methods=["post"], permission_classes=[MayApprove])
    def reject(self, request: Request, pk: str) -> Response:
        """Say no: nothing is done."""
        reject_recommendation(
            recommendation_id=self.get_object().pk,
            actor=request.user,
            at=timezone.now(),
            **self._given(serializers.NoteSerializer),
        )
        return Response(self.get_serializer(self.get_object()).data)


class ShadowViewSet(MigrationViewSet):
    """Minimal replicas of desktops in candidate regions."""

    queryset = Shadow.objects.none()
    serializer_class = serializers.ShadowSerializer
    filters: ClassVar[dict] = {
        "pool": ("desktop__pool__name", TEXT),
        "desktop": ("desktop__key", TEXT),
        "region": ("region__name", TEXT),
        "tier": ("tier", choice(Shadow.Tier.choices)),
        "state": ("state", choice(Shadow.State.choices)),
    }

    def get_queryset(self) -> QuerySet[Shadow]:
        return selectors.shadows_for(self.request.user).order_by("pk")


class TransitionViewSet(MigrationViewSet):
    """Moves of desktops; an object comes with its steps."""

    queryset = Transition.objects.none()
    serializer_class = serializers.TransitionSerializer
    filters: ClassVar[dict] = {
        "pool": ("pool__name", TEXT),
        "dataset": ("pool__dataset__name", TEXT),
        "desktop": ("desktop__key", TEXT),
        "state": ("state", choice(serializers.STATES)),
    }

    def get_serializer_class(self) -> type[BaseSerializer]:
        if self.action == "list":
            return serializers.BriefTransitionSerializer
        return serializers.TransitionSerializer

    def get_queryset(self) -> QuerySet[Transition]:
        rows = selectors.transitions_for(self.request.user)
        return rows if self.action == "list" else rows.prefetch_related("steps")

    @extend_schema(
        request=serializers.NoteSerializer,
        responses={200: serializers.TransitionSerializer, **REFUSALS},
    )
    @action(detail=True, methods=["post"], permission_classes=[MayApprove])
    def confirm(self, request: Request, pk: str) -> Response:
        """Move now: a person confirms what was predicted."""
        return self._ask(confirm_transition, **self._given(serializers.NoteSerializer))

    @extend_schema(request=None, responses={200: serializers.TransitionSerializer, **REFUSALS})
    @action(detail=True, methods=["post"], permission_classes=[MayOperate])
    def cancel(self, request: Request, pk: str) -> Response:
        """Ask for it to stop and go back."""
        return self._ask(cancel_transition)

    @extend_schema(request=None, responses={200: serializers.TransitionSerializer, **REFUSALS})
    @action(detail=True, methods=["post"], permission_classes=[MayOperate])
    def resume(self, request: Request, pk: str) -> Response:
        """Go on after an operator has seen to what was wrong."""
        return self._ask(resume_transition)

    def _ask(self, service: Callable[..., Transition], **given: Any) -> Response:
        service(
            transition_id=self.get_object().pk,
            actor=self.request.user,
            at=timezone.now(),
            **given,
        )
        return Response(self.get_serializer(self.get_object()).data)
