"""Celery's doors to the services."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from desktops.clouds.registry import get_cloud
from desktops.models import Pool
from desktops.services import inventory


@shared_task
def sync_inventory(cloud: str, pool_id: int) -> None:
    pool = Pool.objects.select_related("dataset").get(pk=pool_id)
    inventory.sync_inventory(cloud=get_cloud(cloud), pool=pool, at=timezone.now())
