"""Celery's doors to the services."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from desktops.clouds.registry import get_cloud
from desktops.models import Pool
from desktops.services import inventory
from desktops.services.batches import settle
from desktops.services.rollups import roll_up


@shared_task
def sync_inventory(cloud: str, pool_id: int) -> None:
    pool = Pool.objects.select_related("dataset").get(pk=pool_id)
    inventory.sync_inventory(cloud=get_cloud(cloud), pool=pool, at=timezone.now())


# Enough for a minute of a large fleet; whatever is left is for the next run.
BATCHES_PER_RUN = 20_000
HOURS_PER_RUN = 200_000


@shared_task
def settle_batches() -> None:
    settle(clock=timezone.now, most=BATCHES_PER_RUN)


@shared_task
def roll_up_hours() -> None:
    roll_up(until=timezone.now(), most=HOURS_PER_RUN)
