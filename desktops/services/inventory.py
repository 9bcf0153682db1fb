"""What a cloud holds, written into the tables: regions, flavors, and the desktops of a pool.

Nothing is ever deleted: a server the cloud no longer lists makes its desktop `missing`, and a
region that cannot be listed leaves its rows as they were.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import transaction
from django.utils.text import slugify

from desktops import events
from desktops.core.cloud import Cloud, CloudError, Inventory, Server, ServerStatus
from desktops.models import Desktop, Flavor, FlavorPrice, Pool, Region

MICROS = 1_000_000


@dataclass(frozen=True, slots=True)
class Drift:
    """Names of what differed from the tables.

    added : desktops that were not known; changed : moved by others, started, stopped, resized
    missing : no longer listed; failed : regions that could not be listed, with the reason
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    missing: tuple[str, ...]
    failed: tuple[str, ...]


def sync_inventory(*, cloud: Cloud, pool: Pool, at: datetime) -> Drift:
    """Bring the tables in step with what the cloud lists; its servers become the pool's desktops.

    A desktop on the move is left alone: its transition knows better. Raises CloudError only when
    not even the regions can be named.
    """
    listed: list[Inventory] = []
    failed = []
    for name in cloud.regions():
        try:
            listed.append(cloud.inventory(name))
        except CloudError as error:
            failed.append(f"{name}: {error}")
    with transaction.atomic():
        regions = _write_regions(cloud, listed)
        flavors = _write_flavors(cloud, listed, regions)
        drift = _write_desktops(pool, listed, regions, flavors)
        events.record(
            kind="inventory.synced",
            subject=pool,
            at=at,
            pool_id=pool.pk,
            cloud=cloud.name,
            added=len(drift.added),
            changed=len(drift.changed),
            missing=len(drift.missing),
            failed=failed,
        )
    return Drift(drift.added, drift.changed, drift.missing, tuple(failed))


def _write_regions(cloud: Cloud, listed: Iterable[Inventory]) -> dict[str, Region]:
    Region.objects.bulk_create(
        (Region(cloud=cloud.name, name=i.region, label=i.region) for i in listed),
        ignore_conflicts=True,
    )
    return {region.name: region for region in Region.objects.filter(cloud=cloud.name)}


def _write_flavors(
    cloud: Cloud, listed: Iterable[Inventory], regions: dict[str, Region]
) -> dict[str, Flavor]:
    offered = {flavor.name: flavor for inventory in listed for flavor in inventory.flavors}
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
            if f.price_per_hour_micros is not None
        ),
        update_conflicts=True,
        unique_fields=("flavor", "region"),
        update_fields=("price_per_hour",),
    )
    return flavors


def _write_desktops(
    pool: Pool,
    listed: list[Inventory],
    regions: dict[str, Region],
    flavors: dict[str, Flavor],
) -> Drift:
    seen_regions = [regions[inventory.region] for inventory in listed]
    sizes = {v.id: v.size_bytes for inventory in listed for v in inventory.volumes}
    held = (
        Desktop.objects.select_for_update(of=("self",))
        .filter(region__in=seen_regions)
        .exclude(server_id="")
    )
    known = {desktop.server_id: desktop for desktop in held if desktop.pool_id == pool.pk}
    others = {desktop.server_id for desktop in held if desktop.pool_id != pool.pk}
    on_the_move = _servers_on_the_move()
    added, changed = [], []
    seen = set()
    for inventory in listed:
        for server in inventory.servers:
            seen.add(server.id)
            desktop = known.get(server.id)
            if server.id in others or (desktop is None and server.id in on_the_move):
                continue
            if desktop is None:
                added.append(_new_desktop(pool, server, regions, flavors, sizes))
            elif _update(desktop, server, regions, flavors):
                changed.append(desktop)
    missing = [
        desktop
        for desktop in known.values()
        if desktop.server_id not in seen
        and desktop.region in seen_regions
        and desktop.state != Desktop.State.MISSING
    ]
    for desktop in missing:
        desktop.state = Desktop.State.MISSING
    # By name only: transitions are told of further up the house, and their rows reach down here.
    moving = set(
        Desktop.objects.filter(
            pool=pool, transitions__isnull=False, transitions__finished_at__isnull=True
        ).values_list("pk", flat=True)
    )
    Desktop.objects.bulk_create(added, ignore_conflicts=True)
    Desktop.objects.bulk_update(
        [d for d in (*changed, *missing) if d.pk not in moving], ("state", "region", "flavor")
    )
    return Drift(
        tuple(d.key for d in added),
        tuple(d.key for d in changed if d.pk not in moving),
        tuple(d.key for d in missing if d.pk not in moving),
        (),
    )


def _servers_on_the_move() -> set[str]:
    """Sources and destinations of unfinished moves: half a desktop each, and no new one."""
    moves = Desktop.objects.filter(
        transitions__isnull=False, transitions__finished_at__isnull=True
    ).values_list("transitions__source_server_id", "transitions__dest_server_id")
    return {server_id for move in moves for server_id in move} - {""}


def _new_desktop(
    pool: Pool,
    server: Server,
    regions: dict[str, Region],
    flavors: dict[str, Flavor],
    sizes: dict[str, int],
) -> Desktop:
    volume_id = server.volume_ids[0] if server.volume_ids else ""
    return Desktop(
        dataset=pool.dataset,
        pool=pool,
        key=slugify(f"{server.name}-{server.id[:8]}"),
        label=server.name,
        region=regions[server.region],
        flavor=flavors.get(server.flavor),
        server_id=server.id,
        volume_id=volume_id,
        volume_bytes=sizes.get(volume_id, 0),
        state=_state(server),
    )


def _update(
    desktop: Desktop, server: Server, regions: dict[str, Region], flavors: dict[str, Flavor]
) -> bool:
    observed = (
        _state(server),
        regions[server.region].pk,
        flavors[server.flavor].pk if server.flavor in flavors else desktop.flavor_id,
    )
    if observed == (desktop.state, desktop.region_id, desktop.flavor_id):
        return False
    desktop.state, desktop.region_id, desktop.flavor_id = observed
    return True


def _state(server: Server) -> Desktop.State:
    running = server.status in (ServerStatus.ACTIVE, ServerStatus.MIGRATING, ServerStatus.BUILD)
    return Desktop.State.RUNNING if running else Desktop.State.STOPPED
