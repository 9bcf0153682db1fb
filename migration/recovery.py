"""Finding transitions that somebody should drive: due ones, and those whose worker is gone."""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Q

from migration.core.machine import TERMINAL
from migration.models import Transition

# A rung bell that nobody heard is rung again after this.
RING_AGAIN = timedelta(seconds=10)
BATCH = 500


def claim_due(*, now: datetime) -> list[int]:
    """Ids of transitions to ring for, each at most once per RING_AGAIN.

    A transition is due by its row alone: `due_at` has passed and no living worker holds it, a
    worker's life being its lease. Sweeps may overlap; each row goes to one of them.
    """
    with transaction.atomic():
        due = list(
            Transition.objects.select_for_update(skip_locked=True)
            .filter(Q(lease_until__isnull=True) | Q(lease_until__lt=now), due_at__lte=now)
            .exclude(state__in=TERMINAL)
            .order_by("due_at")
            .values_list("pk", flat=True)[:BATCH]
        )
        Transition.objects.filter(pk__in=due).update(due_at=now + RING_AGAIN)
    return due
