"""Volumes and snapshots, with Cinder's states."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from desktops.clouds.simulator import files, timing
from desktops.clouds.simulator.content import (
    content_now,
    history,
    keep_content,
    new_content,
    stored,
)
from desktops.clouds.simulator.errors import BadRequest
from desktops.clouds.simulator.moment import Moment
from desktops.clouds.simulator.quota import need_quota
from desktops.core.cloud import Conflict, NotFound, VolumeStatus

# A knowledge worker's desktop: half a megabyte a second at first, a working set of 3 GB.
DIRTY_BYTES_PER_S = 500_000
DIRTY_SATURATION_BYTES = 3_000_000_000


def view(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "id": row["id"],
        "region": row["region"],
        "name": row["name"],
        "status": row["status"],
        "size_bytes": row["size_bytes"],
        "attached_to": row["attached_to"],
        "key": row["key"],
        "is_bootable": bool(row["is_bootable"]),
    }


def snapshot_view(row: sqlite3.Row) -> dict[str, Any]:
    names = ("id", "region", "volume_id", "status", "size_bytes", "key")
    return {name: row[name] for name in names}


def volume(m: Moment, *, region: str, volume_id: str) -> Any:
    return view(get_volume(m, region, volume_id))


def find_volume(m: Moment, *, region: str, key: str) -> Any:
    m.region(region)
    row = _by_key(m, region, key)
    return None if row is None else view(row)


def create_volume(
    m: Moment,
    *,
    region: str,
    key: str,
    name: str,
    size_bytes: int,
    image: str | None = None,
    snapshot_id: str | None = None,
) -> Any:
    m.region(region)
    existing = _by_key(m, region, key)
    if existing is not None:
        return view(existing)
    if not key or size_bytes < 1:
        raise BadRequest("a volume needs a key and a size")
    if image is not None and snapshot_id is not None:
        raise BadRequest("a volume comes from an image or from a snapshot, not from both")
    duration_ms = m.duration_ms("create_volume")
    if image is not None:
        image_bytes = image_size(m, region, image)
        _need_room(size_bytes, image_bytes, f"image {image}")
        duration_ms += timing.sending_ms(image_bytes, timing.IMAGE_TO_VOLUME_BYTES_PER_S)
        values: dict[str, Any] = {
            "image": image,
            "used_bytes": image_bytes,
            "is_bootable": 1,
            "content": new_content(m, f"image/{image}"),
        }
    elif snapshot_id is not None:
        values = _from_snapshot(m, region, snapshot_id, size_bytes)
    else:
        values = {"content": new_content(m, "blank")}
    need_quota(m, region, volume_bytes=size_bytes)
    volume_id = insert_volume(m, region=region, key=key, name=name, size_bytes=size_bytes, **values)
    m.schedule("volume_created", volume_id, after_ms=duration_ms)
    return volume(m, region=region, volume_id=volume_id)


def _from_snapshot(m: Moment, region: str, snapshot_id: str, size_bytes: int) -> dict[str, Any]:
    snapshot = m.row("SELECT * FROM snapshots WHERE id = ? AND region = ?", snapshot_id, region)
    if snapshot is None:
        raise NotFound(f"no snapshot {snapshot_id} in {region}")
    if snapshot["status"] != VolumeStatus.AVAILABLE:
        raise Conflict(f"snapshot {snapshot_id} is {snapshot['status']}")
    _need_room(size_bytes, snapshot["size_bytes"], f"snapshot {snapshot_id}")
    # A volume cannot be deleted while it has snapshots, so the origin is there.
    origin = get_volume(m, region, snapshot["volume_id"])
    return inherited(origin) | {"content": snapshot["content"]}


def inherited(origin: sqlite3.Row) -> dict[str, Any]:
    """What a copy of a volume has in common with it, besides its content."""
    names = (
        "image", "used_bytes", "is_bootable", "dirty_bytes_per_s", "dirty_saturation_bytes"
    )  # fmt: skip
    return {name: origin[name] for name in names}


def insert_volume(
    m: Moment, *, region: str, key: str, name: str, size_bytes: int, **values: Any
) -> str:
    volume_id = m.new_id()
    m.insert(
        "volumes",
        **{
            "id": volume_id,
            "region": region,
            "key": key,
            "name": name,
            "size_bytes": size_bytes,
            "status": VolumeStatus.CREATING,
            "used_bytes": 0,
            "image": "",
            "is_bootable": 0,
            "dirty_bytes_per_s": DIRTY_BYTES_PER_S,
            "dirty_saturation_bytes": DIRTY_SATURATION_BYTES,
        }
        | values,
    )
    m.record("volume.creating", region=region, resource_id=volume_id, key=key)
    return volume_id


def volume_created(m: Moment, volume_id: str) -> None:
    """Agenda."""
    set_status(m, volume_id, VolumeStatus.AVAILABLE)


def delete_volume(m: Moment, *, region: str, volume_id: str) -> Any:
    m.region(region)
    row = m.row("SELECT * FROM volumes WHERE id = ? AND region = ?", volume_id, region)
    if row is None or is_scheduled(m, "volume_deleted", volume_id):
        return None
    need_unused(m, row)
    set_status(m, volume_id, VolumeStatus.BUSY)
    m.schedule("volume_deleted", volume_id, after_ms=m.duration_ms("delete_volume"))
    return None


def volume_deleted(m: Moment, volume_id: str) -> None:
    """Agenda. The finished passes that made or refreshed the volume go with it, so that asking
    for such a pass again makes a new one instead of reporting a volume that is gone."""
    row = m.rows("SELECT * FROM volumes WHERE id = ?", volume_id)[0]
    m.do("DELETE FROM transfers WHERE dest_id = ?", volume_id)
    m.do("DELETE FROM volumes WHERE id = ?", volume_id)
    files.drop(files.place_of_volume(m, volume_id))
    m.record("volume.deleted", region=row["region"], resource_id=volume_id)


def find_snapshot(m: Moment, *, region: str, key: str) -> Any:
    m.region(region)
    row = _snapshot_by_key(m, region, key)
    return None if row is None else snapshot_view(row)


def _snapshot_by_key(m: Moment, region: str, key: str) -> Any:
    return m.row("SELECT * FROM snapshots WHERE region = ? AND key = ?", region, key)


def snapshot_volume(m: Moment, *, region: str, volume_id: str, key: str) -> Any:
    m.region(region)
    existing = _snapshot_by_key(m, region, key)
    if existing is not None:
        return snapshot_view(existing)
    row = get_volume(m, region, volume_id)
    need_settled(row)
    snapshot_id = m.new_id()
    m.insert(
        "snapshots",
        id=snapshot_id,
        region=region,
        volume_id=volume_id,
        key=key,
        status=VolumeStatus.CREATING,
        size_bytes=row["size_bytes"],
        content=keep_content(m, row),
    )
    m.schedule("snapshot_created", snapshot_id, after_ms=m.duration_ms("snapshot"))
    m.record("snapshot.creating", region=region, resource_id=snapshot_id, volume_id=volume_id)
    return snapshot_view(m.rows("SELECT * FROM snapshots WHERE id = ?", snapshot_id)[0])


def snapshot_created(m: Moment, snapshot_id: str) -> None:
    """Agenda."""
    m.do("UPDATE snapshots SET status = ? WHERE id = ?", VolumeStatus.AVAILABLE, snapshot_id)


def volume_place(m: Moment, *, region: str, volume_id: str) -> Any:
    """A file that holds what a volume does whose server, if it has one, is stopped."""
    row = get_volume(m, region, volume_id)
    need_settled(row)
    if row["run_id"] is not None:
        raise Conflict(f"volume {volume_id} is being written by a running server")
    return _place(m, files.place_of_volume(m, volume_id), row, row["content"])


def snapshot_place(m: Moment, *, region: str, snapshot_id: str) -> Any:
    snapshot = m.row("SELECT * FROM snapshots WHERE id = ? AND region = ?", snapshot_id, region)
    if snapshot is None:
        raise NotFound(f"no snapshot {snapshot_id} in {region}")
    if snapshot["status"] != VolumeStatus.AVAILABLE:
        raise Conflict(f"snapshot {snapshot_id} is {snapshot['status']}")
    origin = get_volume(m, region, snapshot["volume_id"])
    return _place(m, files.place_of_snapshot(m, snapshot_id), origin, snapshot["content"])


def _place(m: Moment, path: Path, volume: sqlite3.Row, version: str) -> str:
    # Where the image has gone since, it was as large as anywhere else.
    image = m.row("SELECT max(size_bytes) AS n FROM images WHERE name = ?", volume["image"])
    image_bytes = (image["n"] if image else 0) or 0
    files.make(m, path, volume, stored(m, version), image_bytes)
    return str(path)


def receive_volume(
    m: Moment, *, source_region: str, volume_id: str, dest_region: str, key: str
) -> Any:
    """A volume like another region's, with nothing in it yet."""
    m.region(dest_region)
    existing = _by_key(m, dest_region, key)
    if existing is not None:
        return view(existing)
    if not key:
        raise BadRequest("a volume needs a key")
    source = get_volume(m, source_region, volume_id)
    need_quota(m, dest_region, volume_bytes=source["size_bytes"])
    made = insert_volume(
        m,
        region=dest_region,
        key=key,
        name=source["name"],
        size_bytes=source["size_bytes"],
        **inherited(source) | {"content": new_content(m, "blank")},
    )
    m.schedule("volume_created", made, after_ms=m.duration_ms("create_volume"))
    return volume(m, region=dest_region, volume_id=made)


