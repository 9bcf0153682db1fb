"""How the servers a cloud lists differ from the desktops in the tables.

What is listed of a known desktop is applied to its row; what nobody owns is shown, not taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase

from django.db import connection
from django.db.models import Q
from django.utils.text import slugify

from desktops.core.cloud import TRIAL, Inventory, Server, ServerStatus, Volume
from desktops.models import Desktop, Drift, Flavor, InventorySync, Pool, Region

Place = tuple[str, str, str]  # kind, region, server id: what a drift is known by
ROWS_AT_ONCE = 500
CHANGES_SHOWN = timedelta(days=1)
NAME_LENGTH, DETAIL_LENGTH = 255, 300
LABEL_LENGTH = 120
KEY_LENGTH = 80
GB = 10**9

STATES = {
    ServerStatus.ACTIVE: Desktop.State.RUNNING,
    ServerStatus.MIGRATING: Desktop.State.RUNNING,
    ServerStatus.BUILD: Desktop.State.RUNNING,
    ServerStatus.SHUTOFF: Desktop.State.STOPPED,
    ServerStatus.SUSPENDED: Desktop.State.STOPPED,
    ServerStatus.ERROR: Desktop.State.STOPPED,
    # UNKNOWN says nothing: the row stays as it is.
}
ADOPTABLE = frozenset({ServerStatus.ACTIVE, ServerStatus.SHUTOFF, ServerStatus.SUSPENDED})


@dataclass(slots=True)
class Found:
    """What one pool's comparison came to.

    added : keys of new desktops
    drifts : what differs, place → name and detail
    """

    added: tuple[str, ...] = ()
    drifts: dict[Place, tuple[str, str]] = field(default_factory=dict)

    def add(self, kind: Drift.Kind, *, region: str, server_id: str, name: str, detail: str) -> None:
        place = (str(kind), region, server_id)
        self.drifts[place] = (name[:NAME_LENGTH], detail[:DETAIL_LENGTH])

    def names(self, kind: Drift.Kind) -> tuple[str, ...]:
        return tuple(name for place, (name, _) in self.drifts.items() if place[0] == kind)


@dataclass(frozen=True, slots=True)
class _UnderWay:
    """What moves between the listing and now is told by its transition alone.

    desktops : ids of desktops on the move, or that moved since the listing began
    servers : both halves of those moves
    keys : what the commands of those moves begin their keys with
    """

    desktops: frozenset[int]
    servers: frozenset[str]
    keys: tuple[str, ...]


def compare(
    *,
    cloud: str,
    pools: Sequence[Pool],
    listed: Sequence[Inventory],
    unlisted: Mapping[str, str],
    regions: Mapping[str, Region],
    flavors: Mapping[str, Flavor],
    began_at: datetime,
) -> dict[int, Found]:
    """Apply what the cloud lists to its pools' desktops; what differed, by pool.

    unlisted : region → why it could not be listed; nothing is said of what is there
    began_at : of the listing; what moved since then is older there than here
    """
    found = {pool.pk: Found() for pool in pools}
    held = _held(cloud)
    under_way = _under_way(began_at)
    by_server = {desktop.server_id: desktop for desktop in held}
    servers = {server.id: server for inventory in listed for server in inventory.servers}
    volumes = {volume.id: volume for inventory in listed for volume in inventory.volumes}
    seen_regions = {inventory.region for inventory in listed}
    changed = []
    for desktop in held:
        if desktop.pool_id not in found or desktop.pk in under_way.desktops:
            continue
        server, pool_found = servers.get(desktop.server_id), found[desktop.pool_id]
        if server is not None:
            is_changed = _follow(desktop, server, volumes, regions, flavors, pool_found)
        else:
            is_changed = _miss(desktop, seen_regions, pool_found)
        if is_changed:
            changed.append(desktop)
    _write_desktops(changed)
    strangers = [
        server
        for server in servers.values()
        if server.id not in by_server
        and server.id not in under_way.servers
        and not server.key.startswith((TRIAL, *under_way.keys))
    ]
    _receive(strangers, pools, volumes, regions, flavors, found)
    _tell_of_unlisted(held, listed, unlisted, found)
    return found


def write_drifts(
    sync: InventorySync,
    found: Mapping[Place, tuple[str, str]],
    *,
    unlisted: set[str],
    at: datetime,
) -> bool:
    """Replace a pool's drifts by what was found; says whether that is anything new.

    What stands keeps the time it was first seen. Nothing is known of unlisted regions: their
    drifts stand. A change was applied, and is shown for a day.
    """
    standing = {(d.kind, d.region, d.server_id): d for d in sync.drifts.all()}
    gone, new, reworded = [], [], []
    for place, drift in standing.items():
        is_replaced = place in found and drift.kind == Drift.Kind.CHANGED
        if is_replaced or (place not in found and not _stands(drift, unlisted, at)):
            gone.append(drift.pk)
    for place, (name, detail) in found.items():
        kind, region, server_id = place
        drift = standing.get(place)
        if drift is None or kind == Drift.Kind.CHANGED:
            drift = Drift(
                sync=sync, kind=kind, region=region, server_id=server_id, first_seen_at=at
            )
            new.append(drift)
        elif (drift.name, drift.detail) != (name, detail):
            reworded.append(drift)
        drift.name, drift.detail = name, detail
    Drift.objects.filter(pk__in=gone).delete()
    Drift.objects.bulk_create(new, batch_size=ROWS_AT_ONCE)
    Drift.objects.bulk_update(reworded, ("name", "detail"), batch_size=ROWS_AT_ONCE)
    # A reason in other words (a request's number in it) is no news.
    return bool(new or gone)


def _stands(drift: Drift, unlisted: set[str], at: datetime) -> bool:
    """Whether a drift that was not found again is to be shown all the same."""
    if drift.kind == Drift.Kind.CHANGED:
        return drift.first_seen_at > at - CHANGES_SHOWN
    return drift.kind != Drift.Kind.UNLISTED and drift.region in unlisted


def _held(cloud: str) -> list[Desktop]:
    """Every desktop on a server of the cloud, whoever's; locked until the tables agree."""
    return list(
        Desktop.objects.select_for_update(of=("self",))
        .filter(Q(region__cloud=cloud) | Q(region=None))
        .exclude(server_id="")
        .select_related("region", "flavor")
        .order_by("pk")
    )


