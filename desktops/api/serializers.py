"""What exists and what happened, as JSON. Units are in the names; times are UTC."""

from __future__ import annotations

from datetime import datetime

from django.utils import timezone
from rest_framework import serializers

from desktops.models import (
    Dataset,
    Desktop,
    DesktopUser,
    Flavor,
    FlavorPrice,
    InventorySync,
    Pool,
    Region,
    Site,
)
from desktops.selectors import may_see_names, name_of


class BriefRegionSerializer(serializers.ModelSerializer):
    class Meta:
        model = Region
        fields = ("id", "cloud", "name", "label")


class BriefFlavorSerializer(serializers.ModelSerializer):
    class Meta:
        model = Flavor
        fields = ("id", "name", "vcpus", "memory_bytes")


class FlavorPriceSerializer(serializers.ModelSerializer):
    flavor = BriefFlavorSerializer()

    class Meta:
        model = FlavorPrice
        fields = ("flavor", "price_per_hour")


class RegionSerializer(serializers.ModelSerializer):
    """A region with the flavors to be had there; prices in `currency`."""

    prices = FlavorPriceSerializer(many=True)

    class Meta:
        model = Region
        fields = (
            "id",
            "cloud",
            "name",
            "label",
            "country",
            "latitude",
            "longitude",
            "time_zone",
            "volume_price_per_gb_month",
            "currency",
            "source",
            "prices",
        )


class SiteSerializer(serializers.ModelSerializer):
    class Meta:
        model = Site
        fields = ("id", "code", "label", "country", "latitude", "longitude", "time_zone")


class BriefSiteSerializer(serializers.ModelSerializer):
    class Meta:
        model = Site
        fields = ("id", "code", "label")


class DatasetSerializer(serializers.ModelSerializer):
    """`clock` is what time it is in the data set: `as_of`, or the wall clock for live data."""

    clock = serializers.SerializerMethodField()

    class Meta:
        model = Dataset
        fields = ("id", "name", "label", "kind", "source", "as_of", "clock")

    def get_clock(self, dataset: Dataset) -> datetime:
        return dataset.clock(wall=timezone.now())


class BriefDatasetSerializer(serializers.ModelSerializer):
    class Meta:
        model = Dataset
        fields = ("id", "name", "label", "kind")


class BriefPoolSerializer(serializers.ModelSerializer):
    class Meta:
        model = Pool
        fields = ("id", "name", "label")


class InventorySyncSerializer(serializers.ModelSerializer):
    """The newest comparison of a pool with its cloud; `failure` is empty when that succeeded."""

    class Meta:
        model = InventorySync
        fields = ("cloud", "attempted_at", "succeeded_at", "failure")


class PoolSerializer(serializers.ModelSerializer):
    """A pool and its policy; penalties and gains in `currency`."""

    inventory = InventorySyncSerializer(allow_null=True)

    dataset = BriefDatasetSerializer()
    residency = BriefRegionSerializer(many=True)
    gravity_region = BriefRegionSerializer(allow_null=True)

    class Meta:
        model = Pool
        fields = (
            "id",
            "name",
            "label",
            "dataset",
            "cloud",
            "server_names",
            "inventory",
            "gateway",
            "image",
            "cutover_mode",
            "residency",
            "gravity_region",
            "currency",
            "slo_rtt_ms",
            "latency_penalty_per_hour",
            "saturation_penalty_per_hour",
            "gravity_penalty_per_hour",
            "stall_penalty_per_minute",
            "move_risk",
            "min_gain",
            "confidence_threshold",
            "commit_window_s",
            "cooldown_s",
            "max_concurrent_moves",
        )


class BriefDesktopSerializer(serializers.ModelSerializer):
    class Meta:
        model = Desktop
        fields = ("id", "key", "label")


class BriefPersonSerializer(serializers.ModelSerializer):
    class Meta:
        model = DesktopUser
        fields = ("id", "pseudonym")


class PersonSerializer(serializers.ModelSerializer):
    """`name` is null for those who may not see the names behind pseudonyms."""

    dataset = BriefDatasetSerializer()
    pool = BriefPoolSerializer()
    home_site = BriefSiteSerializer(allow_null=True)
    name = serializers.SerializerMethodField()
    desktop = serializers.SerializerMethodField()

    class Meta:
        model = DesktopUser
        fields = (
            "id",
            "pseudonym",
            "name",
            "dataset",
            "pool",
            "home_site",
            "time_zone",
            "desktop",
        )

    def get_name(self, person: DesktopUser) -> str | None:
        if not may_see_names(self.context["request"].user):
            return None
        return name_of(person)

    def get_desktop(self, person: DesktopUser) -> BriefDesktopSerializer(allow_null=True):  # type: ignore[valid-type]
        desktop: Desktop | None = getattr(person, "desktop", None)
        return BriefDesktopSerializer(desktop).data if desktop else None


class DesktopSerializer(serializers.ModelSerializer):
    dataset = BriefDatasetSerializer()
    pool = BriefPoolSerializer()
    person = BriefPersonSerializer(source="desktop_user", allow_null=True)
    region = BriefRegionSerializer(allow_null=True)
    flavor = BriefFlavorSerializer(allow_null=True)

    class Meta:
        model = Desktop
        fields = (
            "id",
            "key",
            "label",
            "dataset",
            "pool",
            "person",
            "region",
            "flavor",
            "server_id",
            "volume_id",
            "volume_bytes",
            "state",
            "moved_at",
        )


class EventSerializer(serializers.Serializer):
    """One committed change, as it also arrives live (desktops.events.message_for)."""

    seq = serializers.IntegerField()
    previous_seq = serializers.IntegerField()
    at = serializers.DateTimeField()
    kind = serializers.CharField()
    pool = serializers.IntegerField(allow_null=True)
    object_type = serializers.CharField()
    object_id = serializers.CharField()
    actor = serializers.CharField(allow_blank=True)
    payload = serializers.DictField()


class EventsSerializer(serializers.Serializer):
    """Events after a number, oldest first; `has_more` when there are more behind `last_seq`."""

    last_seq = serializers.IntegerField()
    has_more = serializers.BooleanField()
    results = EventSerializer(many=True)


class EventsAfterSerializer(serializers.Serializer):
    """Parameters of a catch-up."""

    after = serializers.IntegerField(min_value=0, max_value=2**63 - 1, default=0)
    limit = serializers.IntegerField(min_value=1, max_value=1000, default=500)
