"""Plans, decisions, shadows and transitions, as JSON. Money is in the object's `currency`."""

from __future__ import annotations

from rest_framework import serializers

from desktops.api.fields import AmountField
from desktops.api.serializers import (
    BriefDatasetSerializer,
    BriefDesktopSerializer,
    BriefFlavorSerializer,
    BriefPoolSerializer,
    BriefRegionSerializer,
)
from migration.core.machine import State
from migration.models import Decision, Plan, Recommendation, Shadow, Step, Transition

STATES = [(state.value, state.label) for state in State]


class PlanSerializer(serializers.ModelSerializer):
    dataset = BriefDatasetSerializer()

    class Meta:
        model = Plan
        fields = ("id", "dataset", "generation", "as_of", "made_at", "superseded_at")


class PlanSummarySerializer(serializers.Serializer):
    """Sums over the plan's proposals in the viewer's pools, one object for each currency."""

    currency = serializers.CharField()
    stays = serializers.IntegerField()
    actions = serializers.IntegerField()
    awaiting_approval = serializers.IntegerField()
    stay_cost = AmountField(source="stay_micros")
    action_cost = AmountField(source="action_micros")
    gain = AmountField(source="gain_micros")


class ItemSerializer(serializers.Serializer):
    """One line of the bill."""

    name = serializers.CharField()
    amount = AmountField(source="micros")
    note = serializers.CharField()


class DecisionSerializer(serializers.ModelSerializer):
    decided_by = serializers.CharField(source="decided_by.username", default=None, allow_null=True)

    class Meta:
        model = Decision
        fields = ("verdict", "decided_by", "decided_at", "note")


class BriefRecommendationSerializer(serializers.ModelSerializer):
    class Meta:
        model = Recommendation
        fields = ("id", "action", "state")


class RecommendationSerializer(serializers.ModelSerializer):
    """Times are on the data set's clock; `confidence` is a probability."""

    pool = BriefPoolSerializer()
    desktop = BriefDesktopSerializer()
    source_region = BriefRegionSerializer()
    dest_region = BriefRegionSerializer(allow_null=True)
    flavor = BriefFlavorSerializer(allow_null=True)
    stay_cost = AmountField(source="stay_cost_micros")
    action_cost = AmountField(source="action_cost_micros")
    gain = AmountField(source="gain_micros")
    items = ItemSerializer(many=True)
    decision = DecisionSerializer(default=None, allow_null=True)
    transition = serializers.IntegerField(source="transition.pk", default=None, allow_null=True)

    class Meta:
        model = Recommendation
        fields = (
            "id",
            "plan",
            "pool",
            "desktop",
            "action",
            "state",
            "strategy",
            "shadow_tier",
            "source_region",
            "dest_region",
            "flavor",
            "keeps_source_as_shadow",
            "currency",
            "stay_cost",
            "action_cost",
            "gain",
            "items",
            "confidence",
            "reason",
            "stall_ms",
            "sync_interval_s",
            "prepare_by",
            "cutover_from",
            "cutover_until",
            "expires_at",
            "decision",
            "transition",
        )


class ApprovalSerializer(serializers.Serializer):
    """confirm_now: cut over as soon as the shadow is ready, on the approver's own word."""

    note = serializers.CharField(max_length=500, allow_blank=True, default="")
    confirm_now = serializers.BooleanField(default=False)


class NoteSerializer(serializers.Serializer):
    note = serializers.CharField(max_length=500, allow_blank=True, default="")


class ShadowSerializer(serializers.ModelSerializer):
    desktop = BriefDesktopSerializer()
    region = BriefRegionSerializer()

    class Meta:
        model = Shadow
        fields = (
            "id",
            "desktop",
            "region",
            "tier",
            "state",
            "volume_id",
            "recovery_point_at",
            "lag_bytes",
            "sent_bytes",
            "created_at",
        )


class StepSerializer(serializers.ModelSerializer):
    class Meta:
        model = Step
        fields = (
            "number",
            "state",
            "command",
            "key",
            "intended_at",
            "finished_at",
            "outcome",
            "attempts",
            "bytes_done",
            "bytes_total",
            "detail",
        )


class BriefTransitionSerializer(serializers.ModelSerializer):
    """A transition without its steps."""

    pool = BriefPoolSerializer()
    desktop = BriefDesktopSerializer()
    source_region = BriefRegionSerializer()
    dest_region = BriefRegionSerializer()
    flavor = BriefFlavorSerializer(allow_null=True)
    stall_ms = serializers.IntegerField(allow_null=True, read_only=True)

    class Meta:
        model = Transition
        fields = (
            "id",
            "key",
            "recommendation",
            "pool",
            "desktop",
            "strategy",
            "state",
            "source_region",
            "dest_region",
            "flavor",
            "shadow",
            "keeps_source_as_shadow",
            "approved_at",
            "confirmed_at",
            "confirmation",
            "cancel_requested_at",
            "expires_at",
            "state_entered_at",
            "commit_until",
            "frozen_at",
            "reconnected_at",
            "stall_ms",
            "created_at",
            "finished_at",
            "waiting_for",
            "trouble",
            "failure",
        )


class TransitionSerializer(BriefTransitionSerializer):
    steps = StepSerializer(many=True)

    class Meta(BriefTransitionSerializer.Meta):
        fields = (*BriefTransitionSerializer.Meta.fields, "steps")
