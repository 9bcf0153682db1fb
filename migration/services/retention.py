"""How long plans, the forecasts they were made from, and the passes of volumes are kept."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from django.db.models import Exists, OuterRef, Q, QuerySet

from desktops.models import Dataset
from desktops.services.retention import alone, days_kept, delete_in_steps
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.selectors import latest_generation
from migration.models import Pass, Plan, Recommendation

log = logging.getLogger(__name__)
LOCK = 0x72657470


def enforce_retention(*, wall: datetime) -> int:
    """Delete superseded plans and replaced forecasts older than PROFILES is kept, by each data
    set's clock; advice that a transition followed stays with its plan. And passes older than PASSES
    is kept. Returns how many rows."""
    deleted = 0
    with alone(LOCK) as is_ours:
        if is_ours and (days := days_kept("profiles")):
            for dataset in Dataset.objects.order_by("pk"):
                deleted += _enforce(dataset, before=dataset.clock(wall=wall) - timedelta(days=days))
        if is_ours and (days := days_kept("passes")):
            deleted += delete_in_steps(_old_passes(before=wall - timedelta(days=days)))
    if deleted:
        log.info("retention: %s rows of plans, forecasts and passes deleted", deleted)
    return deleted


def _old_passes(*, before: datetime) -> QuerySet[Pass]:
    """All but the newest to each volume, which says who knows what that holds."""
    newer = Pass.objects.filter(
        dest_region=OuterRef("dest_region"),
        dest_volume_id=OuterRef("dest_volume_id"),
        created_at__gt=OuterRef("created_at"),
    )
    over = Pass.objects.filter(finished_at__lt=before, cleaned_at__isnull=False)
    return over.filter(Exists(newer) | Q(dest_volume_id=""))


def _enforce(dataset: Dataset, *, before: datetime) -> int:
    plans = Plan.objects.filter(dataset=dataset, as_of__lt=before, superseded_at__isnull=False)
    latest = latest_generation(dataset)
    generations = Generation.objects.filter(dataset=dataset, as_of__lt=before).exclude(
        state=Generation.State.RUNNING
    )
    if latest is not None:
        generations = generations.exclude(pk=latest.pk)
    return (
        delete_in_steps(Recommendation.objects.filter(plan__in=plans, transition=None))
        + delete_in_steps(plans.filter(recommendations=None))
        + delete_in_steps(
            ResourceDemandProfile.objects.filter(generation__in=generations.values("pk"))
        )
        + delete_in_steps(generations.filter(plans=None))
    )
