"""Celery's doors to the services. Losing one of these messages delays work by a sweep."""

from __future__ import annotations

import os
import socket
import threading
import time

from celery import shared_task
from django.utils import timezone

from migration import recovery
from migration.services import (
    carrying,
    confirming,
    driving,
    keeping_shadows,
    plans,
    retention,
)


@shared_task
def drive_transition(transition_id: int) -> None:
    driving.drive_transition(transition_id, owner=f"{socket.gethostname()}:{os.getpid()}")


@shared_task
def carry_pass(pass_id: int) -> None:
    """On the queue of the source's region, which relays work on."""
    owner = f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}:{time.monotonic_ns()}"
    carrying.carry_pass(pass_id, owner=owner)


@shared_task
def sweep_transitions() -> None:
    for transition_id in recovery.claim_due(now=timezone.now()):
        drive_transition.delay(transition_id)


@shared_task
def keep_shadows() -> None:
    keeping_shadows.keep_shadows(now=timezone.now())


@shared_task
def plan_dataset(dataset_id: int) -> None:
    plans.make_plan(dataset_id=dataset_id, wall=timezone.now())


@shared_task
def confirm_seen() -> None:
    confirming.confirm_seen(wall=timezone.now())


@shared_task
def expire_recommendations() -> None:
    plans.expire_recommendations(wall=timezone.now())


@shared_task
def plan_retention() -> None:
    retention.enforce_retention(wall=timezone.now())
