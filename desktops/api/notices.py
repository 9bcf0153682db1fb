"""Announcements over REST: for programs with a token, and for people who operate pools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework import serializers, status
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response

from desktops.api.authentication import IntegrationAuthentication
from desktops.api.bodies import read_json
from desktops.api.errors import AnswersPrograms
from desktops.api.filters import TEXT, choice
from desktops.api.serializers import (
    BriefDatasetSerializer,
    BriefPersonSerializer,
    BriefPoolSerializer,
    BriefSiteSerializer,
)
from desktops.api.views import IN_POOL, ReadOnlyViewSet
from desktops.core.notices import FIELDS, InvalidNotice, announcement_from
from desktops.errors import Refused
from desktops.models import IntegrationToken, Notice
from desktops.notices import notices_for
from desktops.selectors import datasets_for
from desktops.services.notices import (
    InvalidNotices,
    Reach,
    announce,
    refuse_any_problem,
    withdraw_notice,
)
from desktops.sources.announcements import Problem

if TYPE_CHECKING:
    from rest_framework.views import APIView

MOST_BYTES = 1 << 20
MOST_ITEMS = 1000
SCOPE = IntegrationToken.Scope.NOTICES


class NoticeSerializer(serializers.ModelSerializer):
    """Of a person by pseudonym, else of a pool, else of the whole data set."""

    dataset = BriefDatasetSerializer()
    pool = BriefPoolSerializer(allow_null=True)
    person = BriefPersonSerializer(source="desktop_user", allow_null=True)
    site = BriefSiteSerializer(allow_null=True)

    class Meta:
        model = Notice
        fields = (
            "id",
            "kind",
            "starts_at",
            "ends_at",
            "person",
            "pool",
            "dataset",
            "site",
            "title",
            "origin",
            "provenance",
            "received_at",
            "withdrawn_at",
        )


class AnnouncementSerializer(serializers.Serializer):
    """Something announced, or taken back by its uid (docs/sources/notices.md)."""

    kind = serializers.ChoiceField(Notice.Kind.choices)
    starts_at = serializers.CharField(help_text="A day, or ISO 8601.")
    ends_at = serializers.CharField(help_text="The last day, or ISO 8601.")
    person = serializers.CharField(required=False, help_text="As they sign in.")
    site = serializers.CharField(required=False, help_text="A site's code or label.")
    pool = serializers.CharField(required=False)
    title = serializers.CharField(required=False, help_text="Kept of the organisation's only.")
    uid = serializers.CharField(required=False, help_text="The same again changes the notice.")
    time_zone = serializers.CharField(required=False, help_text="Default: the person's, the site's")
    withdrawn = serializers.BooleanField(required=False)


class AnnouncedSerializer(serializers.Serializer):
    added = serializers.IntegerField()
    changed = serializers.IntegerField()
    unchanged = serializers.IntegerField()
    withdrawn = serializers.IntegerField()
    opted_out = serializers.IntegerField()
    notices = NoticeSerializer(many=True)


class MayAnnounce(BasePermission):
    """Reading is for every account and token of the scope, writing for those who operate."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        if isinstance(request.auth, IntegrationToken):
            if SCOPE not in request.auth.scopes:
                raise Refused(403, "missing_scope", f"The token lacks the scope {SCOPE}.")
            return True
        if not request.user.is_authenticated:
            raise Refused(401, "no_token", "Sign in, or send Authorization: Bearer and a token.")
        needed = "desktops.view_notice" if request.method == "GET" else "desktops.add_notice"
        if not request.user.has_perm(needed):
            raise Refused(403, "not_permitted", "Your role does not allow this.")
        return True


