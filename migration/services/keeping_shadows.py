"""Keeping shadows in step, letting them go, and clearing up after passes.

One worker does it at a time, in short rounds: what it finds in the rows is all it knows, so a round
that is cut off is continued by the next.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, transaction
from django.db.models import (
    DurationField,
    Exists,
    ExpressionWrapper,
    F,
    OuterRef,
    Q,
    QuerySet,
    Value,
)
from django.db.models.functions import Greatest

from desktops.clouds.registry import get_cloud
from desktops.core.cloud import Cloud, CloudError, CloudUnavailable, NotFound
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
# Whole volumes that a cloud without relays copies at once, of all shadows: relays share links by
# themselves, and what waits for them waits in the order it was asked for.
MOST_COPIES = 4
# A pass that failed is not made again at once, however short the interval.
SHORTEST_PAUSE_S = 60
CLEANED_AT_ONCE = 100
# A cloud's own copy that cannot be asked about for so long has failed.
PATIENCE = timedelta(hours=1)
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
        for shadow in _passing():
            assert shadow.own_pass
            attempt(_see_through, shadow, shadow.own_pass.source_region, shadow.region)
        for shadow in _due_with_room(now):
            assert shadow.desktop.region
            attempt(_begin, shadow, shadow.desktop.region, shadow.region)
        passes.ring_waiting(now=now)
        for one in _to_clean(now):
            attempt(_clean, one, one.source_region, one.dest_region)


class _Attempts:
    """One that cannot be seen to now must not keep the others from it; but a region, or two, that
    cannot be reached are not asked again in the same round."""

    def __init__(self, now: datetime, clouds: Clouds) -> None:
        self._now, self._clouds = now, clouds
        self._lost: set[tuple[int, ...]] = set()

    def __call__(self, act: Callable[[R, Cloud, datetime], None], row: R, *regions: Region) -> None:
        where = tuple(region.pk for region in regions)
        if where in self._lost:
            return
        try:
            act(row, self._clouds(regions[-1].cloud), self._now)
        except (CloudUnavailable, ImproperlyConfigured) as error:
            self._lost.add(where)
            log.warning("%s: %s", row, error)
        except CloudError as error:
            log.warning("%s: %s", row, error)
        except DatabaseError:
            raise
        except Exception:
            # A driver's own mistake, about this one row.
            log.exception("%s", row)


def _of(rows: QuerySet[Shadow]) -> QuerySet[Shadow]:
    return rows.select_related(
        "desktop__region", "region", "own_pass__source_region", "own_pass__dest_region"
    ).order_by("pk")


# Bringing up to date


def _passing() -> QuerySet[Shadow]:
    """Those whose pass this worker sees to: that a cloud makes, that has ended, or that reads what
    is not the desktop's any more. Relays see to the others."""
    carried = Q(
        region__cloud__in=passes.relayed_clouds(),
        own_pass__state__in=passes.OPEN,
        own_pass__source_region=F("desktop__region"),
        own_pass__source_volume_id=F("desktop__volume_id"),
    )
    passing = Shadow.objects.filter(state__in=LIVE_SHADOW, own_pass__isnull=False)
    return _of(passing.exclude(carried))


def _due_with_room(now: datetime) -> Iterator[Shadow]:
    due, relayed = _of(_due(now)), passes.relayed_clouds()
    yield from due.filter(region__cloud__in=relayed)
    copying = Shadow.objects.filter(state__in=LIVE_SHADOW, own_pass__state__in=passes.OPEN)
    n_copying = Counter(copying.values_list("region__cloud", flat=True))
    others = due.exclude(region__cloud__in=relayed)
    for cloud in others.order_by().values_list("region__cloud", flat=True).distinct():
        yield from others.filter(region__cloud=cloud)[: max(MOST_COPIES - n_copying[cloud], 0)]


def _due(now: datetime) -> QuerySet[Shadow]:
    """What was asked for since the last pass began, and what was left alone for its interval."""
    moving = Transition.objects.filter(desktop=OuterRef("desktop")).exclude(state__in=TERMINAL)
    trying = ShadowTest.objects.filter(shadow=OuterRef("pk"), cleaned_at=None)
    second = Value(timedelta(seconds=1))
    interval = ExpressionWrapper(
        Greatest(F("sync_interval_s"), SHORTEST_PAUSE_S) * second, output_field=DurationField()
    )
    # PostgreSQL's GREATEST leaves NULLs out.
    due_at = Greatest(F("pass_began_at"), F("recovery_point_at")) + interval
    is_asked = Q(sync_asked_at__isnull=False) & (
        Q(pass_began_at=None) | Q(pass_began_at__lt=F("sync_asked_at"))
    )
    is_over = Q(due_at=None) | Q(due_at__lte=now)
    return (
        Shadow.objects.filter(state__in=LIVE_SHADOW, own_pass=None, desktop__region__isnull=False)
        .alias(due_at=due_at)
        .filter(is_asked | (is_over & Q(paused_at=None, sync_interval_s__isnull=False)))
        .filter(~Exists(moving), ~Exists(trying))
    )


