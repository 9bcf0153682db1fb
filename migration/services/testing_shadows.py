"""Test boots: does a server start on what a shadow holds?

It starts on a copy of the shadow's volume, with its ports down, and goes again whatever came of it.
The shadow itself is not written to. Every step carries the test's key: a round that is cut off is
continued by the next.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from django.db import transaction

from desktops.core.cloud import (
    TRIAL,
    Cloud,
    CloudError,
    CloudUnavailable,
    Conflict,
    NotFound,
    Server,
    ServerSpec,
    ServerStatus,
    Snapshot,
    Volume,
    VolumeSpec,
    VolumeStatus,
)
from migration.models import ShadowTest
from migration.services import passes
from migration.services.shadows import report

TIME_LIMIT = timedelta(minutes=15)


def advance(test: ShadowTest, cloud: Cloud, now: datetime) -> None:
    """The next short piece of a test. Raises CloudError where it must be asked again."""
    if test.decided_at is None and now - test.asked_at > 2 * TIME_LIMIT:
        _decide(test, f"it could not be tried within {2 * TIME_LIMIT}", now)
    if test.decided_at is None:
        _try(test, cloud, now)
    if test.decided_at is not None:
        _clear(test, cloud)
        ShadowTest.objects.filter(pk=test.pk).update(cleaned_at=now)


def _try(test: ShadowTest, cloud: Cloud, now: datetime) -> None:
    try:
        server = _server(test, cloud, now)
    except (CloudUnavailable, Conflict):
        if now - test.asked_at > TIME_LIMIT:
            _decide(test, f"no server was there after {TIME_LIMIT}", now)
            return
        raise
    except CloudError as error:
        _decide(test, str(error), now)
        return
    if server is not None and server.status is ServerStatus.ERROR:
        _decide(test, server.fault or "the server is in error", now)
    elif server is not None and server.is_running:
        _decide(test, "", now)
    elif now - test.asked_at > TIME_LIMIT:
        _decide(test, f"it did not run after {TIME_LIMIT}", now)


def _server(test: ShadowTest, cloud: Cloud, now: datetime) -> Server | None:
    """The server, as far as it has come; None while what it is made of is not there yet."""
    shadow, region, key = test.shadow, test.shadow.region.name, _key(test)
    found = cloud.find_server(region, key=key)
    if found is not None and found.is_running:
        return found
    volume = cloud.find_volume(region, key=key)
    if volume is None:
        if shadow.passes.filter(state__in=passes.OPEN).exists():
            return None  # what it holds is being replaced
        snapshot = cloud.snapshot_volume(region, shadow.volume_id, key=key)
        if not _is_there(snapshot):
            return None
        if test.recovery_point_at is None:
            _note(test, recovery_point_at=shadow.recovery_point_at)
        spec = VolumeSpec(_name(test), snapshot.size_bytes, snapshot_id=snapshot.id)
        volume = cloud.create_volume(region, spec, key=key)
    if found is None and not _is_there(volume):
        return None
    flavor = shadow.desktop.flavor
    if flavor is None:
        raise NotFound(f"It is not known what size {shadow.desktop.label} has.")
    if test.ordered_at is None:
        _note(test, ordered_at=now)
    spec_of_server = ServerSpec(_name(test), flavor.name, boot_volume_id=volume.id, is_fenced=True)
    return cloud.create_server(region, spec_of_server, key=key)


def _is_there(made: Snapshot | Volume) -> bool:
    if made.status is VolumeStatus.ERROR:
        raise CloudError(f"{made.region}: the copy of the shadow's volume failed.")
    return made.status is VolumeStatus.AVAILABLE


def _clear(test: ShadowTest, cloud: Cloud) -> None:
    region, key = test.shadow.region.name, _key(test)
    server = cloud.find_server(region, key=key)
    if server is not None:
        cloud.delete_server(region, server.id)
        if cloud.find_server(region, key=key) is not None:
            raise Conflict(f"{region}: server {server.id} is being deleted.")
    volume = cloud.find_volume(region, key=key)
    if volume is not None:
        cloud.delete_volume(region, volume.id)
    snapshot = cloud.find_snapshot(region, key=key)
    if snapshot is not None:
        cloud.delete_snapshot(region, snapshot.id)


def _decide(test: ShadowTest, failure: str, now: datetime) -> None:
    state = ShadowTest.State.FAILED if failure else ShadowTest.State.PASSED
    with transaction.atomic():
        _note(test, state=state, decided_at=now, detail=failure[:500])
        report(test.shadow, f"test_{state}", at=now, actor=test.asked_by, reason=failure)


def _note(test: ShadowTest, **changes: object) -> None:
    for name, value in changes.items():
        setattr(test, name, value)
    test.save(update_fields=list(changes))


def _key(test: ShadowTest) -> str:
    return f"{TRIAL}shadow-{test.shadow_id}:{test.pk}"


def _name(test: ShadowTest) -> str:
    return f"{test.shadow.desktop.key}-test"