@extend_schema_view(list=extend_schema(operation_id="notices_list"))
class NoticeViewSet(AnswersPrograms, ReadOnlyViewSet):
    """What is announced: travel, leave, closures, busy periods."""

    queryset = Notice.objects.none()
    serializer_class = NoticeSerializer
    authentication_classes = (IntegrationAuthentication, SessionAuthentication)
    permission_classes = (MayAnnounce,)
    filters: ClassVar[dict] = {
        **IN_POOL,
        "kind": ("kind", choice(Notice.Kind.choices)),
        "person": ("desktop_user__pseudonym", TEXT),
        "site": ("site__code", TEXT),
        "since": ("ends_at__gt", serializers.DateTimeField()),
        "until": ("starts_at__lt", serializers.DateTimeField()),
        "standing": ("withdrawn_at__isnull", serializers.BooleanField()),
    }

    def get_queryset(self) -> QuerySet[Notice]:
        if isinstance(self.request.auth, IntegrationToken):
            notices = Reach.of_token(self.request.auth).notices()
        else:
            notices = notices_for(self.request.user)
        return notices.select_related("dataset", "pool", "desktop_user", "site")

    @extend_schema(
        request=AnnouncementSerializer,
        responses={200: AnnouncedSerializer},
        parameters=[OpenApiParameter("dataset", description="For accounts, which data set.")],
    )
    def create(self, request: Request) -> Response:
        """Announce one thing, or a list of up to 1,000: all of them or none."""
        try:
            outcome = announce(
                entries=_entries(read_json(request, most_bytes=MOST_BYTES)),
                reach=self._reach(request),
                origin=Notice.Origin.REST,
                provenance=_provenance(request),
                wall=timezone.now(),
                actor=request.user.get_username(),
                check=refuse_any_problem,
            )
        except InvalidNotices as error:
            return _refusal(error)
        counts = {
            name: getattr(outcome, name)
            for name in ("added", "changed", "unchanged", "withdrawn", "opted_out")
        }
        code = status.HTTP_201_CREATED if outcome.added else status.HTTP_200_OK
        notices = NoticeSerializer(outcome.notices, many=True).data
        return Response({**counts, "notices": notices}, status=code)

    @extend_schema(responses={200: NoticeSerializer})
    def destroy(self, request: Request, pk: str) -> Response:
        """Withdraw a notice; it stays in the list as withdrawn."""
        notice = self.get_object()
        reach = self._reach(request, notice)
        if not reach.notices().filter(pk=notice.pk).exists():
            raise Refused(403, "not_permitted", "It is about more than the pools you operate.")
        withdraw_notice(notice=notice, actor=request.user.get_username(), at=timezone.now())
        notice.refresh_from_db(fields=["withdrawn_at"])
        return Response(NoticeSerializer(notice).data)

    def _reach(self, request: Request, notice: Notice | None = None) -> Reach:
        if isinstance(request.auth, IntegrationToken):
            return Reach.of_token(request.auth)
        if notice:
            return Reach.of_viewer(request.user, notice.dataset)
        datasets = datasets_for(request.user)
        if name := request.query_params.get("dataset"):
            datasets = datasets.filter(name=name)
        chosen = list(datasets[:2])
        if len(chosen) != 1:
            raise Refused(400, "which_dataset", "Name a data set of yours: ?dataset=NAME.")
        return Reach.of_viewer(request.user, chosen[0])


def _provenance(request: Request) -> str:
    """Under which its ids mean the same notices again."""
    name: str = request.user.get_username()
    return name if isinstance(request.auth, IntegrationToken) else f"account:{name}"


def _entries(body: object) -> list[Any]:
    items = body if isinstance(body, list) else [body]
    if not items:
        raise Refused(400, "nothing_sent", "The list is empty.")
    if len(items) > MOST_ITEMS:
        raise Refused(413, "too_many", f"{len(items):,} notices; send {MOST_ITEMS:,} at most.")
    entries, problems = [], []
    for index, item in enumerate(items):
        try:
            entries.append(_entry(item, index))
        except InvalidNotice as error:
            problems.append(Problem(str(index), error.reason, str(error)))
    if problems:
        raise InvalidNotices(problems)
    return entries


def _entry(item: object, index: int) -> Any:
    if not isinstance(item, dict):
        raise InvalidNotice("malformed", "an object is wanted")
    if unheard := sorted(item.keys() - set(FIELDS)):
        raise InvalidNotice(
            "unknown_field", f"{unheard[0][:40]!r} means nothing; {', '.join(FIELDS)} do"
        )
    return announcement_from(item, where=str(index))


def _refusal(error: InvalidNotices) -> Response:
    rejected = [
        {"index": int(problem.where), "reason": problem.reason, "detail": problem.detail}
        for problem in error.problems
    ]
    return Response(
        {"reason": error.reason, "detail": str(error), "rejected": rejected}, status=error.status
    )
