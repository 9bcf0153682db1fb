"""Confirming what was predicted, from what was seen since. A prediction cannot confirm itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
from django.db import transaction
from django.db.models import DateTimeField, ExpressionWrapper, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce

from desktops import events
from desktops.models import Activity, RegionLink, Sighting, Site
from desktops.round_trips import round_trips_between
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
HOUR = timedelta(hours=1)


def confirm_seen(*, wall: datetime) -> int:
    """Hold every transition that waits for confirmation against where its user was seen last.

    Returns how many were confirmed. An hour of activity counts as seen at its end; a sighting,
    which any source that knows of places leaves, at once.
    """
    confirmed = last = 0
    while waiting := _waiting(after=last, wall=wall):
        last = waiting[-1].pk
        newest = {row.pk: _newest(row) for row in waiting}
        sites = Site.objects.in_bulk({seen.site_id for seen in newest.values()})
        for row in waiting:
            seen = newest[row.pk]
            answer = _judge(row, seen, sites[seen.site_id], wall=wall)
            if answer.confirmed and _write(row, answer, at=wall):
                confirmed += 1
    return confirmed


@dataclass(frozen=True, slots=True)
class _Seen:
    kind: Evidence
    at: datetime
    site_id: int


def _waiting(*, after: int, wall: datetime) -> Sequence[Transition]:
    """Approved and unconfirmed transitions whose user was seen somewhere since the plan."""
    planned_at = OuterRef("recommendation__plan__as_of")
    over = ExpressionWrapper(
        Coalesce(OuterRef("recommendation__plan__dataset__as_of"), Value(wall)) - Value(HOUR),
        output_field=DateTimeField(),
    )
    worked = Activity.objects.filter(
        desktop_user=OuterRef("desktop__desktop_user"),
        hour__gte=planned_at,
        hour__lte=over,
        active_ratio__gt=0,
        site__isnull=False,
    ).order_by("-hour")
    sighted = Sighting.objects.filter(
        desktop_user=OuterRef("desktop__desktop_user"), at__gt=planned_at, site__isnull=False
    )
    return list(
        Transition.objects.filter(
            pk__gt=after,
            state__in=sorted(BEFORE_CUTOVER),
            approved_at__isnull=False,
            confirmed_at__isnull=True,
            recommendation__confirm_terms__isnull=False,
        )
        .annotate(
            worked_hour=Subquery(worked.values("hour")[:1]),
            worked_site=Subquery(worked.values("site_id")[:1]),
            sighted_at=Subquery(sighted.values("at")),
            sighted_site=Subquery(sighted.values("site_id")),
        )
        .filter(Q(worked_site__isnull=False) | Q(sighted_site__isnull=False))
        .select_related(
            "recommendation__plan__dataset",
            "desktop",
            "pool",
            "shadow",
            "source_region",
            "dest_region",
        )
        .order_by("pk")[:BATCH]
    )


def _newest(row: Transition) -> _Seen:
    """What says where the user is now: whatever was seen before has been overtaken by it."""
    seen = []
    if row.worked_site:
        seen.append(_Seen(Evidence.SIGN_IN, row.worked_hour + HOUR, row.worked_site))
    if row.sighted_site:
        seen.append(_Seen(Evidence.PRESENCE, row.sighted_at, row.sighted_site))
    return max(seen, key=lambda each: each.at)


def _judge(row: Transition, seen: _Seen, site: Site, *, wall: datetime) -> Confirmation:
    recommendation = row.recommendation
    assert recommendation is not None
    policy = policy_of(row.pool)
    now = recommendation.plan.dataset.clock(wall=wall)
    return confirm(
        _terms(recommendation),
        Observation(kind=seen.kind, at=seen.at, site=site.label),
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
    """The round trips and the link as they are known now; the delta since the last sync."""
    regions = (row.source_region, row.dest_region)
    rtt = np.nan_to_num(round_trips_between([site], regions).rtt_ms[0], nan=FARTHEST_RTT_MS)
    link = RegionLink.objects.filter(source=row.source_region_id, dest=row.dest_region_id).first()
    return FreshMeasurements(
        measured_at=now,
        rtt_source_ms=float(rtt[0]),
        rtt_target_ms=float(rtt[1]),
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
                # Not the reason: it names where the person was, and this is kept for ever.
                probability=round(answer.probability, 4),
            )
    return bool(written)