def _begin(shadow: Shadow, cloud: Cloud, now: datetime) -> None:
    if not _can_sync(shadow, cloud):
        return
    with transaction.atomic():
        # Locked, and looked at again: a move, a test or a release may have taken it meanwhile.
        held = _due(now).select_for_update(of=("self",)).filter(pk=shadow.pk).first()
        if held is None:
            return
        order = _next_order(shadow, now)
        if passes.is_relayed(cloud):
            one = passes.ordered(order, now=now)
        else:
            one = passes.ordered_copy(order, cloud=cloud, now=now)
        Shadow.objects.filter(pk=shadow.pk).update(own_pass=one, pass_began_at=now)
    if not passes.is_relayed(cloud):
        shadow.own_pass = one
        _see_through(shadow, cloud, now)


def _see_through(shadow: Shadow, cloud: Cloud, now: datetime) -> None:
    one = shadow.own_pass
    assert one
    order = _order_again(one, shadow)
    desktop = shadow.desktop
    is_current = (one.source_region_id, one.source_volume_id) == (
        desktop.region_id,
        desktop.volume_id,
    )
    if not is_current or one.state == Pass.State.ABANDONED:
        # What it reads is not the desktop's any more: its state is older than it would say.
        passes.abandon(order, cloud=cloud, now=now)
        Shadow.objects.filter(pk=shadow.pk, own_pass=one).update(own_pass=None)
        return
    if not passes.is_relayed(cloud):
        _drive(one, order, cloud, now)
    if one.state == Pass.State.DONE:
        _take_over(shadow, one, cloud)
    elif one.state == Pass.State.FAILED:
        _report_failure(shadow, one, now)
        # What cannot be removed yet is removed with the rest of it (`_clean`).
        with suppress(CloudError):
            passes.abandon(order, cloud=cloud, now=now)


def _drive(one: Pass, order: passes.Ordered, cloud: Cloud, now: datetime) -> None:
    """The next short piece of a cloud's own copy. One that it refuses has failed."""
    try:
        passes.copied(order, cloud=cloud, now=now)
    except CloudError as error:
        if error.is_retryable and now - (one.seen_at or one.created_at) < PATIENCE:
            raise
        passes.fail(one, detail=str(error), now=now)
    one.refresh_from_db()


def _can_sync(shadow: Shadow, cloud: Cloud) -> bool:
    """Its desktop has a volume, elsewhere, that can be read while it runs."""
    desktop = shadow.desktop
    if not desktop.volume_id or desktop.region_id in (None, shadow.region_id):
        return False
    return passes.is_relayed(cloud) or cloud.capabilities().copy_while_attached


def _next_order(shadow: Shadow, now: datetime) -> passes.Ordered:
    assert shadow.desktop.region is not None
    return passes.Ordered(
        key=f"shadow-{shadow.pk}:sync:{now:%Y%m%dT%H%M%S%f}",
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
    with transaction.atomic():
        held = (
            Shadow.objects.select_for_update()
            .filter(pk=shadow.pk, own_pass=one, state__in=LIVE_SHADOW)
            .first()
        )
        if held is None:
            return  # somebody lets it go; what the pass made goes with it
        if held.volume_id not in ("", one.dest_volume_id):
            # A cloud without incremental passes has made a new volume in place of this one.
            with suppress(NotFound):
                cloud.delete_volume(shadow.region.name, held.volume_id)
        # No event: the pass itself tells of it, and events are kept for ever.
        held.own_pass = None
        is_news = held.recovery_point_at is None or (
            one.taken_at is not None and one.taken_at > held.recovery_point_at
        )
        if is_news:
            held.state = Shadow.State.READY
            held.volume_id = one.dest_volume_id
            held.recovery_point_at = one.taken_at
            held.lag_bytes = None if one.makes_volume else one.changed_bytes
            held.sent_bytes += one.sent_bytes
            held.sync_asked_at = None
        held.save()


def _report_failure(shadow: Shadow, one: Pass, now: datetime) -> None:
    with transaction.atomic():
        mine = Shadow.objects.filter(pk=shadow.pk, own_pass=one)
        if mine.update(own_pass=None, sync_asked_at=None):
            report(shadow, "pass_failed", at=now, reason=one.detail)


# Letting go


def _release(shadow: Shadow, cloud: Cloud, now: datetime) -> None:
    """Raises Conflict, to be tried again, while a relay or a server is still at its volume."""
    one = shadow.own_pass
    if one is not None:
        passes.abandon(_order_again(one, shadow), cloud=cloud, now=now)
    if shadow.tests.filter(cleaned_at=None).exists():
        return
    if shadow.volume_id:
        with suppress(NotFound):
            cloud.delete_volume(shadow.region.name, shadow.volume_id)
    with transaction.atomic():
        shadow.state, shadow.released_at = Shadow.State.RELEASED, now
        shadow.volume_id, shadow.own_pass = "", None
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
    elif one.state != Pass.State.DONE:
        # Again: where something had to end first, asking once was not enough.
        cloud.abandon_copy(one.dest_region.name, source_region=one.source_region.name, key=one.key)
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
