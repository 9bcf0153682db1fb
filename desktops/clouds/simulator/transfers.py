"""Copies between regions: passes of volumes, and images.

A pass takes the source's content at the instant it was asked for (its recovery point), compares,
sends over the link, and is applied to the destination in one piece at its end: until then an
incremental pass leaves its base at the earlier recovery point. What is under way on one link
shares its bandwidth evenly. A failed pass stays failed under its key until it is abandoned.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from desktops.clouds.simulator import timing
from desktops.clouds.simulator.content import differing_bytes, keep_content, written_over_bytes
from desktops.clouds.simulator.errors import BadRequest
from desktops.clouds.simulator.faults import effect_fault
from desktops.clouds.simulator.moment import Moment
from desktops.clouds.simulator.quota import need_quota
from desktops.clouds.simulator.volumes import (
    get_volume,
    image_size,
    inherited,
    insert_volume,
    need_settled,
    need_unused,
    set_status,
)
from desktops.core.cloud import Conflict, JobState, VolumeStatus

VOLUME, IMAGE = "volume", "image"


def copy_volume(
    m: Moment,
    *,
    source_region: str,
    volume_id: str,
    dest_region: str,
    key: str,
    base_volume_id: str | None = None,
) -> Any:
    _need_two_regions(m, source_region, dest_region)
    row = _find(m, VOLUME, dest_region, key)
    if row is None:
        _begin_pass(m, source_region, volume_id, dest_region, key, base_volume_id)
        row = _find(m, VOLUME, dest_region, key)
        assert row is not None
    return {
        "key": key,
        "state": row["state"],
        "bytes_done": _bytes_done(m, row),
        "bytes_total": row["bytes_total"],
        "volume_id": row["dest_id"],
        "detail": row["detail"],
    }


def _begin_pass(
    m: Moment,
    source_region: str,
    volume_id: str,
    dest_region: str,
    key: str,
    base_volume_id: str | None,
) -> None:
    if not key:
        raise BadRequest("a pass needs a key")
    source = get_volume(m, source_region, volume_id)
    need_settled(source)
    if base_volume_id is None:
        if m.row("SELECT 1 FROM volumes WHERE region = ? AND key = ?", dest_region, key):
            raise Conflict(f"a volume of {dest_region} that is no copy has the key {key!r}")
        need_quota(m, dest_region, volume_bytes=source["size_bytes"])
        dest_id = insert_volume(
            m,
            region=dest_region,
            key=key,
            name=source["name"],
            size_bytes=source["size_bytes"],
            content=source["content"],  # until the pass is applied nobody can read the volume
            **inherited(source),
        )
    else:
        dest_id = base_volume_id
        _need_writable_base(m, dest_region, base_volume_id)
        set_status(m, dest_id, VolumeStatus.BUSY)
    _begin(
        m,
        VOLUME,
        key,
        source_region,
        dest_region,
        source_id=volume_id,
        dest_id=dest_id,
        is_incremental=base_volume_id is not None,
        content=keep_content(m, source),
    )


def _need_writable_base(m: Moment, region: str, volume_id: str) -> None:
    base = get_volume(m, region, volume_id)
    if base["attached_to"] is not None:
        raise Conflict(f"volume {volume_id} is in use by server {base['attached_to']}")
    need_settled(base)


def copy_image(m: Moment, *, image: str, source_region: str, dest_region: str, key: str) -> Any:
    _need_two_regions(m, source_region, dest_region)
    row = _find(m, IMAGE, dest_region, key)
    if row is None:
        if m.row("SELECT 1 FROM images WHERE region = ? AND name = ?", dest_region, image):
            return {"key": key, "state": JobState.DONE, "detail": "it was there already"}
        # Two keys for one image: the second caller watches the first one's copy.
        row = m.row(
            "SELECT * FROM transfers WHERE kind = ? AND dest_region = ? AND source_id = ?"
            " AND state = ?",
            IMAGE,
            dest_region,
            image,
            JobState.RUNNING,
        )
    if row is None:
        image_size(m, source_region, image)
        _begin(m, IMAGE, key, source_region, dest_region, source_id=image)
        row = _find(m, IMAGE, dest_region, key)
        assert row is not None
    return {"key": key, "state": row["state"], "detail": row["detail"]}


def abandon_copy(m: Moment, *, dest_region: str, source_region: str, key: str) -> Any:
    _need_two_regions(m, source_region, dest_region)
    row = _find(m, VOLUME, dest_region, key)
    if row is None:
        return None
    _leave_link(m, row)
    for kind in ("transfer_setup", "transfer_sent", "transfer_done"):
        m.unschedule(kind, row["id"])
    m.do("DELETE FROM transfers WHERE id = ?", row["id"])
    if row["is_incremental"]:
        if row["state"] == JobState.RUNNING:
            set_status(m, row["dest_id"], VolumeStatus.AVAILABLE)
    else:
        _remove_made(m, row["dest_id"], row["state"])
    _record(m, row, "copy.abandoned")
    return None


def _remove_made(m: Moment, volume_id: str, state: str) -> None:
    made = m.rows("SELECT * FROM volumes WHERE id = ?", volume_id)[0]
    if state != JobState.RUNNING:
        need_unused(m, made)
    m.do("DELETE FROM transfers WHERE dest_id = ?", volume_id)
    m.do("DELETE FROM volumes WHERE id = ?", volume_id)
    m.record("volume.deleted", region=made["region"], resource_id=volume_id)


# Agenda: the phases of a transfer.


def transfer_setup(m: Moment, transfer_id: str) -> None:
    row = _get(m, transfer_id)
    total = _bytes_to_send(m, row)
    failing_ratio = effect_fault(m, "copy_fails", row["dest_region"])
    fails_at = None if failing_ratio is None else int(total * failing_ratio)
    m.do(
        "UPDATE transfers SET phase = 'sending', bytes_total = ?, fails_at_bytes = ?,"
        " rated_ms = ? WHERE id = ?",
        total,
        fails_at,
        m.at_ms,
        transfer_id,
    )
    _share_link(m, row["source_region"], row["dest_region"])


def transfer_sent(m: Moment, transfer_id: str) -> None:
    row = _get(m, transfer_id)
    has_failed = row["fails_at_bytes"] is not None
    m.do(
        "UPDATE transfers SET bytes_done = ? WHERE id = ?",
        row["fails_at_bytes"] if has_failed else row["bytes_total"],
        transfer_id,
    )
    if has_failed:
        _fail(m, row)
    else:
        m.do("UPDATE transfers SET phase = 'finishing' WHERE id = ?", transfer_id)
        m.schedule("transfer_done", transfer_id, after_ms=m.duration_ms("copy_finish"))
        _record(m, row, "copy.sent")
    _share_link(m, row["source_region"], row["dest_region"])


def transfer_done(m: Moment, transfer_id: str) -> None:
    row = _get(m, transfer_id)
    if row["kind"] == IMAGE:
        m.do(
            "INSERT OR IGNORE INTO images VALUES (?, ?, ?)",
            row["dest_region"],
            row["source_id"],
            row["bytes_total"],
        )
    else:
        _apply(m, row)
    m.do("UPDATE transfers SET state = ?, phase = '' WHERE id = ?", JobState.DONE, transfer_id)
    _record(m, row, "copy.done")


def _apply(m: Moment, row: sqlite3.Row) -> None:
    """Give the destination the content, and the size, that the source had."""
    source = get_volume(m, row["source_region"], row["source_id"])
    m.do(
        "UPDATE volumes SET content = ?, size_bytes = max(size_bytes, ?), used_bytes = ?"
        " WHERE id = ?",
        row["content"],
        source["size_bytes"],
        source["used_bytes"],
        row["dest_id"],
    )
    set_status(m, row["dest_id"], VolumeStatus.AVAILABLE)


def _fail(m: Moment, row: sqlite3.Row) -> None:
    m.do(
        "UPDATE transfers SET state = ?, phase = '', detail = ? WHERE id = ?",
        JobState.FAILED,
        f"the connection between {row['source_region']} and {row['dest_region']} broke",
        row["id"],
    )
    if row["kind"] == VOLUME:
        incremental = bool(row["is_incremental"])
        status = VolumeStatus.AVAILABLE if incremental else VolumeStatus.ERROR
        set_status(m, row["dest_id"], status)
    _record(m, row, "copy.failed")


def _begin(
    m: Moment,
    kind: str,
    key: str,
    source_region: str,
    dest_region: str,
    *,
    source_id: str,
    dest_id: str | None = None,
    is_incremental: bool = False,
    content: str | None = None,
) -> None:
    transfer_id = m.new_id()
    m.insert(
        "transfers",
        id=transfer_id,
        kind=kind,
        key=key,
        source_region=source_region,
        dest_region=dest_region,
        source_id=source_id,
        dest_id=dest_id,
        is_incremental=is_incremental,
        content=content,
        state=JobState.RUNNING,
        phase="setup",
        rated_ms=m.at_ms,
    )
    m.schedule("transfer_setup", transfer_id, after_ms=m.duration_ms("copy_setup"))
    _record(m, _get(m, transfer_id), "copy.started")


def _bytes_to_send(m: Moment, row: sqlite3.Row) -> int:
    if row["kind"] == IMAGE:
        return image_size(m, row["source_region"], row["source_id"])
    source = get_volume(m, row["source_region"], row["source_id"])
    if row["is_incremental"]:
        base = get_volume(m, row["dest_region"], row["dest_id"])
        differing = differing_bytes(m, source, row["content"], base["content"])
        if differing is not None:
            size: int = source["size_bytes"]
            return min(differing, size)
    used: int = source["used_bytes"]
    image = m.row(
        "SELECT size_bytes FROM images WHERE region = ? AND name = ?",
        row["dest_region"],
        source["image"],
    )
    if image is None:
        return used
    # What the image brings is there already, except where it has been written over since.
    image_bytes: int = image["size_bytes"]
    return min(used, used - image_bytes + written_over_bytes(m, source, row["content"]))


# Sharing a link.


def _share_link(m: Moment, source_region: str, dest_region: str) -> None:
    """Divide the link's bandwidth anew among what is being sent over it now."""
    sending = m.rows(
        "SELECT * FROM transfers WHERE source_region = ? AND dest_region = ? AND phase = 'sending'",
        source_region,
        dest_region,
    )
    if not sending:
        return
    share = m.world.link(source_region, dest_region).bytes_per_s / len(sending)
    for row in sending:
        done = _bytes_done(m, row)
        m.do(
            "UPDATE transfers SET bytes_done = ?, rated_ms = ?, bytes_per_s = ? WHERE id = ?",
            done,
            m.at_ms,
            share,
            row["id"],
        )
        m.schedule(
            "transfer_sent", row["id"], after_ms=timing.sending_ms(_sends_up_to(row) - done, share)
        )