def delete_snapshot(m: Moment, *, region: str, snapshot_id: str) -> Any:
    m.region(region)
    row = m.row("SELECT * FROM snapshots WHERE id = ? AND region = ?", snapshot_id, region)
    if row is None:
        return None
    if row["status"] == VolumeStatus.CREATING:
        raise Conflict(f"snapshot {snapshot_id} is being created")
    m.do("DELETE FROM snapshots WHERE id = ?", snapshot_id)
    files.drop(files.place_of_snapshot(m, snapshot_id))
    m.record("snapshot.deleted", region=region, resource_id=snapshot_id)
    return None


def content(m: Moment, *, region: str, volume_id: str) -> Any:
    """What a volume holds, for tests that must prove that nothing was lost (content.py)."""
    row = get_volume(m, region, volume_id)
    now = content_now(m, row)
    return {
        "content_version": now.version,
        "ancestors": [c.version for c in history(m, now)][1:],
        "written_bytes": row["dirty_bytes_per_s"] * now.run_ms // 1000,
        "is_being_written": row["run_id"] is not None,
    }


# Shared with servers and transfers.


def get_volume(m: Moment, region: str, volume_id: str) -> sqlite3.Row:
    m.region(region)
    row = m.row("SELECT * FROM volumes WHERE id = ? AND region = ?", volume_id, region)
    if row is None:
        raise NotFound(f"no volume {volume_id} in {region}")
    if row["attached_to"] is None and (held := files.settled(m, row)) != row["content"]:
        m.do("UPDATE volumes SET content = ? WHERE id = ?", held, volume_id)
        return m.rows("SELECT * FROM volumes WHERE id = ?", volume_id)[0]
    return row


