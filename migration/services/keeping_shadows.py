"""Keeping shadows in step, letting them go, and clearing up after passes.

One worker does it at a time, in short rounds: what it finds in the rows is all it knows, so a round
that is cut off is continued by the next.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import (
    DurationField,
    Exists,
    ExpressionWrapper,
    F,
    Max,
    OuterRef,
    Q,
    QuerySet,
    Value,
)
from django.db.models.functions import Greatest

from desktops.clouds.registry import get_cloud
from desktops.core.cloud import Cloud, CloudError, CloudUnavailable, JobState, NotFound
from desktops.core.exports import VolumeExports
from desktops.models import Region
from desktops.services.retention import alone
from migration.core.machine import TERMINAL
from migration.models import Pass, Shadow, ShadowTest, Transition
from migration.selectors import LIVE_SHADOW
from migration.services import passes, testing_shadows
from migration.services.shadows import report

log = logging.getLogger(__name__)
LOCK = 0x73686477
R = TypeVar("R")
Clouds = Callable[[str], Cloud]
# Whole volumes that clouds without relays copy at once, of all shadows: relays share links by
# themselves, and what waits for them waits in the order it was asked for.
MOST_COPIES = 4
# A pass that failed is not made again at once, however short the interval.
SHORTEST_PAUSE_S = 60
CLEANED_AT_ONCE = 100
# A relay that was cut off may still be writing, until it notices that it is not wanted.
SETTLING = timedelta(minutes=1)


def keep_shadows(*, now: datetime, clouds: Clouds = get_cloud) -> None:
    """One round: test, release, bring up to date what is due, clear up."""
    with alone(LOCK) as is_ours:
        if not is_ours:
            return
        attempt = _Attempts(now, clouds)
        tests = ShadowTest.objects.filter(cleaned_at=None)
        for test in tests.select_related("shadow__desktop__flavor", "shadow__region"):
            attempt(testing_shadows.advance, test, test.shadow.region)
        for shadow in _of(Shadow.objects.filter(state=Shadow.State.RELEASING)):
            attempt(_release, shadow, shadow.region)
        for shadow in _to_bring_up(now):
            attempt(_bring_up, shadow, shadow.region)
        for one in _to_clean(now):
            attempt(_clean, one, one.dest_region)


class _Attempts:
    """One that cannot be seen to now must not keep the others from it; but a cloud that cannot be
    reached is not asked again in the same round."""

    def __init__(self, now: datetime, clouds: Clouds) -> None:
        self._now, self._clouds = now, clouds
        self._lost: set[str] = set()

    def __call__(self, act: Callable[[R, Cloud, datetime], None], row: R, region: Region) -> None:
        if region.cloud in self._lost:
            return
        try:
            act(row, self._clouds(region.cloud), self._now)
        except (CloudUnavailable, ImproperlyConfigured) as error:
            self._lost.add(region.cloud)
            log.warning("%s: %s", row, error)
        except CloudError as error:
            log.warning("%s: %s", row, error)


def _of(rows: QuerySet[Shadow]) -> QuerySet[Shadow]:
    return rows.select_related("desktop__region", "region").order_by("pk")


# Bringing up to date


def _to_bring_up(now: datetime) -> Iterator[Shadow]:
    """Those with a pass under way, or not in their row yet; then those that are due for one."""
    own = Pass.objects.filter(shadow=OuterRef("pk"), transition=None)
    is_newer = Q(taken_at__gt=F("shadow__recovery_point_at")) | Q(shadow__recovery_point_at=None)
    live = Shadow.objects.filter(state__in=LIVE_SHADOW).annotate(
        is_passing=Exists(own.filter(state__in=passes.OPEN)),
        has_news=Exists(own.filter(is_newer, state=Pass.State.DONE)),
    )
    yield from _of(live.filter(Q(is_passing=True) | Q(has_news=True)))
    moving = Transition.objects.filter(desktop=OuterRef("desktop")).exclude(state__in=TERMINAL)
    trying = ShadowTest.objects.filter(shadow=OuterRef("pk"), cleaned_at=None)
    idle = live.filter(~Exists(moving), ~Exists(trying), is_passing=False, has_news=False)
    due = _of(_due(idle, now))
    relayed = passes.relayed_clouds()
    yield from due.filter(region__cloud__in=relayed)
    has_room = MOST_COPIES - live.filter(is_passing=True).exclude(region__cloud__in=relayed).count()
    yield from due.exclude(region__cloud__in=relayed)[: max(has_room, 0)]


def _due(idle: QuerySet[Shadow], now: datetime) -> QuerySet[Shadow]:
    """What was asked for since the last pass began, and what was left alone for its interval."""
    second = Value(timedelta(seconds=1))
    interval = ExpressionWrapper(
        Greatest(F("sync_interval_s"), SHORTEST_PAUSE_S) * second, output_field=DurationField()
    )
    began = Max("passes__created_at", filter=Q(passes__transition=None))
    # PostgreSQL's GREATEST leaves NULLs out.
    known = idle.annotate(began_at=began, due_at=Greatest(began, F("recovery_point_at")) + interval)
    is_asked = Q(sync_asked_at__isnull=False) & (
        Q(began_at=None) | Q(began_at__lt=F("sync_asked_at"))
    )
    is_over = Q(due_at=None) | Q(due_at__lte=now)
    return known.filter(is_asked | (is_over & Q(paused_at=None, sync_interval_s__isnull=False)))


def _bring_up(shadow: Shadow, cloud: Cloud, now: datetime) -> None:
    one = _own_pass(shadow)
    if one is None:
        if not _can_sync(shadow, cloud):
            return
        order = _next_order(shadow, now)
    else:
        order = _order_again(one, shadow)
    if passes.is_relayed(cloud):
        copy = passes.as_copy(passes.advance(order, now=now))
    else:
        copy = passes.copied(order, cloud=cloud, now=now)
    if copy.state is JobState.DONE:
        _take_over(shadow, Pass.objects.get(key=order.key), cloud)
    elif copy.state is JobState.FAILED:
        passes.abandon(order, cloud=cloud, now=now)
        _report_failure(shadow, order.key, now)


def _can_sync(shadow: Shadow, cloud: Cloud) -> bool:
    """Its desktop has a volume, elsewhere, that can be read while it runs."""
    desktop = shadow.desktop
    if not desktop.volume_id or desktop.region_id in (None, shadow.region_id):
        return False
    return passes.is_relayed(cloud) or cloud.capabilities().copy_while_attached


def _own_pass(shadow: Shadow) -> Pass | None:
    """The newest that was not ordered by a move, unless it is over and told of."""
    one = (
        shadow.passes.filter(transition=None)
        .select_related("source_region", "dest_region")
        .order_by("-created_at")
        .first()
    )
    if one is None or one.state in passes.OPEN:
        return one
    is_told = one.state != Pass.State.DONE or (
        shadow.recovery_point_at is not None
        and one.taken_at is not None
        and one.taken_at <= shadow.recovery_point_at
    )
    return None if is_told else one


def _next_order(shadow: Shadow, now: datetime) -> passes.Ordered:
    assert shadow.desktop.region is not None
    return passes.Ordered(
        key=f"shadow-{shadow.pk}:sync:{now:%Y%m%dT%H%M%S}",
        source_region=shadow.desktop.region,
        source_volume_id=shadow.desktop.volume_id,
        dest_region=shadow.region,
        base_volume_id=shadow.volume_id,
        shadow=shadow,
    )


def _order_again(one: Pass, shadow: Shadow) -> passes.Ordered:
    return passes.Ordered(
        key=one.key,
        source_region=one.source_region,
        source_volume_id=one.source_volume_id,
        dest_region=one.dest_region,
        base_volume_id=shadow.volume_id,
        shadow=shadow,
    )


def _take_over(shadow: Shadow, one: Pass, cloud: Cloud) -> None:
    """The shadow holds what the pass brought."""
    if shadow.volume_id not in ("", one.dest_volume_id):
        # A cloud without incremental passes has made a new volume in place of this one.
        with suppress(NotFound):
            cloud.delete_volume(shadow.region.name, shadow.volume_id)
    is_news = Q(recovery_point_at=None) | Q(recovery_point_at__lt=one.taken_at)
    # No event: the pass itself tells of it, and events are kept for ever.
    Shadow.objects.filter(is_news, pk=shadow.pk, state__in=LIVE_SHADOW).update(
        state=Shadow.State.READY,
        volume_id=one.dest_volume_id,
        recovery_point_at=one.taken_at,
        lag_bytes=None if one.makes_volume else one.changed_bytes,
        sent_bytes=F("sent_bytes") + one.sent_bytes,
        sync_asked_at=None,
    )


def _report_failure(shadow: Shadow, key: str, now: datetime) -> None:
    failed = Pass.objects.get(key=key)
    with transaction.atomic():
        Shadow.objects.filter(pk=shadow.pk).update(sync_asked_at=None)
        report(shadow, "pass_failed", at=now, reason=failed.detail)


# Letting go


def _release(shadow: Shadow, cloud: Cloud, now: datetime) -> None:
    """Raises Conflict, to be tried again, while a relay or a server is still at its volume."""
    for one in shadow.passes.filter(transition=None, state__in=passes.OPEN).select_related(
        "source_region", "dest_region"
    ):
        passes.abandon(_order_again(one, shadow), cloud=cloud, now=now)
    if shadow.tests.filter(cleaned_at=None).exists():
        return
    if shadow.volume_id:
        with suppress(NotFound):
            cloud.delete_volume(shadow.region.name, shadow.volume_id)
    with transaction.atomic():
        shadow.state, shadow.released_at = Shadow.State.RELEASED, now
        shadow.volume_id = ""
        shadow.save()
        report(shadow, "released", at=now)


# Clearing up


def _to_clean(now: datetime) -> QuerySet[Pass]:
    over = Pass.objects.exclude(state__in=passes.OPEN).filter(
        cleaned_at=None, finished_at__lt=now - SETTLING
    )
    return over.select_related("source_region", "dest_region").order_by("finished_at")[
        :CLEANED_AT_ONCE
    ]


def _clean(one: Pass, cloud: Cloud, now: datetime) -> None:
    """Remove the snapshot it read, and the volume it made in vain, where its relay could not."""
    if isinstance(cloud, VolumeExports) and passes.is_relayed(cloud):
        key = passes.cloud_key(one)
        snapshot = cloud.find_snapshot(one.source_region.name, key=key)
        if snapshot is not None:
            log.info("pass %s: its snapshot is removed", one.key)
            cloud.delete_snapshot(one.source_region.name, snapshot.id)
        if one.state != Pass.State.DONE and one.makes_volume:
            _remove_vain_volume(one, cloud, key)
    Pass.objects.filter(pk=one.pk).update(cleaned_at=now)


def _remove_vain_volume(one: Pass, cloud: Cloud, key: str) -> None:
    made = cloud.find_volume(one.dest_region.name, key=key)
    if made is None or made.attached_to is not None:
        return
    used = Shadow.objects.filter(volume_id=made.id, region=one.dest_region)
    later = Pass.objects.filter(dest_volume_id=made.id, dest_region=one.dest_region)
    if used.exclude(state=Shadow.State.RELEASED).exists() or later.exclude(pk=one.pk).exists():
        return
    log.info("pass %s: the volume it made is removed", one.key)
    cloud.delete_volume(one.dest_region.name, made.id)
