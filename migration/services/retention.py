"""How long plans and the forecasts they were made from are kept."""

from __future__ import annotations

import logging
from datetime import datetime, timedelta

from desktops.models import Dataset
from desktops.services.retention import alone, days_kept, delete_in_steps
from forecasting.models import Generation, ResourceDemandProfile
from forecasting.selectors import latest_generation
from migration.models import Plan, Recommendation

log = logging.getLogger(__name__)
LOCK = 0x72657470


def enforce_retention(*, wall: datetime) -> int:
    """Delete superseded plans and replaced forecasts older than PROFILES is kept, by each data
    set's clock; advice that a transition followed stays with its plan. Returns how many rows."""
    days = days_kept("profiles")
    with alone(LOCK) as is_ours:
        if not is_ours or not days:
            return 0
        deleted = sum(
            _enforce(dataset, before=dataset.clock(wall=wall) - timedelta(days=days))
            for dataset in Dataset.objects.order_by("pk")
        )
    if deleted:
        log.info("retention: %s rows of plans and forecasts deleted", deleted)
    return deleted


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