def set_status(m: Moment, volume_id: str, status: VolumeStatus) -> None:
    m.do("UPDATE volumes SET status = ? WHERE id = ?", status, volume_id)
    row = m.rows("SELECT region FROM volumes WHERE id = ?", volume_id)[0]
    m.record(f"volume.{status}", region=row["region"], resource_id=volume_id)


def need_settled(row: sqlite3.Row) -> None:
    if row["status"] not in (VolumeStatus.AVAILABLE, VolumeStatus.IN_USE):
        raise Conflict(f"volume {row['id']} is {row['status']}")


def need_unused(m: Moment, row: sqlite3.Row) -> None:
    """Raise Conflict unless nothing holds on to the volume, so that it may go."""
    volume_id = row["id"]
    if row["attached_to"] is not None:
        raise Conflict(f"volume {volume_id} is in use by server {row['attached_to']}")
    if row["status"] not in (VolumeStatus.AVAILABLE, VolumeStatus.ERROR):
        raise Conflict(f"volume {volume_id} is {row['status']}")
    if m.row("SELECT 1 FROM snapshots WHERE volume_id = ?", volume_id):
        raise Conflict(f"volume {volume_id} has snapshots")
    if m.row("SELECT 1 FROM transfers WHERE source_id = ? AND state = 'running'", volume_id):
        raise Conflict(f"volume {volume_id} is being copied")


def image_size(m: Moment, region: str, image: str) -> int:
    row = m.row("SELECT size_bytes FROM images WHERE region = ? AND name = ?", region, image)
    if row is None:
        raise NotFound(f"no image {image!r} in {region}")
    size: int = row["size_bytes"]
    return size


def is_scheduled(m: Moment, kind: str, subject: str) -> bool:
    return bool(m.row("SELECT 1 FROM agenda WHERE kind = ? AND subject = ?", kind, subject))


def _by_key(m: Moment, region: str, key: str) -> sqlite3.Row | None:
    return m.row("SELECT * FROM volumes WHERE region = ? AND key = ? AND key <> ''", region, key)


def _need_room(size_bytes: int, needed_bytes: int, what: str) -> None:
    if size_bytes < needed_bytes:
        raise BadRequest(f"{what} needs {needed_bytes} bytes, the volume has {size_bytes}")
