"""Read-only REST views. Every list starts at a selector; a stranger's object is not found."""

from __future__ import annotations

from typing import ClassVar

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import OpenApiResponse, extend_schema, extend_schema_view
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView
from rest_framework.viewsets import ReadOnlyModelViewSet

from desktops import selectors
from desktops.api import serializers
from desktops.api.filters import TEXT, ByColumns, choice
from desktops.api.people import PersonActions
from desktops.api.permissions import holds
from desktops.errors import NoCloud
from desktops.events import message_for
from desktops.models import Dataset, Desktop, DesktopUser, Pool, Region, Site
from desktops.services.inventory import request_sync

IN_POOL = {"pool": ("pool__name", TEXT), "dataset": ("dataset__name", TEXT)}


class ReadOnlyViewSet(ReadOnlyModelViewSet):
    """A list and its objects, filtered by the columns in `filters`."""

    filter_backends = (ByColumns,)
    filters: ClassVar[dict] = {}


class DatasetViewSet(ReadOnlyViewSet):
    """Where observations come from, and what time it is there."""

    queryset = Dataset.objects.none()
    serializer_class = serializers.DatasetSerializer
    filters: ClassVar[dict] = {"kind": ("kind", choice(Dataset.Kind.choices))}

    def get_queryset(self) -> QuerySet[Dataset]:
        return selectors.datasets_for(self.request.user)


class RegionViewSet(ReadOnlyViewSet):
    """Where desktops can run, and at what price."""

    queryset = Region.objects.none()
    serializer_class = serializers.RegionSerializer
    filters: ClassVar[dict] = {"cloud": ("cloud", TEXT)}

    def get_queryset(self) -> QuerySet[Region]:
        return selectors.regions_priced(self.request.user)


class SiteViewSet(ReadOnlyViewSet):
    """Where people are."""

    queryset = Site.objects.none()
    serializer_class = serializers.SiteSerializer
    filters: ClassVar[dict] = {"country": ("country", TEXT)}

    def get_queryset(self) -> QuerySet[Site]:
        return selectors.sites_for(self.request.user)


class PoolViewSet(ReadOnlyViewSet):
    """Desktops under one policy."""

    queryset = Pool.objects.none()
    serializer_class = serializers.PoolSerializer
    filters: ClassVar[dict] = {"dataset": ("dataset__name", TEXT)}

    def get_queryset(self) -> QuerySet[Pool]:
        pools = selectors.pools_for(self.request.user)
        related = pools.select_related("dataset", "gravity_region", "inventory")
        return related.prefetch_related("residency")

    @extend_schema(
        request=None,
        responses={
            202: OpenApiResponse(description="Asked for; `inventory` says when it was done."),
            403: OpenApiResponse(description="The role does not allow it."),
            409: OpenApiResponse(description="The pool is compared with no cloud."),
        },
    )
    @action(detail=True, methods=["post"], permission_classes=[holds(selectors.OPERATE)])
    def sync(self, request: Request, pk: str) -> Response:
        """Have the pool compared with its cloud."""
        try:
            request_sync(pool_id=self.get_object().pk, actor=request.user, at=timezone.now())
        except NoCloud as error:
            return Response({"detail": str(error)}, status=409)
        return Response(status=202)


class PersonViewSet(PersonActions, ReadOnlyViewSet):
    """The people desktops belong to, by pseudonym."""

    queryset = DesktopUser.objects.none()
    serializer_class = serializers.PersonSerializer
    filters: ClassVar[dict] = {**IN_POOL, "pseudonym": ("pseudonym", TEXT)}

    def get_queryset(self) -> QuerySet[DesktopUser]:
        return selectors.people_listed(self.request.user)


class DesktopViewSet(ReadOnlyViewSet):
    """Virtual desktops: which server holds each now, and where."""

    queryset = Desktop.objects.none()
    serializer_class = serializers.DesktopSerializer
    filters: ClassVar[dict] = {
        **IN_POOL,
        "state": ("state", choice(Desktop.State.choices)),
        "region": ("region__name", TEXT),
        "key": ("key", TEXT),
    }

    def get_queryset(self) -> QuerySet[Desktop]:
        return selectors.desktops_listed(self.request.user)


@extend_schema_view(
    get=extend_schema(
        operation_id="events_list",
        parameters=[serializers.EventsAfterSerializer],
        responses=serializers.EventsSerializer,
    )
)
class EventsView(APIView):
    """Committed changes after a sequence number, oldest first: how a reader catches up."""

    def get(self, request: Request) -> Response:
        asked = serializers.EventsAfterSerializer(data=request.query_params)
        asked.is_valid(raise_exception=True)
        after, limit = asked.validated_data["after"], asked.validated_data["limit"]
        events = list(selectors.events_for(request.user, after=after)[: limit + 1])
        page = events[:limit]
        return Response(
            {
                "last_seq": page[-1].seq if page else after,
                "has_more": len(events) > limit,
                "results": [message_for(event) for event in page],
            }
        )
