"""Exporting and erasing people over REST, and what they opted out of.

For accounts with desktops.erase_person, and for programs whose token has the scope `people`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db.models import QuerySet
from django.http import HttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, OpenApiTypes, extend_schema
from rest_framework import serializers
from rest_framework.authentication import SessionAuthentication
from rest_framework.decorators import action
from rest_framework.generics import ListAPIView
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from desktops.api.authentication import IntegrationAuthentication
from desktops.api.errors import AnswersPrograms, answer
from desktops.errors import Refused
from desktops.models import DesktopUser, Erasure, IntegrationToken, Look
from desktops.selectors import ERASE, may_see_names, people_for, pools_for
from desktops.services.looks import note_looks
from desktops.services.notices import Reach
from desktops.services.people import erase_person, set_opt_outs
from desktops.services.person_export import export_person

if TYPE_CHECKING:
    from rest_framework.views import APIView

ACTIONS = frozenset({"export", "erase", "opt_outs"})


class ErasureSerializer(serializers.Serializer):
    """`confirm` repeats the person's pseudonym: nothing brings them back."""

    confirm = serializers.CharField()


class ErasedSerializer(serializers.Serializer):
    """`alias` is what remains of them in events; `remarks` what only an admin can change. Raw
    samples go within minutes: /api/v1/erasures/<alias>/ says when they have gone."""

    alias = serializers.CharField()
    remarks = serializers.ListField(child=serializers.CharField())


class OptOutsSerializer(serializers.Serializer):
    is_predicted = serializers.BooleanField(required=False, help_text="false: no forecast")
    is_located = serializers.BooleanField(required=False, help_text="false: no place is kept")


class ErasureStateSerializer(serializers.ModelSerializer):
    """`finished_at`: null while raw samples are still to be gone through."""

    class Meta:
        model = Erasure
        fields = ("alias", "what", "begun_at", "finished_at")


class MayErase(BasePermission):
    def has_permission(self, request: Request, view: APIView) -> bool:
        if isinstance(request.auth, IntegrationToken):
            if IntegrationToken.Scope.PEOPLE not in request.auth.scopes:
                raise Refused(403, "missing_scope", "The token lacks the scope people.")
            return True
        return bool(request.user.is_authenticated and request.user.has_perm(ERASE))


PEOPLE_DOOR = {
    "permission_classes": [MayErase],
    "authentication_classes": [IntegrationAuthentication, SessionAuthentication],
    "filter_backends": [],
}


class ErasuresView(AnswersPrograms, ListAPIView):
    """Erasures of one alias, newest first: of a person, or of their places alone."""

    permission_classes = (MayErase,)
    authentication_classes = (IntegrationAuthentication, SessionAuthentication)
    serializer_class = ErasureStateSerializer
    queryset = Erasure.objects.none()
    pagination_class = None
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Erasure]:
        if isinstance(token := self.request.auth, IntegrationToken):
            pools = Reach.of_token(token).pools
        else:
            pools = pools_for(self.request.user)
        return Erasure.objects.filter(
            alias=self.kwargs["alias"], pool_id__in=list(pools.values_list("pk", flat=True))
        )


class PersonActions:
    """What can be done with one person; mixed into the list of people."""

    request: Request
    action: str | None

    def get_exception_handler(self) -> Any:
        # A method that an action does not have is no action, and is let in like the others.
        if self.action is None or self.action in ACTIONS:
            return answer
        return super().get_exception_handler()  # type: ignore[misc]

    def _person(self, pk: str) -> DesktopUser:
        """Within what the account may see, or what the token reaches."""
        people: QuerySet[DesktopUser] = DesktopUser.objects.select_related("dataset", "pool")
        if isinstance(token := self.request.auth, IntegrationToken):
            people = people.filter(dataset=token.dataset_id)
            if token.pool_id:
                people = people.filter(pool=token.pool_id)
        else:
            people = people.filter(pk__in=people_for(self.request.user).values("pk"))
        person = people.filter(pk=int(pk)).first() if pk.isdecimal() and len(pk) < 19 else None
        if person is None:
            raise Refused(404, "unknown_person", "There is no such person.")
        return person

    @extend_schema(responses={(200, "application/json"): OpenApiTypes.OBJECT})
    @action(detail=True, methods=["get"], **PEOPLE_DOOR)
    def export(self, request: Request, pk: str) -> HttpResponse:
        """Everything held about one person, with explanations and units."""
        person, now = self._person(pk), timezone.now()
        note_looks(
            viewer=request.user.get_username(), people=[person], what=Look.What.EXPORT, at=now
        )
        is_named = isinstance(request.auth, IntegrationToken) or may_see_names(request.user)
        # Whole: a person's rows are a few megabytes, and an error must not come in the middle.
        body = "".join(export_person(person, wall=now, with_name=is_named))
        return HttpResponse(
            body,
            content_type="application/json",
            headers={"Content-Disposition": f'attachment; filename="person-{person.pk}.json"'},
        )

    @extend_schema(
        request=ErasureSerializer,
        responses={
            202: ErasedSerializer,
            409: OpenApiResponse(description="Their desktop is being moved."),
        },
    )
    @action(detail=True, methods=["post"], **PEOPLE_DOOR)
    def erase(self, request: Request, pk: str) -> Response:
        """Delete everything that leads back to one person."""
        person = self._person(pk)
        asked = ErasureSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        if asked.validated_data["confirm"] != person.pseudonym:
            raise Refused(400, "not_confirmed", "`confirm` is not the person's pseudonym.")
        erased = erase_person(
            person_id=person.pk, actor=request.user.get_username(), wall=timezone.now()
        )
        return Response({"alias": erased.alias, "remarks": erased.remarks}, status=202)

    @extend_schema(request=OptOutsSerializer, responses=OptOutsSerializer)
    @action(detail=True, methods=["patch"], url_path="opt-outs", **PEOPLE_DOOR)
    def opt_outs(self, request: Request, pk: str) -> Response:
        """Leave somebody out of predictions or places, or take them in again."""
        asked = OptOutsSerializer(data=request.data)
        asked.is_valid(raise_exception=True)
        person = set_opt_outs(
            person_id=self._person(pk).pk,
            **asked.validated_data,
            actor=request.user.get_username(),
            wall=timezone.now(),
        )
        return Response({"is_predicted": person.is_predicted, "is_located": person.is_located})
