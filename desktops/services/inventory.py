"""What a cloud holds, compared with the tables: regions, flavors, quotas, and pools' desktops.

One listing of a cloud serves all of its pools. Nothing is ever deleted: a desktop whose server is
no longer listed becomes `missing`, and a region that cannot be listed leaves its rows as they
were. How a pool differs from its cloud is in its drifts (desktops.services.drifts).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal

from celery import current_app
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ImproperlyConfigured
from django.db import DatabaseError, connection, transaction

from desktops import events
from desktops.clouds.registry import get_cloud
from desktops.core.cloud import Cloud, CloudError, Inventory
from desktops.errors import NoCloud, NotPermitted, SyncUnderWay
from desktops.models import Drift, Flavor, FlavorPrice, InventorySync, Pool, Region, RegionState
from desktops.selectors import may_operate, pools_for
from desktops.services.drifts import Found, compare, write_drifts

MICROS = 1_000_000
SYNC = "desktops.tasks.sync_cloud"
# With the hash of its name: one comparison of a cloud at a time.
SYNC_LOCK = 0x73796E63
FAILURE_LENGTH = 500
FLAVOR_NAME_LENGTH = 80

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Synced:
    """How one pool differed from its cloud; names of desktops, servers and regions.

    added : became desktops; changed : moved by others, started, stopped, resized
    missing : no longer listed; unknown : listed, and nobody's
    failed : regions that could not be listed, with the reason
    """

    pool: Pool
    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


def clouds_with_pools() -> list[str]:
    """Names of the clouds that some pool is compared with."""
    return sorted(set(Pool.objects.exclude(cloud="").values_list("cloud", flat=True)))


def request_sync(*, pool_id: int, actor: AbstractUser, at: datetime) -> None:
    """Ask for a comparison of the pool's cloud; a worker makes it. Raises NotPermitted, NoCloud."""
    pool = pools_for(actor).filter(pk=pool_id).first()
    if pool is None or not may_operate(actor):
        raise NotPermitted("Only an operator of this pool may have it compared with its cloud.")
    if not pool.cloud:
        raise NoCloud(f"{pool.label} is compared with no cloud: name one in its settings.")
    with transaction.atomic():
        events.record(
            kind="inventory.requested",
            subject=pool,
            at=at,
            pool_id=pool.pk,
            actor=actor.get_username(),
            cloud=pool.cloud,
        )
        order = [pool.cloud, actor.get_username()]
        transaction.on_commit(lambda: current_app.send_task(SYNC, args=order), robust=True)


def sync_cloud(*, name: str, at: datetime, by: str = "") -> list[Synced]:
    """`sync_inventory` of the cloud that CLOUDS calls `name`, unless one is under way.

    by : whoever asked for it, and is told of the outcome even if that is no news
    What went wrong is written to each pool's InventorySync before it is raised: CloudError,
    ImproperlyConfigured, SyncUnderWay (nothing is written for that one).
    """
    with _alone(name):
        try:
            return sync_inventory(cloud=get_cloud(name), at=at, by=by)
        except (CloudError, ImproperlyConfigured) as error:
            _note_failure(name, str(error), at, by)
            raise
        except Exception:
            _note_failure(name, "An unexpected error; the worker's log has the details.", at, by)
            raise


def sync_inventory(*, cloud: Cloud, at: datetime, by: str = "") -> list[Synced]:
    """Bring the tables in step with what the cloud lists, for all of its pools.

    A server that fits the names of exactly one pool becomes its desktop. A desktop on the move
    is left alone: its transition knows better. Raises CloudError when not even the regions can
    be named.
    """
    listed, unlisted = _list(cloud)
    with transaction.atomic():
        pools = list(Pool.objects.filter(cloud=cloud.name).select_related("dataset").order_by("pk"))
        regions = _write_regions(cloud, listed)
        flavors = _write_flavors(cloud, listed, regions)
        _write_states(listed, regions, at)
        found = compare(
            cloud=cloud.name,
            pools=pools,
            listed=listed,
            unlisted=unlisted,
            regions=regions,
            flavors=flavors,
            began_at=at,
        )
        return [_write_sync(pool, found[pool.pk], unlisted, at, by) for pool in pools]


