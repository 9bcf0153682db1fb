"""Celery's doors to the services."""

from __future__ import annotations

import logging
import time

from celery import shared_task
from django.core.exceptions import ImproperlyConfigured
from django.utils import timezone

from desktops.core.cloud import CloudError
from desktops.errors import InvalidFile, SyncUnderWay
from desktops.services import agents, inventory, people, quarantine, retention
from desktops.services.batches import settle
from desktops.services.pulling import configured_sources, pull_source
from desktops.services.rollups import roll_up

log = logging.getLogger(__name__)
SYNC_EXPIRES_S = 300


@shared_task
def sync_inventories() -> None:
    """Each cloud on its own, so that one that does not answer holds up no other."""
    for cloud in inventory.clouds_with_pools():
        sync_cloud.apply_async(args=[cloud], expires=SYNC_EXPIRES_S)


@shared_task
def sync_cloud(cloud: str, by: str = "") -> None:
    try:
        inventory.sync_cloud(name=cloud, at=timezone.now(), by=by)
    except (CloudError, ImproperlyConfigured, SyncUnderWay) as error:
        log.warning("inventory of %s: %s", cloud, error)


# Enough for a minute of a large fleet; whatever is left is for the next run.
BATCHES_PER_RUN = 20_000
HOURS_PER_RUN = 200_000


@shared_task
def settle_batches() -> None:
    settle(clock=timezone.now, most=BATCHES_PER_RUN)


@shared_task
def roll_up_hours() -> None:
    roll_up(until=timezone.now(), most=HOURS_PER_RUN)


@shared_task
def replay_quarantine(source_id: int, reason: str, by: str) -> None:
    quarantine.replay(source_id=source_id, reason=reason, by=by, clock=timezone.now)


PULL_EXPIRES_S = 60
# A source that has fallen far behind catches up over several runs, and holds up no worker.
PULL_RUN_S = 300


@shared_task
def pull_sources() -> None:
    """Each source on its own, so that one that does not answer holds up no other."""
    try:
        names = list(configured_sources())
    except InvalidFile as error:
        log.error("SOURCES_FILE: %s", error)
        return
    for name in names:
        pull_one_source.apply_async(args=[name], expires=PULL_EXPIRES_S)


@shared_task
def pull_one_source(name: str) -> None:
    stop_at = time.monotonic() + PULL_RUN_S
    try:
        entry = configured_sources().get(name)
        if entry:
            pull_source(entry=entry, clock=timezone.now, goes_on=lambda: time.monotonic() < stop_at)
    except InvalidFile as error:
        log.error("SOURCES_FILE: %s", error)


ERASING_PAUSE_S = 30


@shared_task
def forget_samples() -> None:
    """Of everybody who is being erased. Whoever is at it now may be past the newest of them."""
    if people.finish_erasures(wall=timezone.now()) is None:
        forget_samples.apply_async(countdown=ERASING_PAUSE_S)


@shared_task
def enforce_retention() -> None:
    """Hourly; also finishes erasures that were interrupted."""
    wall = timezone.now()
    people.finish_erasures(wall=wall)
    agents.expire_commands(wall=wall)
    retention.enforce_retention(wall=wall)