def _leave_link(m: Moment, row: sqlite3.Row) -> None:
    if row["phase"] == "sending":
        m.do("UPDATE transfers SET phase = '' WHERE id = ?", row["id"])
        _share_link(m, row["source_region"], row["dest_region"])


def _bytes_done(m: Moment, row: sqlite3.Row) -> int:
    done: int = row["bytes_done"]
    if row["phase"] != "sending":
        return done
    return min(
        _sends_up_to(row), done + int(row["bytes_per_s"] * (m.at_ms - row["rated_ms"]) / 1000)
    )


def _sends_up_to(row: sqlite3.Row) -> int:
    fails_at = row["fails_at_bytes"]
    end: int = row["bytes_total"] if fails_at is None else fails_at
    return end


def _need_two_regions(m: Moment, source_region: str, dest_region: str) -> None:
    m.region(source_region)
    m.region(dest_region)
    if source_region == dest_region:
        raise BadRequest(f"a copy goes from one region to another, not from {source_region} to it")


def _find(m: Moment, kind: str, dest_region: str, key: str) -> sqlite3.Row | None:
    return m.row(
        "SELECT * FROM transfers WHERE kind = ? AND dest_region = ? AND key = ?",
        kind,
        dest_region,
        key,
    )


def _get(m: Moment, transfer_id: str) -> sqlite3.Row:
    return m.rows("SELECT * FROM transfers WHERE id = ?", transfer_id)[0]


def _record(m: Moment, row: sqlite3.Row, kind: str) -> None:
    m.record(
        kind,
        region=row["dest_region"],
        resource_id=row["dest_id"] or row["source_id"],
        source_region=row["source_region"],
        source_id=row["source_id"],
        key=row["key"],
        bytes_total=row["bytes_total"],
    )