def _list(cloud: Cloud) -> tuple[list[Inventory], dict[str, str]]:
    """What each region holds; region → the reason where it could not be listed."""
    listed, unlisted = [], {}
    for name in cloud.regions():
        try:
            listed.append(cloud.inventory(name))
        except CloudError as error:
            unlisted[name] = str(error)
    return listed, unlisted


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """A lock of this connection's, so that it goes with a worker that dies."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_try_advisory_lock(%s, hashtext(%s))", [SYNC_LOCK, name])
        (is_ours,) = cursor.fetchone()
    if not is_ours:
        raise SyncUnderWay(f"Cloud {name} is being compared already.")
    try:
        yield
    finally:
        # A connection that broke has let go of it by itself.
        with suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_unlock(%s, hashtext(%s))", [SYNC_LOCK, name])


def _note_failure(cloud: str, failure: str, at: datetime, by: str) -> None:
    """Everything else stays as the last success left it."""
    failure = failure[:FAILURE_LENGTH]
    with transaction.atomic():
        for pool in Pool.objects.filter(cloud=cloud).order_by("pk"):
            sync, _ = InventorySync.objects.get_or_create(
                pool=pool, defaults={"cloud": cloud, "attempted_at": at}
            )
            is_news = sync.failure != failure
            sync.cloud, sync.attempted_at, sync.failure = cloud, at, failure
            sync.save()
            if is_news or by:
                events.record(
                    kind="inventory.failed",
                    subject=pool,
                    at=at,
                    pool_id=pool.pk,
                    actor=by,
                    cloud=cloud,
                    reason=failure,
                )


def _write_sync(
    pool: Pool, found: Found, unlisted: dict[str, str], at: datetime, by: str
) -> Synced:
    had_failed = InventorySync.objects.filter(pool=pool).exclude(failure="").exists()
    sync, _ = InventorySync.objects.update_or_create(
        pool=pool,
        defaults={"cloud": pool.cloud, "attempted_at": at, "succeeded_at": at, "failure": ""},
    )
    is_new_drift = write_drifts(sync, found.drifts, unlisted=set(unlisted), at=at)
    names = found.names
    synced = Synced(
        pool=pool,
        added=found.added,
        changed=names(Drift.Kind.CHANGED),
        missing=names(Drift.Kind.VANISHED),
        unknown=names(Drift.Kind.UNKNOWN),
        failed=tuple(f"{name}: {reason}" for name, reason in unlisted.items()),
    )
    # Every few minutes nothing has happened; an event for ever is for when something has.
    if by or had_failed or found.added or is_new_drift:
        events.record(
            kind="inventory.synced",
            subject=pool,
            at=at,
            pool_id=pool.pk,
            actor=by,
            cloud=pool.cloud,
            added=len(synced.added),
            changed=len(synced.changed),
            missing=len(synced.missing),
            unknown=len(synced.unknown),
            failed=list(synced.failed),
        )
    return synced


def _write_regions(cloud: Cloud, listed: Iterable[Inventory]) -> dict[str, Region]:
    """By name, those of the cloud that were ever listed."""
    Region.objects.bulk_create(
        (Region(cloud=cloud.name, name=i.region, label=i.region) for i in listed),
        ignore_conflicts=True,
    )
    return {region.name: region for region in Region.objects.filter(cloud=cloud.name)}


def _write_flavors(
    cloud: Cloud, listed: Sequence[Inventory], regions: dict[str, Region]
) -> dict[str, Flavor]:
    # One absurd name must not keep a whole fleet from being compared.
    offered = {
        flavor.name: flavor
        for inventory in listed
        for flavor in inventory.flavors
        if len(flavor.name) <= FLAVOR_NAME_LENGTH
    }
    Flavor.objects.bulk_create(
        (
            Flavor(cloud=cloud.name, name=f.name, vcpus=f.vcpus, memory_bytes=f.memory_bytes)
            for f in offered.values()
        ),
        update_conflicts=True,
        unique_fields=("cloud", "name"),
        update_fields=("vcpus", "memory_bytes"),
    )
    flavors = {flavor.name: flavor for flavor in Flavor.objects.filter(cloud=cloud.name)}
    FlavorPrice.objects.bulk_create(
        (
            FlavorPrice(
                flavor=flavors[f.name],
                region=regions[inventory.region],
                price_per_hour=Decimal(f.price_per_hour_micros) / MICROS,
            )
            for inventory in listed
            for f in inventory.flavors
            if f.price_per_hour_micros is not None and f.name in offered
        ),
        update_conflicts=True,
        unique_fields=("flavor", "region"),
        update_fields=("price_per_hour",),
    )
    return flavors


QUOTA = ("servers", "vcpus", "memory_bytes", "volume_bytes")
STATE_FIELDS = tuple(name for limit in QUOTA for name in (limit, f"{limit}_used"))


def _write_states(listed: Iterable[Inventory], regions: dict[str, Region], at: datetime) -> None:
    RegionState.objects.bulk_create(
        (
            RegionState(
                region=regions[inventory.region],
                observed_at=at,
                hosts=[asdict(host) for host in inventory.hosts],
                **{name: getattr(inventory.quota, name) for name in STATE_FIELDS},
            )
            for inventory in listed
        ),
        update_conflicts=True,
        unique_fields=("region",),
        update_fields=("observed_at", "hosts", *STATE_FIELDS),
    )
