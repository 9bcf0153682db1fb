"""Confirming what was predicted, from what was seen since. A prediction cannot confirm itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import OuterRef, Subquery

from desktops import events
from desktops.models import Activity, RegionLink, RoundTrip, Site
from migration.core.advice import ConfirmTerms
from migration.core.confirmation import (
    Confirmation,
    Evidence,
    FreshMeasurements,
    Observation,
    confirm,
)
from migration.core.machine import BEFORE_CUTOVER
from migration.models import Recommendation, Transition
from migration.plan_input import (
    ASSUMED_DIRTY_BYTES_PER_HOUR,
    FARTHEST_RTT_MS,
    policy_of,
)

BATCH = 500


def confirm_seen(*, wall: datetime) -> int:
    """Hold every transition that waits for confirmation against its user's newest activity.

    Returns how many were confirmed. An hour of activity counts as seen at its end.
    """
    confirmed = last = 0
    while waiting := _waiting(after=last):
        last = waiting[-1].pk
        sites = Site.objects.in_bulk({t.seen_site for t in waiting})
        for row in waiting:
            answer = _judge(row, sites[row.seen_site], wall=wall)
            if answer.confirmed and _write(row, answer, at=wall):
                confirmed += 1
    return confirmed


def _waiting(*, after: int) -> Sequence[Transition]:
    """Approved and unconfirmed transitions whose user was seen somewhere since the plan."""
    newest = Activity.objects.filter(
        desktop_user=OuterRef("desktop__desktop_user"),
        hour__gte=OuterRef("recommendation__plan__as_of"),
        active_ratio__gt=0,
        site__isnull=False,
    ).order_by("-hour")
    return list(
        Transition.objects.filter(
            pk__gt=after,
            state__in=sorted(BEFORE_CUTOVER),
            approved_at__isnull=False,
            confirmed_at__isnull=True,
            recommendation__confirm_terms__isnull=False,
        )
        .annotate(
            seen_hour=Subquery(newest.values("hour")[:1]),
            seen_site=Subquery(newest.values("site_id")[:1]),
        )
        .filter(seen_site__isnull=False)
        .select_related("recommendation__plan__dataset", "desktop", "pool", "shadow")
        .order_by("pk")[:BATCH]
    )


def _judge(row: Transition, site: Site, *, wall: datetime) -> Confirmation:
    recommendation = row.recommendation
    assert recommendation is not None
    policy = policy_of(row.pool)
    now = recommendation.plan.dataset.clock(wall=wall)
    return confirm(
        _terms(recommendation),
        Observation(kind=Evidence.SIGN_IN, at=row.seen_hour + timedelta(hours=1), site=site.label),
        _measure(row, site, now=now),
        slo=policy.slo,
        fixed_risk=policy.fixed_risk,
        threshold=row.pool.confidence_threshold,
        planned_at=recommendation.plan.as_of,
        expires_at=recommendation.expires_at,
        now=now,
    )


def _terms(recommendation: Recommendation) -> ConfirmTerms:
    stored = dict(recommendation.confirm_terms)
    return ConfirmTerms(**(stored | {"sites": tuple(stored["sites"])}))


def _measure(row: Transition, site: Site, *, now: datetime) -> FreshMeasurements:
    """The round trips and the link as the tables say now; the delta since the last sync."""
    rtt = dict(
        RoundTrip.objects.filter(
            site=site, region__in=(row.source_region_id, row.dest_region_id)
        ).values_list("region_id", "rtt_ms")
    )
    link = RegionLink.objects.filter(source=row.source_region_id, dest=row.dest_region_id).first()
    return FreshMeasurements(
        measured_at=now,
        rtt_source_ms=rtt.get(row.source_region_id, FARTHEST_RTT_MS),
        rtt_target_ms=rtt.get(row.dest_region_id, FARTHEST_RTT_MS),
        link_bytes_per_s=link.bytes_per_s if link else 0.0,
        bytes_behind=row.desktop.dirty_bytes_per_hour or ASSUMED_DIRTY_BYTES_PER_HOUR,
        p_active=1.0,
    )


def _write(row: Transition, answer: Confirmation, *, at: datetime) -> bool:
    """Losing the race against a person who confirms or cancels is normal."""
    with transaction.atomic():
        written = Transition.objects.filter(
            pk=row.pk, confirmed_at__isnull=True, state__in=sorted(BEFORE_CUTOVER)
        ).update(confirmed_at=at, confirmation=answer.reason[:300], due_at=at)
        if written:
            events.record(
                kind="transition.confirmed",
                subject=row,
                at=at,
                pool_id=row.pool_id,
                desktop=row.desktop.key,
                state=row.state,
                reason=answer.reason,
                probability=round(answer.probability, 4),
            )
    return bool(written)