def _write_desktops(desktops: Sequence[Desktop]) -> None:
    """In one statement: on a Monday morning this is the whole fleet."""
    columns = ("id", "state", "region_id", "flavor_id", "volume_id", "volume_bytes")
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE desktops_desktop d SET state = u.state, region_id = u.region_id,"
            " flavor_id = u.flavor_id, volume_id = u.volume_id, volume_bytes = u.volume_bytes"
            " FROM unnest(%s::bigint[], %s::text[], %s::bigint[], %s::bigint[], %s::text[],"
            f" %s::bigint[]) u ({', '.join(columns)}) WHERE d.id = u.id",
            [[getattr(desktop, column) for desktop in desktops] for column in columns],
        )


def _under_way(began_at: datetime) -> _UnderWay:
    # By name only: transitions are told of further up the house, and their rows reach down here.
    is_moving = Q(transitions__isnull=False) & (
        Q(transitions__finished_at__isnull=True) | Q(transitions__finished_at__gte=began_at)
    )
    moves = Desktop.objects.filter(is_moving).values_list(
        "pk",
        "transitions__source_server_id",
        "transitions__dest_server_id",
        "transitions__key",
    )
    moves = list(moves)
    moved = Desktop.objects.filter(moved_at__gte=began_at).values_list("pk", flat=True)
    return _UnderWay(
        desktops=frozenset(pk for pk, *_ in moves) | frozenset(moved),
        servers=frozenset(server for _, *servers, _ in moves for server in servers) - {""},
        keys=tuple(f"{key}:" for *_, key in moves),
    )


def _follow(
    desktop: Desktop,
    server: Server,
    volumes: Mapping[str, Volume],
    regions: Mapping[str, Region],
    flavors: Mapping[str, Flavor],
    found: Found,
) -> bool:
    """Bring one desktop's row in step, in memory; says whether that changed it."""
    differences = _apply(desktop, server, volumes, regions, flavors)
    if differences:
        found.add(
            Drift.Kind.CHANGED,
            region=server.region,
            server_id=server.id,
            name=desktop.label,
            detail="; ".join(differences),
        )
    return bool(differences)


def _miss(desktop: Desktop, listed: set[str], found: Found) -> bool:
    if desktop.region is None or desktop.region.name not in listed:
        return False
    found.add(
        Drift.Kind.VANISHED,
        region=desktop.region.name,
        server_id=desktop.server_id,
        name=desktop.label,
        detail="Its server is no longer listed. The desktop is kept, and counts as missing.",
    )
    was_missing = desktop.state == Desktop.State.MISSING
    desktop.state = Desktop.State.MISSING
    return not was_missing


