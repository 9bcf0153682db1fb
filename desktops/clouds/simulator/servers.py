"""Servers, with Nova's states: `status`, and `task` while a request is under way.

A failed boot leaves the server in ERROR with its volume attached; only deleting it helps.
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from desktops.clouds.simulator import sessions, timing
from desktops.clouds.simulator.content import begin_run, end_run
from desktops.clouds.simulator.errors import BadRequest
from desktops.clouds.simulator.faults import effect_fault
from desktops.clouds.simulator.moment import Moment
from desktops.clouds.simulator.quota import need_quota
from desktops.clouds.simulator.volumes import get_volume, image_size, need_settled, set_status
from desktops.core.cloud import Conflict, NotFound, ServerStatus, VolumeStatus

DESKTOP = "foredesk:desktop"  # metadata that names the desktop a server is a copy of


def view(row: sqlite3.Row, volume_ids: list[str]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "region": row["region"],
        "name": row["name"],
        "status": row["status"],
        "is_busy": row["task"] != "",
        "is_fenced": bool(row["is_fenced"]),
        "flavor": row["flavor"],
        "volume_ids": volume_ids,
        "host": row["host"],
        "key": row["key"],
        "fault": row["fault"],
        "addresses": [row["address"]],
    }


def server(m: Moment, *, region: str, server_id: str) -> Any:
    return _observed(m, get_server(m, region, server_id))


def find_server(m: Moment, *, region: str, key: str) -> Any:
    m.region(region)
    row = _by_key(m, region, key)
    return None if row is None else _observed(m, row)


def create_server(
    m: Moment,
    *,
    region: str,
    key: str,
    name: str,
    flavor: str,
    boot_volume_id: str | None = None,
    image: str | None = None,
    network: str | None = None,
    is_fenced: bool = False,
    metadata: dict | None = None,  # type: ignore[type-arg]  # checked at run time
) -> Any:
    m.region(region)
    existing = _by_key(m, region, key)
    if existing is not None:
        return _observed(m, existing)
    if not key:
        raise BadRequest("a server needs a key")
    if (boot_volume_id is None) == (image is None):
        raise BadRequest("a server boots from a volume or from an image")
    size = m.world.flavors.get(flavor)
    if size is None or region not in size.price_per_hour_micros:
        raise NotFound(f"no flavor {flavor!r} in {region}")
    if image is not None:
        image_size(m, region, image)
    if boot_volume_id is not None:
        _need_bootable(get_volume(m, region, boot_volume_id))
    need_quota(m, region, servers=1, vcpus=size.vcpus, memory_bytes=size.memory_bytes)
    server_id = insert_server(
        m,
        region=region,
        key=key,
        name=name,
        flavor=flavor,
        is_fenced=is_fenced,
        metadata=metadata or {},
    )
    if boot_volume_id is not None:
        attach(m, boot_volume_id, server_id, VolumeStatus.BUSY)
    _power_up(m, server_id, region, "boot")
    return server(m, region=region, server_id=server_id)


def insert_server(
    m: Moment,
    *,
    region: str,
    key: str,
    name: str,
    flavor: str,
    is_fenced: bool,
    metadata: dict[str, str],
) -> str:
    random = m.random()
    server_id = m.new_id()
    octets = random.randrange(256), random.randrange(1, 255)
    m.insert(
        "servers",
        id=server_id,
        region=region,
        key=key,
        name=name,
        status=ServerStatus.BUILD,
        task="spawning",
        is_fenced=is_fenced,
        flavor=flavor,
        host=random.choice(hosts(m, region)),
        address=f"10.{sorted(m.world.regions).index(region) % 256}.{octets[0]}.{octets[1]}",
        desktop_key=metadata.get(DESKTOP, ""),
        metadata=json.dumps(metadata),
    )
    note(m, server_id, "server.building", key=key)
    return server_id


def start_server(m: Moment, *, region: str, server_id: str) -> Any:
    row = get_server(m, region, server_id)
    if row["task"] == "powering-on" or _is(row, ServerStatus.ACTIVE):
        return None
    if not _is(row, ServerStatus.SHUTOFF):
        raise _conflict(row, "started")
    m.do("UPDATE servers SET task = 'powering-on' WHERE id = ?", server_id)
    note(m, server_id, "server.starting")
    _power_up(m, server_id, region, "start")
    return None


def stop_server(m: Moment, *, region: str, server_id: str) -> Any:
    row = get_server(m, region, server_id)
    if row["task"] == "powering-off" or _is(row, ServerStatus.SHUTOFF):
        return None
    if not _is(row, ServerStatus.ACTIVE):
        raise _conflict(row, "stopped")
    m.do("UPDATE servers SET task = 'powering-off' WHERE id = ?", server_id)
    note(m, server_id, "server.stopping")
    m.schedule("server_stopped", server_id, after_ms=m.duration_ms("stop"))
    return None


def delete_server(m: Moment, *, region: str, server_id: str) -> Any:
    m.region(region)
    row = _by_id(m, region, server_id)
    if row is None or row["task"] == "deleting":
        return None
    m.do("UPDATE servers SET task = 'deleting' WHERE id = ?", server_id)
    for kind in ("server_up", "server_stopped", "server_migrated"):
        m.unschedule(kind, server_id)
    note(m, server_id, "server.deleting")
    m.schedule("server_deleted", server_id, after_ms=m.duration_ms("delete_server"))
    return None


def fence_server(m: Moment, *, region: str, server_id: str) -> Any:
    _set_fence(m, region, server_id, True)


def unfence_server(m: Moment, *, region: str, server_id: str) -> Any:
    _set_fence(m, region, server_id, False)


def live_migrate(m: Moment, *, region: str, server_id: str, key: str) -> Any:
    m.region(region)
    row = _migration(m, region, key)
    if row is None:
        _begin_live_migration(m, get_server(m, region, server_id), key)
        row = _migration(m, region, key)
        assert row is not None
    return {"key": key, "state": row["state"], "detail": row["detail"]}


def _begin_live_migration(m: Moment, row: sqlite3.Row, key: str) -> None:
    if not key:
        raise BadRequest("a live migration needs a key")
    if not _is(row, ServerStatus.ACTIVE):
        raise _conflict(row, "live-migrated")
    others = [host for host in hosts(m, row["region"]) if host != row["host"]]
    if not others:
        raise Conflict(f"no other host in {row['region']} for server {row['id']}")
    memory_bytes = m.world.flavors[row["flavor"]].memory_bytes
    m.insert(
        "live_migrations",
        region=row["region"],
        key=key,
        id=m.new_id(),
        server_id=row["id"],
        dest_host=m.random().choice(others),
        state="running",
    )
    m.do(
        "UPDATE servers SET status = ?, task = 'migrating' WHERE id = ?",
        ServerStatus.MIGRATING,
        row["id"],
    )
    note(m, row["id"], "server.migrating", host=row["host"])
    m.schedule(
        "server_migrated",
        row["id"],
        after_ms=m.duration_ms("live_migration")
        + timing.sending_ms(memory_bytes, timing.HOST_TO_HOST_BYTES_PER_S),
    )


# Agenda: what happens to servers by itself.


def server_up(m: Moment, server_id: str) -> None:
    row = m.rows("SELECT * FROM servers WHERE id = ?", server_id)[0]
    if effect_fault(m, "boot_error", row["region"]) is not None:
        _set(m, server_id, ServerStatus.ERROR, fault="the hypervisor failed to start the guest")
        _settle_volumes(m, server_id)
        note(m, server_id, "server.error")
        return
    _set(m, server_id, ServerStatus.ACTIVE)
    _settle_volumes(m, server_id)
    for volume in _volumes(m, server_id):
        begin_run(m, volume)
    note(m, server_id, "server.active")


def server_stopped(m: Moment, server_id: str) -> None:
    _end_runs(m, server_id)
    _set(m, server_id, ServerStatus.SHUTOFF)
    note(m, server_id, "server.shutoff")


def server_deleted(m: Moment, server_id: str) -> None:
    _end_runs(m, server_id)
    row = m.rows("SELECT * FROM servers WHERE id = ?", server_id)[0]
    for volume in _volumes(m, server_id):
        m.do("UPDATE volumes SET attached_to = NULL WHERE id = ?", volume["id"])
        set_status(m, volume["id"], VolumeStatus.AVAILABLE)
    m.do(
        "UPDATE live_migrations SET state = 'failed', detail = 'the server was deleted'"
        " WHERE server_id = ? AND state = 'running'",
        server_id,
    )
    m.do("DELETE FROM servers WHERE id = ?", server_id)
    _note(m, row, "server.deleted")


def server_migrated(m: Moment, server_id: str) -> None:
    migration = m.rows(
        "SELECT * FROM live_migrations WHERE server_id = ? AND state = 'running'", server_id
    )[0]
    row = m.rows("SELECT * FROM servers WHERE id = ?", server_id)[0]
    has_failed = effect_fault(m, "live_migration_fails", row["region"]) is not None
    if not has_failed:
        m.do("UPDATE servers SET host = ? WHERE id = ?", migration["dest_host"], server_id)
    _set(m, server_id, ServerStatus.ACTIVE)
    note(m, server_id, "server.not_migrated" if has_failed else "server.migrated")
    if has_failed:
        m.do(
            "UPDATE live_migrations SET detail = 'the guest did not converge' WHERE id = ?",
            migration["id"],
        )
    # Nova's record lags behind the server: ACTIVE on the new host is seen first.
    m.schedule(
        "live_migration_ended",
        migration["id"],
        after_ms=m.duration_ms("live_migration_record"),
    )


def live_migration_ended(m: Moment, migration_id: str) -> None:
    m.do(
        "UPDATE live_migrations SET state = iif(detail = '', 'done', 'failed') WHERE id = ?",
        migration_id,
    )


# Shared with adoption.


def attach(m: Moment, volume_id: str, server_id: str, status: VolumeStatus) -> None:
    m.do("UPDATE volumes SET attached_to = ? WHERE id = ?", server_id, volume_id)
    set_status(m, volume_id, status)


def note(m: Moment, server_id: str, kind: str, **detail: Any) -> None:
    """Record a change of a server, with what it means for sessions, and tell the sessions."""
    _note(m, m.rows("SELECT * FROM servers WHERE id = ?", server_id)[0], kind, **detail)


def _note(m: Moment, row: sqlite3.Row, kind: str, **detail: Any) -> None:
    accepting = None
    if row["desktop_key"]:
        accepting = [
            found["id"]
            for found in m.rows(
                f"SELECT id FROM servers WHERE desktop_key = ? AND {sessions.REACHABLE}",
                row["desktop_key"],
            )
        ]
    m.record(
        kind,
        region=row["region"],
        resource_id=row["id"],
        desktop_key=row["desktop_key"],
        accepting=accepting,
        **detail,
    )
    sessions.server_changed(m, row["id"])


def get_server(m: Moment, region: str, server_id: str) -> sqlite3.Row:
    m.region(region)
    row = _by_id(m, region, server_id)
    if row is None:
        raise NotFound(f"no server {server_id} in {region}")
    return row


def _power_up(m: Moment, server_id: str, region: str, how: str) -> None:
    slower_by_s = effect_fault(m, "slow_boot", region) or 0
    m.schedule("server_up", server_id, after_ms=m.duration_ms(how) + round(1000 * slower_by_s))


def _set_fence(m: Moment, region: str, server_id: str, is_fenced: bool) -> None:
    row = get_server(m, region, server_id)
    if bool(row["is_fenced"]) != is_fenced:
        m.do("UPDATE servers SET is_fenced = ? WHERE id = ?", is_fenced, server_id)
        note(m, server_id, "server.fenced" if is_fenced else "server.unfenced")


def _set(m: Moment, server_id: str, status: ServerStatus, *, fault: str = "") -> None:
    m.do(
        "UPDATE servers SET status = ?, task = '', fault = ? WHERE id = ?",
        status,
        fault,
        server_id,
    )


def _settle_volumes(m: Moment, server_id: str) -> None:
    for volume in _volumes(m, server_id):
        if volume["status"] == VolumeStatus.BUSY:
            set_status(m, volume["id"], VolumeStatus.IN_USE)


def _end_runs(m: Moment, server_id: str) -> None:
    for volume in _volumes(m, server_id):
        if volume["run_id"] is not None:
            end_run(m, volume)


def _need_bootable(volume: sqlite3.Row) -> None:
    need_settled(volume)
    if volume["attached_to"] is not None:
        raise Conflict(f"volume {volume['id']} is in use by server {volume['attached_to']}")
    if not volume["is_bootable"]:
        raise BadRequest(f"volume {volume['id']} is not bootable")


def _observed(m: Moment, row: sqlite3.Row) -> dict[str, Any]:
    return view(row, [volume["id"] for volume in _volumes(m, row["id"])])


def _volumes(m: Moment, server_id: str) -> list[sqlite3.Row]:
    return m.rows("SELECT * FROM volumes WHERE attached_to = ? ORDER BY id", server_id)


def _by_id(m: Moment, region: str, server_id: str) -> sqlite3.Row | None:
    return m.row("SELECT * FROM servers WHERE id = ? AND region = ?", server_id, region)


def _by_key(m: Moment, region: str, key: str) -> sqlite3.Row | None:
    return m.row("SELECT * FROM servers WHERE region = ? AND key = ? AND key <> ''", region, key)


def _migration(m: Moment, region: str, key: str) -> sqlite3.Row | None:
    return m.row("SELECT * FROM live_migrations WHERE region = ? AND key = ?", region, key)


def hosts(m: Moment, region: str) -> list[str]:
    return [f"{region}-host-{n + 1}" for n in range(m.region(region).hosts)]


def _is(row: sqlite3.Row, status: ServerStatus) -> bool:
    return bool(row["status"] == status and row["task"] == "")


def _conflict(row: sqlite3.Row, participle: str) -> Conflict:
    state = row["status"] + (f" ({row['task']})" if row["task"] else "")
    return Conflict(f"server {row['id']} cannot be {participle} while it is {state}")