def _apply(
    desktop: Desktop,
    server: Server,
    volumes: Mapping[str, Volume],
    regions: Mapping[str, Region],
    flavors: Mapping[str, Flavor],
) -> list[str]:
    """Write what the server is to its desktop's row, in memory; what differed, in words."""
    differences = []
    state = STATES.get(server.status, desktop.state)
    if state != desktop.state:
        differences.append(f"{desktop.state} → {state}")
        desktop.state = state
    region = regions[server.region]
    if region.pk != desktop.region_id:
        differences.append(f"region {desktop.region or 'none'} → {region}")
        desktop.region = region
    flavor = flavors.get(server.flavor)
    if flavor is not None and flavor.pk != desktop.flavor_id:
        differences.append(f"flavor {desktop.flavor or 'none'} → {flavor}")
        desktop.flavor = flavor
    volume_id = _root_volume(server, volumes, desktop.volume_id)
    if volume_id != desktop.volume_id:
        differences.append(f"volume {desktop.volume_id or 'none'} → {volume_id}")
        desktop.volume_id = volume_id
    volume = volumes.get(volume_id)
    if volume is not None and volume.size_bytes != desktop.volume_bytes:
        differences.append(f"volume {_size(desktop.volume_bytes)} → {_size(volume.size_bytes)}")
        desktop.volume_bytes = volume.size_bytes
    return differences


def _root_volume(server: Server, volumes: Mapping[str, Volume], known: str) -> str:
    """The known one while it is attached, else what the server may boot from, else the first."""
    attached = server.volume_ids
    if known in attached or not attached:
        return known
    bootable = (v for v in attached if v in volumes and volumes[v].is_bootable)
    return next(bootable, attached[0])


def _size(size_bytes: int) -> str:
    return f"{size_bytes / GB:,.4g} GB"


def _receive(
    strangers: Iterable[Server],
    pools: Sequence[Pool],
    volumes: Mapping[str, Volume],
    regions: Mapping[str, Region],
    flavors: Mapping[str, Flavor],
    found: Mapping[int, Found],
) -> None:
    """Servers that are no desktop yet become one, where it is clear whose."""
    added: dict[int, list[Desktop]] = {pool.pk: [] for pool in pools}
    for server in strangers:
        if server.status is ServerStatus.BUILD:
            continue  # Not a server yet; it is looked at when it is one.
        fitting = [pool for pool in pools if fnmatchcase(server.name, pool.server_names)]
        doubt = _doubt(server, fitting)
        if not doubt:
            (pool,) = fitting
            added[pool.pk].append(_new_desktop(pool, server, volumes, regions, flavors))
            continue
        for pool in fitting or pools:
            found[pool.pk].add(
                Drift.Kind.UNKNOWN,
                region=server.region,
                server_id=server.id,
                name=server.name,
                detail=doubt,
            )
    for pool in pools:
        Desktop.objects.bulk_create(added[pool.pk], batch_size=ROWS_AT_ONCE, ignore_conflicts=True)
        found[pool.pk].added = tuple(desktop.key for desktop in added[pool.pk])


def _doubt(server: Server, fitting: Sequence[Pool]) -> str:
    """Why it is not taken for a desktop of a pool; "" where it is."""
    if server.key:
        return "Made by Foredesk, but of no desktop and no running move: probably left over."
    if not fitting:
        return "Its name fits no pool's pattern."
    if len(fitting) > 1:
        return f"Its name fits several pools: {', '.join(pool.name for pool in fitting)}."
    if server.status not in ADOPTABLE:
        return f"Its status is {server.status}: {server.fault or 'no reason given'}."
    return ""


def _new_desktop(
    pool: Pool,
    server: Server,
    volumes: Mapping[str, Volume],
    regions: Mapping[str, Region],
    flavors: Mapping[str, Flavor],
) -> Desktop:
    volume_id = _root_volume(server, volumes, "")
    return Desktop(
        dataset=pool.dataset,
        pool=pool,
        # Not of the server's name: that may be a person's, and keys stand in events for ever.
        key=slugify(f"server-{server.id}")[:KEY_LENGTH],
        label=server.name[:LABEL_LENGTH],
        region=regions[server.region],
        flavor=flavors.get(server.flavor),
        server_id=server.id,
        volume_id=volume_id,
        volume_bytes=volumes[volume_id].size_bytes if volume_id in volumes else 0,
        state=STATES[server.status],
    )


def _tell_of_unlisted(
    held: Iterable[Desktop],
    listed: Sequence[Inventory],
    unlisted: Mapping[str, str],
    found: Mapping[int, Found],
) -> None:
    for pool_found in found.values():
        for region, reason in unlisted.items():
            pool_found.add(
                Drift.Kind.UNLISTED, region=region, server_id="", name=region, detail=reason
            )
    named = {inventory.region for inventory in listed} | set(unlisted)
    for desktop in held:
        if desktop.pool_id in found and desktop.region and desktop.region.name not in named:
            found[desktop.pool_id].add(
                Drift.Kind.UNLISTED,
                region=desktop.region.name,
                server_id="",
                name=desktop.region.name,
                detail="The cloud names this region no more; its desktops are kept as they were.",
            )
